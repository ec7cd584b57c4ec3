"""Reading files that only root (or the caller) can have written: every step of the way is looked at, THREATS 20.

Directories are opened one below the other with openat(2), O_NOFOLLOW, and their owners checked on the descriptor, so
that nobody can exchange one between the look and the use. Nothing is read from a file whose owner is somebody else.
"""

import os
import stat
from pathlib import Path

from smtpguard.errors import ConfigError

_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO somebody put there must not wait for its writer.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def read_trusted(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """The content of a file that only root or the caller may write, as may every directory above it.

    A sticky directory above (/tmp) is fine: there only the owner of a name can replace it. Symbolic links in the
    directory part are resolved first, and the way they lead to is checked; the file itself must not be one.

    Args:
        path: The file.
        max_bytes: Longest file that is read.

    Raises:
        FileNotFoundError: There is no such file, or no such directory.
        ConfigError: Somebody else could have written it, it is too large, not a file, or can't be read.
    """
    parent, name = os.path.split(path)
    if "\0" in os.fspath(path):
        raise ConfigError("is no file name: it holds a NUL byte", where=ascii(path))
    where = os.path.join(os.path.realpath(parent), name)  # noqa: PTH118 - `name` may be empty
    try:
        directory = _open_directory(os.path.realpath(parent))
        try:
            descriptor = _open_file(directory, name, where)
        finally:
            os.close(directory)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"no such file: {where}") from None
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", where=where) from error
    if len(content) > max_bytes:
        raise ConfigError(f"is longer than {max_bytes} bytes", where=where)
    return content


def find_distrust(status: os.stat_result, *, sticky_is_fine: bool = False) -> str | None:
    """Why the owner or mode of something lets others write it; None if only root and the caller can.

    Args:
        status: Of the file or directory, from its descriptor.
        sticky_is_fine: For directories: a sticky bit makes up for others' right to write.
    """
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to uid {status.st_uid}, not to root or to you"
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS_WRITE and not (sticky_is_fine and mode & stat.S_ISVTX):
        return f"can be written by others (mode {mode:04o})"
    return None


def _open_directory(path: str) -> int:
    """A descriptor of a directory, every part of the way checked. `path` is absolute, without symbolic links."""
    descriptor = os.open("/", _DIRECTORY_FLAGS)
    where = "/"
    try:
        _refuse_distrusted_directory(descriptor, where)
        for part in Path(path).parts[1:]:
            below = os.open(part, _DIRECTORY_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
            where = os.path.join(where, part)  # noqa: PTH118 - one string, no need for a Path at each step
            _refuse_distrusted_directory(descriptor, where)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_distrusted_directory(descriptor: int, where: str) -> None:
    distrust = find_distrust(os.fstat(descriptor), sticky_is_fine=True)
    if distrust:
        raise ConfigError(f"this directory {distrust}", where=where, fix=f"chown root {where}; chmod go-w {where}")


def _open_file(directory: int, name: str, where: str) -> int:
    """A descriptor of a regular file in a checked directory, its own owner and mode checked."""
    # Looked at before it is opened, so that the message is clear and no device is ever opened; and once more after.
    _refuse_distrusted_file(os.stat(name, dir_fd=directory, follow_symlinks=False), where)
    descriptor = os.open(name, _FILE_FLAGS, dir_fd=directory)
    try:
        _refuse_distrusted_file(os.fstat(descriptor), where)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_distrusted_file(status: os.stat_result, where: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise ConfigError("is a symbolic link", where=where, fix="name the file it points to")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("is not a regular file", where=where)
    distrust = find_distrust(status)
    if distrust:
        raise ConfigError(distrust, where=where, fix=f"chown root {where}; chmod go-w {where}")
