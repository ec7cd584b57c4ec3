"""Which process holds a socket, for sensors that see packets and not processes. Only workers call this.

It reads links below /proc/PID/fd, which the kernel answers from its own memory: no process and no file system can make
it hang. A socket that several processes hold (inherited, or passed on) is nobody's in particular: never guessed.
"""

import os
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from smtpguard.enrich.looker.procfs import Process
from smtpguard.hooks import ClockS

LIMIT_S = 0.03
"""Longest search; a host with 1,000 processes takes some 15 ms."""
MAX_FILES = 4096
"""Descriptors looked at in one process."""
_RECENT_PER_USER = 8
_RECENT_USERS = 256


class SocketOwnerFinder:
    """Finds holders, and looks first where it found one before.

    Args:
        proc: Where /proc is.
        clock: Seconds, for the limit.
    """

    def __init__(self, *, proc: Path = Path("/proc"), clock: ClockS = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._recent: OrderedDict[int, deque[int]] = OrderedDict()

    def find(self, inode: int, uids: Collection[int]) -> int | None:
        """The one process of these uids that holds a socket.

        Args:
            inode: The socket's, in sockfs.
            uids: The process has one of them.

        Returns:
            Its pid; None if there is none, more than one, or the search took too long.
        """
        target = b"socket:[%d]" % inode
        deadline = self._clock() + LIMIT_S
        holders: list[int] = []
        for pid in self._list_candidates(uids):
            if self._clock() > deadline:
                return None
            if self._holds(pid, uids, target):
                holders.append(pid)
                if len(holders) > 1:
                    return None
        if not holders:
            return None
        self._remember(min(uids), holders[0])
        return holders[0]

    def _list_candidates(self, uids: Collection[int]) -> Iterator[int]:
        """Pids of processes that may have one of the uids: recent holders, then the youngest first.

        The owner of /proc/PID is the process's effective uid, or root if it is not dumpable (PHP-FPM's workers).
        """
        recent = list(self._recent.get(min(uids), ()))
        yield from recent
        seen = set(recent)
        for pid in sorted((int(name) for name in os.listdir(self._proc) if name.isdigit()), reverse=True):  # noqa: PTH208
            if pid in seen:
                continue
            try:
                owner = os.stat(self._proc / str(pid)).st_uid  # noqa: PTH116 - as in Process
            except OSError:
                continue
            if owner == 0 or owner in uids:
                yield pid

    def _holds(self, pid: int, uids: Collection[int], target: bytes) -> bool:
        try:
            process = Process(pid, proc=self._proc)
        except OSError:
            return False
        with process:
            own = process.uids()
            if own is None or not set(own) & set(uids):
                return False
            return any(process.link(b"fd/" + name) == target for name in _list_files(process))

    def _remember(self, uid: int, pid: int) -> None:
        pids = self._recent.setdefault(uid, deque(maxlen=_RECENT_PER_USER))
        if pid in pids:
            pids.remove(pid)
        pids.appendleft(pid)
        self._recent.move_to_end(uid)
        if len(self._recent) > _RECENT_USERS:
            self._recent.popitem(last=False)


def _list_files(process: Process) -> list[bytes]:
    """Names of its descriptors, at most MAX_FILES; none if we may not look."""
    try:
        fd = process.open(b"fd", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        with os.scandir(fd) as entries:
            return [os.fsencode(entry.name) for entry in islice(entries, MAX_FILES)]
    except OSError:
        return []
    finally:
        os.close(fd)
