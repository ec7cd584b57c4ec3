"""Follows a log file through rotation: what is appended to it comes once, whatever becomes of its name.

- *Renamed, deleted and made anew*: the open file is read to its end before the new one is followed. A writer has left
  the old file when the first byte stands in a newer one, so the end is looked at once more after that.
- *Renamed again before we looked*: files that came in between are found beside it, by the stamps of their first lines.
- *Copied and truncated*: the rest of the copy is read, from where we were. What the writer wrote between the end of the
  copying and the truncation is in no file any more: the race of copytruncate itself.
- *Absent*, at first or later, or in a directory that was renamed: it is waited for.

Looks at the files at each read; inotify only wakes. Never changes a file.
"""

import contextlib
import os
import re
import stat
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smtpguard.errors import SourceError
from smtpguard.sources.inotify import DIRECTORY_CHANGES, Inotify

_HEAD_BYTES = 512
_MAX_SIBLINGS = 1000
_PACKED = frozenset({".gz", ".xz", ".bz2", ".zst", ".lz4", ".Z"})
Stamp = tuple[float, int]


@dataclass(slots=True)
class _OpenFile:
    """An open file.

    Attributes:
        fileno: Its descriptor.
        identity: Device and inode.
        position: How far it was read.
        head: Its first bytes, by which a cut is told from growth.
        stamp: What its first line says; None while it has none.
    """

    fileno: int
    identity: tuple[int, int]
    position: int = 0
    head: bytes = b""
    stamp: Stamp | None = None


