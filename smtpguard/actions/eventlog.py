"""The event log: every event that has a user becomes one line, written by a thread of its own.

The caller renders and hands over; only the thread touches the file, so that a disk that hangs delays no verdict. What
waits is bounded, CONNECT lines may use half of it, and what is dropped is counted. CONNECT lines are held to a budget
per user (suppression.py).
"""

import queue
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smtpguard.actions.logfile import CHECK_NS, LogFile
from smtpguard.actions.suppression import Suppression
from smtpguard.errors import LogError
from smtpguard.hooks import ClockNs
from smtpguard.kernel.lasting_thread import start_lasting
from smtpguard.logline import (
    render_allow,
    render_block,
    render_connect,
    render_exceeded,
    render_message,
    render_suppressed,
    render_unblock,
)
from smtpguard.model import NS, Account, Block, Connect, Message, Verdict

if TYPE_CHECKING:
    import threading

    from smtpguard.actions.journal_log import JournalLog

MAX_QUEUED_LINES = 20_000
_REOPEN = (b"", True)
_CLOSE = (b"", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStats:
    """The log as `status` shows it.

    Attributes:
        path: Where it is.
        written: Lines in the file.
        waiting: Lines on their way to it.
        dropped: Lines given up, because the disk hung or was full for too long, or the journal took none.
        suppressed: CONNECT lines replaced by SUPPRESSED lines.
        failed: Writes that failed.
        error: The failure that lasts, of the file or the journal; None when all is well.
    """

    path: str
    written: int
    waiting: int
    dropped: int
    suppressed: int
    failed: int
    error: str | None


class EventLog:
    """The log and its thread. All methods are for the thread that made it, and none waits for the disk.

    Args:
        path: Absolute path of the file.
        connects: Whether CONNECT lines are written.
        journal: systemd's journal, which gets every line too; None if it does not.
        monotonic: A clock in nanoseconds that never goes back.
    """

    def __init__(
        self,
        path: str,
        *,
        connects: bool = True,
        journal: "JournalLog | None" = None,
        monotonic: ClockNs = time.monotonic_ns,
    ) -> None:
        self._journal = journal
        self._file = LogFile(path, monotonic=monotonic)
        self._connects = connects
        self._suppression = Suppression()
        self._queue: queue.SimpleQueue[tuple[bytes, bool]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._dropped = 0
        self._failed_lines = 0  # counted by the thread

    def open(self) -> None:
        """Open the file and begin.

        Raises:
            LogError: The file can't be had. The log may be used all the same: it keeps trying.
        """
        try:
            self._file.open()
        except LogError as failure:
            self._file.error = str(failure)  # known before the first line is to be written
            raise
        finally:
            self._thread = start_lasting("event-log", self._run)
            if self._journal is not None:
                self._journal.open()

    def write_connect(
        self, connect: Connect, account: Account, *, wall_ns: int, now_ns: int, highest_limit: int
    ) -> None:
        """CONNECT, within the user's budget.

        Args:
            connect: The attempt.
            account: Whose it is.
            wall_ns: When it was, nanoseconds since the epoch.
            now_ns: The daemon's time, for the budget.
            highest_limit: The highest limit of this user's rules (`suppression.highest_limit`).
        """
        refused = connect.result == "refused"
        if self._connects and self._suppression.admit(account, now_ns, highest_limit, refused=refused):
            line = render_connect(connect, account, wall_ns)
            self._suppression.charge(account, len(line), refused=refused)
            self._put(line, important=False)

    def write_exceeded(self, verdict: Verdict, *, wall_ns: int) -> None:
        """EXCEEDED."""
        self._put(render_exceeded(verdict, wall_ns))

    def write_block(
        self, block: Block, account: Account, *, wall_ns: int, until_wall_ns: int, by: str | None = None
    ) -> None:
        """BLOCK."""
        self._put(render_block(block, account, wall_ns, until_wall_ns, by=by))

    def write_extended(self, block: Block, account: Account, *, wall_ns: int, until_wall_ns: int) -> None:
        """EXTENDED."""
        self._put(render_block(block, account, wall_ns, until_wall_ns, event="EXTENDED"))

    def write_unblock(self, block: Block, account: Account, *, wall_ns: int, by: str, reason: str = "") -> None:
        """UNBLOCK."""
        self._put(render_unblock(block, account, wall_ns, by=by, reason=reason))

    def write_allow(self, account: Account, *, wall_ns: int, until_wall_ns: int, by: str, reason: str = "") -> None:
        """ALLOW."""
        self._put(render_allow(account, wall_ns, until_wall_ns, by=by, reason=reason))

    def write_message(self, message: Message, account: Account, *, wall_ns: int) -> None:
        """MESSAGE."""
        self._put(render_message(message, account, wall_ns), important=False)

    def tick(self, *, now_ns: int, wall_ns: int) -> None:
        """Write the SUPPRESSED lines that are due."""
        for due in self._suppression.tick(now_ns):
            self._put(render_suppressed(due.account, wall_ns, count=due.count, seconds=due.seconds))

    def next_deadline(self) -> int | None:
        """When `tick` wants to be called (the time of `now_ns`); None for never."""
        return self._suppression.next_deadline()

    def reopen(self) -> None:
        """Open the path anew before the next line (SIGHUP)."""
        self._queue.put(_REOPEN)

    def stats(self) -> LogStats:
        """The figures for `status`."""
        file, journal = self._file, None if self._journal is None else self._journal.stats()
        return LogStats(
            path=file.path,
            written=file.written,
            waiting=self._queue.qsize() + file.waiting,
            dropped=file.dropped + self._dropped + self._failed_lines + (0 if journal is None else journal.dropped),
            suppressed=self._suppression.suppressed,
            failed=file.failed,
            error=file.error or (None if journal is None else journal.error),
        )

    def close(self, *, wall_ns: int, timeout_s: float = 2.0) -> bool:
        """Write what waits, SUPPRESSED lines included, and end the thread.

        Args:
            wall_ns: Now, nanoseconds since the epoch.
            timeout_s: How long to wait for the disk.

        Returns:
            Whether the thread ended in time; if not, it ends with the process.
        """
        for due in self._suppression.close():
            self._put(render_suppressed(due.account, wall_ns, count=due.count, seconds=due.seconds))
        if self._thread is None:
            return True
        if self._journal is not None:
            self._journal.close()
        self._queue.put(_CLOSE)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, text: str, *, important: bool = True) -> None:
        line = text.encode("ascii")
        if self._journal is not None:
            self._journal.put(line, important=important)
        if self._queue.qsize() * (1 if important else 2) >= MAX_QUEUED_LINES:
            self._dropped += 1
            return
        self._queue.put((line, important))

    def _run(self) -> None:
        """The thread: sleeps until there is a line; wakes once a second only while a write is to be tried again."""
        file = self._file
        while True:
            try:
                item = self._queue.get(timeout=CHECK_NS / NS if file.waiting else None)
            except queue.Empty:
                file.retry()
                continue
            if item is _CLOSE:
                file.close()
                return
            if item is _REOPEN:
                file.reopen()
                continue
            written = False
            try:
                file.write(item[0], important=item[1])
                written = True
            finally:
                self._failed_lines += not written
