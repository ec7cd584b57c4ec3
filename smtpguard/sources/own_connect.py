"""A connect() of our own, to prove that a sensor sees one: of a datagram socket to loopback, so no packet is sent."""

import os
import socket


def make_connect(port: int, uid: int | None) -> int:
    """Connect in a child process, as another user if asked; returns the child's process id.

    Args:
        port: Which port; on 127.0.0.1.
        uid: As whom; None for ourselves.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as made:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                if uid is not None:
                    os.setresuid(uid, uid, uid)
                made.connect(("127.0.0.1", port))
                code = 0
            finally:
                os._exit(code)
        os.waitpid(pid, 0)
        return pid