class FollowedLog:
    """The follower.

    Args:
        path: The log.
        stamp: Finds a line's time (group 1) and serial (group 2), which grow from line to line.
        at_end: Begin with what is appended from now on; False begins with what is there.

    Attributes:
        rotations: How often another file was followed.
        truncations: How often the file was cut.
    """

    def __init__(self, path: str, *, stamp: re.Pattern[bytes], at_end: bool = True) -> None:
        self.path = Path(path)
        self.rotations = 0
        self.truncations = 0
        self._stamp = stamp
        self._inotify = Inotify()
        self._watch: int | None = None
        self._directory: tuple[int, int] | None = None
        self._newest: Stamp = (time.time(), 0)  # first line of the newest file that was followed
        self._present: _OpenFile | None = None
        self._next: deque[_OpenFile] = deque()  # what follows the present file
        self._leaving = False
        self._in_line = False  # what was read last is no whole line
        self._cut_line = False  # and what follows is not its rest
        try:
            file = self._open(self.path)
            if file is not None:
                self._newest = file.stamp or self._newest
                self._follow(file, at_end=at_end)
        except BaseException:
            self.close()
            raise
        self._watch_directory()

    @property
    def fileno(self) -> int:
        """Readable when something may have changed."""
        return self._inotify.fileno

    @property
    def is_absent(self) -> bool:
        """Whether there is no file at all."""
        return self._present is None

    def close(self) -> None:
        """Close everything; may be called twice."""
        for file in (self._present, *self._next):
            if file is not None:
                os.close(file.fileno)
        self._present = None
        self._next.clear()
        self._inotify.close()

    def drain(self) -> None:
        """Forget wake-ups; call it before reading."""
        self._inotify.drain()

    def refresh(self) -> None:
        """See to it that wake-ups come from the directory that has the name now; call it about once a second."""
        self._watch_directory()

    def read(self, room: memoryview) -> int:
        """Put what comes next into `room`; how many bytes, 0 if there is nothing now. Raises SourceError."""
        while True:
            file = self._present
            if file is None and not self._find_first():
                return 0
            if file is None:
                continue
            if not self._leaving and self._was_cut(file):
                continue
            if self._cut_line:
                self._cut_line = False
                if self._in_line:
                    self._in_line = False
                    room[:1] = b"\n"
                    return 1
                continue
            count = self._read(file, room)
            if count or not self._move_on(file):
                return count

    def _read(self, file: _OpenFile, room: memoryview) -> int:
        try:
            count = os.preadv(file.fileno, [room], file.position)
        except OSError as error:
            raise SourceError(f"can't be read: {error.strerror}", where=str(self.path)) from error
        if count:
            file.position += count
            self._in_line = room[count - 1] != 0x0A
            if len(file.head) < _HEAD_BYTES:
                self._look_at_head(file)
        return count

    def _was_cut(self, file: _OpenFile) -> bool:
        """Whether it was truncated. The rest of the copy that was made of it comes next, then its new beginning."""
        size = os.fstat(file.fileno).st_size
        if size >= file.position and os.pread(file.fileno, len(file.head), 0) == file.head:
            return False
        self.truncations += 1
        copy = self._find_copy(file)
        file.head, file.stamp, file.position = b"", None, 0
        # A writer that does not append leaves a hole before its next line.
        with contextlib.suppress(OSError):
            file.position = os.lseek(file.fileno, 0, os.SEEK_DATA)
        self._look_at_head(file)
        if copy is None:
            self._cut_line = True
        else:
            self._next.appendleft(file)
            self._present = copy
            self._leaving = True  # nobody writes to a copy
        return True

    def _move_on(self, file: _OpenFile) -> bool:
        """At the end of the present file: whether to read on, in a newer one or this one once more."""
        if not self._leaving:
            # Whoever wrote to a newer file has left this one, and what they wrote here last is here by now.
            self._leaving = self._find_newer(file)
            return self._leaving
        self._inotify.unwatch(self._watch)
        os.close(file.fileno)
        self._follow(self._next.popleft(), at_end=False)
        self._leaving = bool(self._next)
        self._cut_line = True
        return True

    def _find_first(self) -> bool:
        """Is there a file now? One that was made since we began is read from its beginning."""
        file = self._open(self.path)
        if file is None:
            return False
        self._follow(file, at_end=file.stamp is not None and file.stamp < self._newest)
        return True

    def _find_newer(self, file: _OpenFile) -> bool:
        """Put the files that came after this one, and have something in them, into `_next`; False if there are none.

        While the newest is empty its writer may still write to the one before it.
        """
        try:
            status = self.path.stat()
        except OSError:
            return False
        if (status.st_dev, status.st_ino) == file.identity:
            return False
        newest = self._open(self.path)
        if newest is None:
            return False
        known = {file.identity, newest.identity}
        between = [
            other
            for other in self._open_siblings()
            if self._keep(other, other.identity not in known and (other.stamp or self._newest) > self._newest)
        ]
        between.sort(key=lambda other: other.stamp or self._newest)
        self._next.extend(between)
        if self._keep(newest, bool(newest.head)):
            if newest.stamp is not None and newest.stamp < self._newest:
                newest.position = os.fstat(newest.fileno).st_size  # an old file was put there
            self._next.append(newest)
        self.rotations += len(self._next)
        return bool(self._next)

    def _find_copy(self, file: _OpenFile) -> _OpenFile | None:
        """The copy that was made of a file before it was cut, at the place where we were."""
        copy = None
        for other in self._open_siblings():
            fits = len(file.head) > 0 and other.head == file.head and other.identity != file.identity
            if self._keep(other, fits and copy is None and os.fstat(other.fileno).st_size > file.position):
                copy = other
        if copy is not None:
            copy.position = file.position
        return copy

    def _follow(self, file: _OpenFile, *, at_end: bool) -> None:
        if at_end:
            file.position = os.fstat(file.fileno).st_size
        self._present = file
        self._watch = self._inotify.watch_file(file.fileno)
        self._note_stamp(file)

    def _look_at_head(self, file: _OpenFile) -> None:
        file.head = os.pread(file.fileno, _HEAD_BYTES, 0)
        found = self._stamp.search(file.head)
        file.stamp = (float(found[1]), int(found[2])) if found else None
        if file is self._present:
            self._note_stamp(file)

    def _note_stamp(self, file: _OpenFile) -> None:
        if file.stamp is not None:
            self._newest = max(self._newest, file.stamp)

    def _open(self, path: Path) -> _OpenFile | None:
        """Open a regular file; None if there is none of that name."""
        try:
            fileno = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceError(f"can't be opened: {error.strerror}", where=str(path)) from error
        status = os.fstat(fileno)
        if not stat.S_ISREG(status.st_mode):
            os.close(fileno)
            raise SourceError("is not a file", where=str(path))
        file = _OpenFile(fileno, (status.st_dev, status.st_ino))
        self._look_at_head(file)
        return file

    def _open_siblings(self) -> Iterator[_OpenFile]:
        """The files beside the log whose names begin with its name: what it was renamed or copied to."""
        prefixes = (f"{self.path.name}.", f"{self.path.name}-")
        try:
            beside = sorted(path for path in self.path.parent.iterdir() if path.name.startswith(prefixes))
        except OSError:
            return
        for path in beside[:_MAX_SIBLINGS]:
            if path.suffix in _PACKED:
                continue
            with contextlib.suppress(SourceError):
                file = self._open(path)
                if file is not None:
                    yield file

    @staticmethod
    def _keep(file: _OpenFile, wanted: bool) -> bool:
        """Close a file unless it is wanted."""
        if not wanted:
            os.close(file.fileno)
        return wanted

    def _watch_directory(self) -> None:
        try:
            status = self.path.parent.stat()
        except OSError:
            self._directory = None
            return
        identity = (status.st_dev, status.st_ino)
        if identity != self._directory:
            self._inotify.watch(str(self.path.parent), DIRECTORY_CHANGES)
            self._directory = identity
