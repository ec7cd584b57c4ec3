"""Who else could have written this? Files that root alone can have made, and directories that root may write to.

Every step of the way is looked at (THREATS 20): nobody else can swap a file, a link or a directory along it.

What is read is opened one directory below the other with openat(2) and O_NOFOLLOW, and owners are checked on the
descriptor, so that nobody can exchange a step between the look and the use. Where something is written the directory is
checked before a file is created and whenever it is opened anew; see unlink(2) for the sticky bit.
"""

import os
import stat
from pathlib import Path

from smtpguard.errors import ConfigError, GuardError

_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO somebody put there must not wait for its writer.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MAX_LINKS = 40
"""As many symbolic links as the kernel follows (path_resolution(7))."""
_FIRST_PERSON_GID = 1000
"""Groups below are the system's: Ubuntu's /var/log is writable by group syslog."""


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


def make_directory(directory: str, mode: int, *, error: type[GuardError], shared: bool = False) -> None:
    """Create a directory if it is missing, and check it and all above it.

    Args:
        directory: Absolute path.
        mode: Its permissions if it is created; one that exists keeps its own.
        error: What to raise.
        shared: As for `check_directory`.
    """
    try:
        Path(directory).mkdir(mode)
        Path(directory).chmod(mode)  # not narrowed by the umask
    except FileExistsError:
        pass
    except FileNotFoundError as failure:
        if Path(directory).parent.exists():  # an automounter's directory, /proc: nothing can be made in it
            text = f"the directory can't be created: {failure.strerror}"
            raise error(text, where=directory, fix="create it, owned by root") from failure
        make_directory(str(Path(directory).parent), 0o755, error=error)
        make_directory(directory, mode, error=error, shared=shared)
        return
    except OSError as failure:
        raise error(
            f"the directory can't be created: {failure.strerror}", where=directory, fix="create it, owned by root"
        ) from failure
    check_directory(directory, error=error, shared=shared)


def check_directory(directory: str, *, error: type[GuardError], shared: bool = False) -> None:
    """Raise unless the directory and all above it belong to root or to us, and nobody else may change them.

    Directories above may be sticky (`/tmp`) or writable by a system group; the directory itself may not, unless
    `shared` says so. Symbolic links are followed, and what they lead through is checked too.

    Args:
        directory: Absolute path of an existing directory.
        error: What to raise.
        shared: The directory itself may be sticky or a system group's too: for files that are opened without
            following links and checked when they are open.
    """
    if not directory.startswith("/"):
        raise error("the path is not absolute", where=directory, fix="give a path that starts with /")
    pending = [part for part in reversed(directory.split("/")) if part not in ("", ".")]
    current = "/"
    links = 0
    while True:
        about = _lstat(current, error)
        if stat.S_ISLNK(about.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise error("too many symbolic links", where=directory)
            _check_owner(current, about, error)
            target = str(Path(current).readlink())
            pending.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
            current = "/" if target.startswith("/") else str(Path(current).parent)
            continue
        if not stat.S_ISDIR(about.st_mode):
            raise error("not a directory", where=current)
        _check_owner(current, about, error)
        _check_writers(current, about, error, strict=not pending and not shared)
        if not pending:
            return
        part = pending.pop()
        current = str(Path(current).parent if part == ".." else Path(current, part))


def _lstat(path: str, error: type[GuardError]) -> os.stat_result:
    try:
        return os.lstat(path)
    except OSError as failure:
        raise error(f"not accessible: {failure.strerror}", where=path) from failure


def _check_owner(path: str, about: os.stat_result, error: type[GuardError]) -> None:
    if about.st_uid not in (0, os.geteuid()):
        text = f"belongs to uid {about.st_uid}, who could swap what is in it"
        raise error(text, where=path, fix=f"chown root {path}")


def _check_writers(path: str, about: os.stat_result, error: type[GuardError], *, strict: bool) -> None:
    is_sticky = bool(about.st_mode & stat.S_ISVTX) and not strict
    if about.st_mode & stat.S_IWOTH and not is_sticky:
        raise error("everybody may write to this directory", where=path, fix=f"chmod o-w {path}")
    system_group = about.st_gid < _FIRST_PERSON_GID and (not strict or about.st_gid == 0)
    if about.st_mode & stat.S_IWGRP and not (is_sticky or system_group):
        raise error(f"group {about.st_gid} may write to this directory", where=path, fix=f"chmod g-w {path}")
