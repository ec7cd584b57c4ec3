"""What keeps a network namespace without a name alive; see unshare(2) and prctl(2), PR_SET_PDEATHSIG."""

import os
import signal

from smtpguard.demo import namespaces
from smtpguard.errors import GuardError


class Holder:
    """A process that does nothing but keep a network namespace alive; it ends with us."""

    def __init__(self) -> None:
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._hold(tell)
        os.close(tell)
        try:
            if os.read(ready, 1) != b"+":
                os.waitpid(self.pid, 0)
                raise GuardError("can't make a network namespace", fix="run as root, with CAP_SYS_ADMIN")
        finally:
            os.close(ready)

    @property
    def path(self) -> str:
        """Path of the namespace, for setns(2) and `nsenter --net=`."""
        return f"/proc/{self.pid}/ns/net"

    @staticmethod
    def _hold(tell: int) -> None:
        try:
            namespaces.die_with_parent(signal.SIGKILL)
            namespaces.unshare(namespaces.CLONE_NEWNET)
            os.write(tell, b"+")
            os.closerange(3, 256)
            while True:
                signal.pause()
        finally:
            os._exit(1)

    def close(self) -> None:
        """End the holder; the namespace goes with its last process."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
