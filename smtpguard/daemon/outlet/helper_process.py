"""The notifying process as the daemon has it: started with a socket as its only tie, ended with it.

It is a new program, not a fork: it has no memory of the daemon's, and the daemon none of what it loads. It is started
after privileges are gone, and gives up the rest by itself (notify/__main__.py).
"""

import contextlib
import os
import signal
import socket
from typing import Protocol

from smtpguard.daemon.outlet.frames import MAX_BYTES
from smtpguard.interpreter import module_argv, module_environment

_MODULE = "smtpguard.notify"
_DYING_S = 0.02
"""How long the loop may wait for one that was killed; it is reaped later else, with the next that is started."""


class AnyHelper(Protocol):
    """A notifying process, see HelperProcess."""

    @property
    def pid(self) -> int:
        """Its process."""
        ...

    def fileno(self) -> int:
        """Readable when it has said something, or has ended."""
        ...

    def send(self, packet: bytes) -> bool:
        """Hand over a packet; False where there is no room now. Raises OSError where it has ended."""
        ...

    def receive(self) -> bytes | None:
        """The next packet; None where there is none now, nothing in it where the process has ended."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether it has, by itself."""
        ...

    def end(self, *, patience_s: float = 0) -> None:
        """See that it is gone."""


class StartProcess(Protocol):
    """Starts one. Raises OSError."""

    def __call__(self) -> AnyHelper:
        """It."""
        ...


class HelperProcess:
    """One run of it.

    Raises:
        OSError: It can't be started.
    """

    def __init__(self) -> None:
        import subprocess  # where something is to be told at all

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        ours.settimeout(0)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    module_argv(_MODULE, str(theirs.fileno())),
                    env=module_environment(),
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
        except BaseException:
            ours.close()
            raise
        self._channel = ours

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable when it has said something, or has ended."""
        return self._channel.fileno()

    def send(self, packet: bytes) -> bool:
        """Hand over a packet; False where there is no room now. Raises OSError where it has ended."""
        try:
            self._channel.send(packet)
        except BlockingIOError:
            return False
        return True

    def receive(self) -> bytes | None:
        """The next packet; None where there is none now, nothing in it where the process has ended."""
        try:
            return self._channel.recv(MAX_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def end(self, *, patience_s: float = 0) -> None:
        """See that it is gone.

        Args:
            patience_s: How long it may take to end by itself, once it has been told or its socket is closed.
        """
        import subprocess

        self._channel.close()
        if patience_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.kill(self._process.pid, signal.SIGKILL)
            # One that is in the kernel, at a disk that hangs, is not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_DYING_S)

    @property
    def has_ended(self) -> bool:
        """Whether it has, by itself."""
        return self._process.poll() is not None

    @property
    def exit_code(self) -> int | None:
        """With which code it has ended; None while it runs."""
        return self._process.returncode
