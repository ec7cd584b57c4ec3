"""Wake-ups when files change: inotify(7) through the C library. Says that something happened, never what.

What an event says may be old by the time it is read; whoever is woken looks at the files themselves.
"""

import contextlib
import ctypes
import os

from smtpguard.errors import SourceError

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
FILE_CHANGES = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF
DIRECTORY_CHANGES = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_MOVE_SELF | IN_DELETE_SELF
_READ_BYTES = 1 << 16


class Inotify:
    """One inotify instance. Raises SourceError if the kernel has none left."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fileno: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fileno < 0:
            raise SourceError(
                f"no inotify: {os.strerror(ctypes.get_errno())}",
                where="inotify",
                fix="raise fs.inotify.max_user_instances",
            )

    def watch(self, path: str, changes: int) -> int | None:
        """Be woken when a path changes; the watch, or None if the path is not there (polling goes on anyway)."""
        watch: int = self._libc.inotify_add_watch(self.fileno, os.fsencode(path), changes)
        return watch if watch >= 0 else None

    def watch_file(self, fileno: int) -> int | None:
        """Be woken when an open file changes, whatever name it has by now."""
        return self.watch(f"/proc/self/fd/{fileno}", FILE_CHANGES)

    def unwatch(self, watch: int | None) -> None:
        """End a watch; it may be gone already."""
        if watch is not None:
            self._libc.inotify_rm_watch(self.fileno, watch)

    def drain(self) -> None:
        """Forget what happened so far."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fileno, _READ_BYTES):
                pass

    def close(self) -> None:
        """End it; may be called twice."""
        if self.fileno >= 0:
            os.close(self.fileno)
            self.fileno = -1
