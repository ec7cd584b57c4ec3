"""A connect() of our own, to prove that a sensor sees one: of a datagram socket to loopback, so no packet is sent."""

import os
import socket

from smtpguard.errors import PrivilegeError

_CANNOT_BECOME = 2


def make_connect(port: int, uid: int | None) -> int:
    """Connect in a child process, as another user if asked; returns the child's process id.

    Args:
        port: Which port; on 127.0.0.1.
        uid: As whom; None for ourselves.

    Raises:
        PrivilegeError: We may not become that user.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as made:
        pid = os.fork()
        if pid == 0:
            code = _CANNOT_BECOME
            try:
                if uid is not None:
                    os.setresuid(uid, uid, uid)
                code = 1  # the call is logged whatever becomes of it
                made.connect(("127.0.0.1", port))
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) == _CANNOT_BECOME:
        raise PrivilegeError(f"self-test: can't connect as uid {uid}", where="audit.uid", fix="CAP_SETUID")
    return pid
