"""Files as a process sees them, through /proc/PID/root: named first, never followed out of it.

openat2(2) keeps absolute and `..` links inside the process's root (RESOLVE_IN_ROOT). A file system of the tenant's may
leave a look-up unanswered for ever: only workers call this.
"""

import ctypes
import errno
import os
import posixpath
import re
import stat
import struct

from smtpguard.enrich.looker.procfs import Process

MAX_PATH = 4096
_PRINTABLE = re.compile(rb"/[^\x00-\x1f\x7f]{1,%d}" % (MAX_PATH - 2))
_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_libc = ctypes.CDLL(None, use_errno=True)


def is_path(text: bytes) -> bool:
    """Whether this can be the path of a script: absolute, without control characters, not too long."""
    return _PRINTABLE.fullmatch(text) is not None


def join_path(folder: bytes | None, name: bytes) -> bytes | None:
    """A name as the process meant it: absolute, or relative to its directory; None if that isn't known."""
    if not name.startswith(b"/") and (folder is None or folder.endswith(b" (deleted)")):
        return None
    joined = b"/" + posixpath.normpath(posixpath.join(folder or b"/", name)).lstrip(b"/")
    return joined if is_path(joined) else None


def exists(process: Process, path: bytes) -> bool:
    """Whether a path names a regular file (or a link) in the process's own root. Can hang for ever."""
    try:
        fd = open_in_root(process, path)
    except OSError:
        return False
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    finally:
        os.close(fd)
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def open_in_root(process: Process, path: bytes, flags: int = os.O_PATH) -> int:
    """A descriptor of what a path names in the process's own root; raises OSError. Can hang for ever.

    Args:
        process: Whose root.
        path: Absolute.
        flags: O_PATH, which only names it, unless it is known to be a folder. The last part is never followed.
    """
    root = process.open(b"root", os.O_PATH | os.O_DIRECTORY)
    try:
        return _open_below(root, path.lstrip(b"/") or b".", flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    finally:
        os.close(root)


def _open_below(root: int, relative: bytes, flags: int) -> int:
    how = struct.pack("<QQQ", flags, 0, _RESOLVE_NO_MAGICLINKS | _RESOLVE_IN_ROOT)
    fd: int = _libc.syscall(_SYS_OPENAT2, root, ctypes.c_char_p(relative), ctypes.c_char_p(how), ctypes.c_size_t(24))
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    if code == errno.ENOSYS:  # before 5.6: links may lead out of the root, to a file that we only name as well
        return os.open(relative, flags, dir_fd=root)
    raise OSError(code, os.strerror(code))
