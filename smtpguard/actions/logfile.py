"""An append-only file of lines that survives rotation, full disks and hostile neighbours.

One write(2) a line with O_APPEND, so that lines of several writers never mix. The file is opened O_NOFOLLOW, below
directories that only root (or we) can change, and must be a plain file of ours with one name. It never raises after
`open`: what can't be written is kept, within bounds, and tried again; what is dropped is counted. A short write is
taken back. Where that is not allowed (an append-only file), the rest follows before anything else, or, if the file was
swapped meanwhile, the whole line begins the new file.
"""

import errno
import logging
import os
import stat
import time
from collections import deque
from pathlib import Path

from smtpguard.errors import LogError
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.safe_files import make_directory

CHECK_NS = NS
"""How often the path is compared with the open file, and a failed write is tried again."""
MAX_BACKLOG_LINES = 20_000
MAX_BACKLOG_BYTES = 8 * 1024 * 1024
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MODE = 0o640
_DIRECTORY_MODE = 0o750

_log = logging.getLogger("smtpguard.log")


class LogFile:
    """The file. Not for use by several threads at once.

    Args:
        path: Absolute path.
        monotonic: A clock in nanoseconds that never goes back.

    Attributes:
        written: Lines that are in the file, whole.
        failed: Calls to the kernel that failed.
        short: Writes that took only a part of a line.
        dropped: Lines given up because the backlog was full, or that were left at `close`.
        reopened: Times the file was opened anew.
        error: The last failure, while it lasts; None when all is well.
    """

    def __init__(self, path: str, *, monotonic: ClockNs = time.monotonic_ns) -> None:
        self.path = path
        self.written = 0
        self.failed = 0
        self.short = 0
        self.dropped = 0
        self.reopened = 0
        self.error: str | None = None
        self._monotonic = monotonic
        self._fd: int | None = None
        self._identity: tuple[int, int] | None = None
        self._checked_ns = 0
        self._retry_ns: int | None = None
        self._astray = False  # the path leads to what could not be opened
        self._after_newline = True
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._begun = 0  # bytes of the first line of the backlog that are in the file already

    @property
    def waiting(self) -> int:
        """Lines in the backlog."""
        return len(self._backlog)

    def open(self) -> None:
        """Create or open the file.

        Raises:
            LogError: The path is not safe, not a plain file of ours, or the kernel refused.
        """
        self._astray = True
        make_directory(str(Path(self.path).parent), _DIRECTORY_MODE, error=LogError, shared=True)
        try:
            fd = os.open(self.path, _FLAGS, _MODE)
        except OSError as failure:
            link = failure.errno == errno.ELOOP
            raise LogError(
                "a symbolic link is not followed" if link else f"can't be opened: {failure.strerror}",
                where=self.path,
                fix="remove it" if link else None,
            ) from failure
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_uid not in (0, os.geteuid()) or about.st_nlink != 1:
            os.close(fd)
            raise LogError("not a plain file of ours with one name", where=self.path, fix="move it away")
        self._fd, self._astray = fd, False
        self._identity = (about.st_dev, about.st_ino)
        self._after_newline = _ends_with_newline(self.path, about.st_size)
        self._begun = 0
        self._checked_ns = self._monotonic()

    def write(self, line: bytes, *, important: bool = True) -> bool:
        """Append one line.

        Args:
            line: The line without its newline.
            important: May use all of the backlog; others may use half of it.

        Returns:
            Whether it is in the file now; if not, it is in the backlog, or dropped and counted.
        """
        share = 1 if important else 2
        if len(self._backlog) * share >= MAX_BACKLOG_LINES or self._backlog_bytes * share >= MAX_BACKLOG_BYTES:
            self.dropped += 1
            self.retry()
            return False
        self._backlog.append(line + b"\n")
        self._backlog_bytes += len(line) + 1
        return self.retry()

    def retry(self) -> bool:
        """Write what waits, if it is time to.

        Returns:
            Whether nothing waits any more.
        """
        now_ns = self._monotonic()
        if self._retry_ns is not None and now_ns < self._retry_ns:
            return False
        if now_ns - self._checked_ns >= CHECK_NS:
            self._follow_path(now_ns)
        while self._backlog:
            if not self._write_first():
                self._retry_ns = now_ns + CHECK_NS
                return False
        if self._astray:
            self._retry_ns = now_ns + CHECK_NS if self._fd is None else None
            return True
        if self.error is not None:
            _log.warning("%s: written again; %d lines were dropped so far", self.path, self.dropped)
        self._retry_ns = self.error = None
        return True

    def reopen(self) -> None:
        """Open the path anew (SIGHUP, after a rotation); on failure the old file stays in use."""
        old_fd = self._fd
        try:
            self.open()
        except LogError as failure:
            self._fail(str(failure))
            return
        self.reopened += 1
        if old_fd is not None:
            os.close(old_fd)

    def close(self) -> None:
        """Write what can be written, count the rest as dropped, and close."""
        self._retry_ns = None
        self.retry()
        self.dropped += len(self._backlog)
        self._backlog.clear()
        self._backlog_bytes = 0
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _follow_path(self, now_ns: int) -> None:
        """Open anew if the path no longer leads to the open file."""
        self._checked_ns = now_ns
        try:
            about = os.lstat(self.path)
        except OSError:
            self.reopen()
            return
        if self._fd is None or (about.st_dev, about.st_ino) != self._identity:
            self.reopen()

    def _write_first(self) -> bool:
        if self._fd is None:
            return False
        line = self._backlog[0]
        if self._begun and os.fstat(self._fd).st_size == 0:
            self._begun, self._after_newline = 0, True  # truncated by a rotation that copies
        parting = b"" if self._after_newline or self._begun else b"\n"
        data = parting + line[self._begun :]
        count = 0
        try:
            while count < len(data):
                count += os.write(self._fd, data[count:] if count else data)
                self.short += count < len(data)  # written on: the next answer says why
        except OSError as failure:
            self._fail(f"{self.path}: can't be written: {failure.strerror}")
            if count and not self._take_back(self._fd, count):
                self._begun += max(0, count - len(parting))
                self._after_newline = self._begun == 0
            return False
        self._backlog.popleft()
        self._backlog_bytes -= len(line)
        self._begun = 0
        self._after_newline = True
        self.written += 1
        return True

    def _take_back(self, fd: int, count: int) -> bool:
        """Undo a short write: a rotation or our end would leave half a line. False for a file of chattr(1) +a."""
        try:
            os.ftruncate(fd, os.fstat(fd).st_size - count)
        except OSError:
            return False
        return True

    def _fail(self, text: str) -> None:
        self.failed += 1
        if self.error is None:
            _log.error("%s; lines are kept and tried again", text)
        self.error = text


def _ends_with_newline(path: str, size: int) -> bool:
    """Whether a new line may begin at once; what we may not read is taken to end well."""
    if size == 0:
        return True
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        return os.pread(fd, 1, size - 1) == b"\n"
    except OSError:
        return True
    finally:
        os.close(fd)
