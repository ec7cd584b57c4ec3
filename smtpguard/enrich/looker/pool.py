"""The helper processes as the daemon holds them: one socket each, and the fork-server that makes more of them.

Knows nothing of questions and never waits. A helper's process has ended when its socket has: nobody else holds the
other end. So no pid is kept, and a helper that hangs in the kernel is simply a socket that stays silent.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import time
from dataclasses import dataclass

from smtpguard.enrich.looker.fork_server import SPARE, WORKER, fork_spawner
from smtpguard.enrich.looker.protocol import MAX_PACKET
from smtpguard.enrich.looker.worker import LoadAnswer
from smtpguard.errors import SourceError

log = logging.getLogger(__name__)

_CLOSE_S = 0.5
_SPARE_PAUSE_S = 1.0
"""Between two spares at least: whoever kills them all the time gets no fork bomb."""
_START_S = 2.0
_ENDED = "the fork-server has ended"


@dataclass(slots=True, eq=False)
class Helper:
    """Our end of a worker: idle, busy with a ticket, or abandoned.

    Attributes:
        channel: SOCK_SEQPACKET, non-blocking.
        lane: Which kind of question it answers.
        owner: Uid that is charged for the ticket.
        ticket: Question it works on; 0 when it has none.
        due_ns: When it is abandoned.
        abandoned: Nobody waits for it; it may come back.
    """

    channel: socket.socket
    lane: str
    owner: int = -1
    ticket: int = 0
    due_ns: int = 0
    abandoned: bool = False

    @property
    def idle(self) -> bool:
        """Whether it can take a question."""
        return not self.ticket and not self.abandoned

    def late(self, now_ns: int) -> bool:
        """Whether it is to be abandoned now."""
        return bool(self.ticket) and not self.abandoned and self.due_ns <= now_ns

    def send(self, packet: bytes) -> None:
        """Hand it a question; if its process has just ended, `HelperPool.receive` will say so."""
        with contextlib.suppress(OSError):
            self.channel.send(packet)

    def receive(self) -> bytes | None:
        """What it sent: a packet, empty bytes if its process has ended, None if there is nothing (yet)."""
        try:
            return self.channel.recv(MAX_PACKET)
        except BlockingIOError:
            return None
        except OSError:
            return b""


class HelperPool:
    """All helpers.

    Args:
        load: Gives what a worker does; called in the fork-server, as it begins.
        limit_s: A worker's own alarm clock.

    Attributes:
        helpers: The helpers there are, by descriptor.
        off: Why there can't be helpers; "" while there can.
    """

    def __init__(self, load: LoadAnswer, *, limit_s: float) -> None:
        self.helpers: dict[int, Helper] = {}
        self.off = "not started"
        self._load = load
        self._limit_s = limit_s
        self._control: socket.socket | None = None
        self._spawner = 0
        self._spare: socket.socket | None = None
        self._spared = -_SPARE_PAUSE_S
        self._poll = select.epoll()

    def start(self) -> None:
        """Fork the fork-server and wait until it is ready; raises SourceError if the kernel refuses."""
        try:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._spawner = fork_spawner(theirs, self._load, limit_s=self._limit_s)
        except OSError as error:
            raise SourceError(
                f"no helper to look at processes: {error}", fix="look at free memory, ulimit -u"
            ) from error
        theirs.close()
        self._control.settimeout(_START_S)
        with contextlib.suppress(OSError):  # a slow one is late with its first answers, no more
            self._control.recv(MAX_PACKET)
        self._control.settimeout(0)
        self._poll.register(self._control, select.EPOLLIN)
        self.off = ""
        self._want_spare()

    def close(self) -> None:
        """End all helpers without waiting for any that hangs; may be called twice."""
        for helper in list(self.helpers.values()):
            self.remove(helper)
        self._drop_spawner(self.off or "closed")
        self._poll.close()

    def fileno(self) -> int:
        """One descriptor for all, readable when `ready` has something."""
        return self._poll.fileno()

    def add(self, lane: str) -> Helper | None:
        """One more helper for a lane; the fork-server forks it while we go on. None if there can be none."""
        self._want_spare()
        ours = self._fork(WORKER)
        if ours is None:
            self._drop_spawner(_ENDED)
            ours = self._fork(WORKER)  # by the spare
        if ours is None:
            return None
        helper = self.helpers[ours.fileno()] = Helper(ours, lane)
        return helper

    def _fork(self, what: bytes) -> socket.socket | None:
        """Our end of a new process, which the fork-server forks while we go on; None if it has ended."""
        if self._control is None:
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(self._control, [what], [theirs.fileno()])
            except OSError:
                ours.close()
                return None
        ours.settimeout(0)
        self._poll.register(ours, select.EPOLLIN)
        return ours

    def _want_spare(self) -> None:
        """See that there is somebody to take the fork-server's place."""
        if self._spare is None and time.monotonic() - self._spared >= _SPARE_PAUSE_S:
            self._spared = time.monotonic()
            self._spare = self._fork(SPARE)

    def remove(self, helper: Helper) -> None:
        """Let a helper go: it ends when it next looks at its socket."""
        fd = helper.channel.fileno()
        del self.helpers[fd]
        self._poll.unregister(fd)
        helper.channel.close()

    def ready(self) -> list[Helper]:
        """The helpers that have something to `receive`."""
        fds = [fd for fd, _events in self._poll.poll(0)]
        if self._spare is not None and self._spare.fileno() in fds and _has_ended(self._spare):
            self._drop_spare()
        if self._control is not None and self._control.fileno() in fds and _has_ended(self._control):
            self._drop_spawner(_ENDED)
        self._want_spare()
        return [self.helpers[fd] for fd in fds if fd in self.helpers]

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._poll.unregister(self._spare)
            self._spare.close()
            self._spare = None

    def _drop_spawner(self, why: str) -> None:
        """The fork-server has ended, and its workers with it: its spare takes its place, or everybody can see why."""
        if self._control is not None:
            self._poll.unregister(self._control)
            self._control.close()
            self._control = None
            self._reap()
        if why == "closed":
            self._drop_spare()
        elif self._spare is not None:
            self._control, self._spare = self._spare, None
            log.warning("%s: its spare has taken its place", why)
            return
        elif not self.off:
            log.error("processes are not looked at any more: %s (restart the guard)", why)
        self.off = why

    def _reap(self) -> None:
        """Wait for the fork-server, which never looks at anything and so ends at once; kill it if it should not.

        One that was a spare is no child of ours.
        """
        if not self._spawner:
            return
        for kill in (False, True):
            with contextlib.suppress(OSError):  # reaped by somebody else, or no right to kill
                if kill:
                    os.kill(self._spawner, signal.SIGKILL)
                deadline = time.monotonic() + _CLOSE_S
                while time.monotonic() < deadline:
                    if os.waitpid(self._spawner, os.WNOHANG)[0]:
                        self._spawner = 0
                        return
                    time.sleep(0.001)
        self._spawner = 0


def _has_ended(control: socket.socket) -> bool:
    """Whether a readable control socket tells of the fork-server's end; else it was late to say that it is ready."""
    try:
        return not control.recv(MAX_PACKET)
    except OSError:
        return True
