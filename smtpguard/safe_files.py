"""Who else could have written this? Files that root alone can have made, and directories that root may write to.

Every step of the way is looked at (THREATS 20): nobody else can swap a file, a link or a directory along it.

Directories are opened one below the other with openat(2) and O_NOFOLLOW, and owners are checked on the descriptor, so
that nobody can exchange a step between the look and the use. Two verdicts are asked of the steps: for what is read, and
for where something is written, which is checked before a file is created and whenever it is opened anew; see unlink(2)
for the sticky bit.
"""

import errno
import os
import stat
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

from smtpguard.errors import ConfigError, GuardError

_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO somebody put there must not wait for its writer.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MAX_LINKS = 40
"""As many symbolic links as the kernel follows (path_resolution(7))."""
_FIRST_PERSON_ID = 1000
"""Users and groups below are the system's: Ubuntu's /var/log is writable by group syslog."""


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


def find_distrust(
    status: os.stat_result,
    *,
    sticky_is_fine: bool = False,
    uids: AbstractSet[int] = frozenset(),
    gids: AbstractSet[int] | None = None,
) -> str | None:
    """Why the owner or mode of something lets others write it; None if only root and the caller can.

    Args:
        status: Of the file or directory, from its descriptor.
        sticky_is_fine: For directories: a sticky bit makes up for others' right to write.
        uids: Who may own it besides.
        gids: Groups that may write it, beside root's; None for no group at all.
    """
    if status.st_uid not in (0, os.geteuid()) and status.st_uid not in uids:
        return f"belongs to uid {status.st_uid}, not to root or to you"
    mode = stat.S_IMODE(status.st_mode)
    may_group = gids is not None and (status.st_gid == 0 or status.st_gid in gids)
    others = stat.S_IWOTH if may_group else _OTHERS_WRITE
    if mode & others and not (sticky_is_fine and mode & stat.S_ISVTX):
        return f"can be written by others (mode {mode:04o})"
    return None


class _Judge(Protocol):
    """Says whether others could change a step of the way."""

    def __call__(self, status: os.stat_result, where: str, /, *, is_last: bool) -> None:
        """Raise if they could; the step is a directory, or a symbolic link."""
        ...


def _walk(path: str, judge: _Judge) -> int:
    """A descriptor of a directory, every step of the way to it judged as it is open; links are followed by hand.

    Args:
        path: Absolute.
        judge: What is asked of each step.

    Raises:
        OSError: A step is missing, no directory or not accessible; its `filename` says which. ELOOP: too many links.
    """
    pending = _parts_of(path)
    descriptor = os.open("/", _DIRECTORY_FLAGS)
    where = "/"
    links = 0
    try:
        while True:
            judge(os.fstat(descriptor), where, is_last=not pending)
            if not pending:
                return descriptor
            part = pending.pop()
            step = str(Path(where).parent if part == ".." else Path(where, part))
            try:
                status = os.lstat(part, dir_fd=descriptor)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))  # noqa: TRY301 - as the kernel would say it
                    judge(status, step, is_last=False)
                    target = os.readlink(part, dir_fd=descriptor)
                    pending += _parts_of(target)
                    part, step = ("/", "/") if target.startswith("/") else (".", where)
                below = os.open(part, _DIRECTORY_FLAGS, dir_fd=descriptor)
            except OSError as failure:
                raise OSError(failure.errno, failure.strerror, step) from failure
            os.close(descriptor)
            descriptor, where = below, step
    except BaseException:
        os.close(descriptor)
        raise


def _parts_of(path: str) -> list[str]:
    """The steps of a path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def open_trusted_directory(path: str, *, uids: AbstractSet[int] = frozenset(), gids: AbstractSet[int]) -> int:
    """A descriptor of a directory from which something is read, every step of the way judged.

    Args:
        path: Absolute, without symbolic links.
        uids: Who may own a step, beside root.
        gids: Groups that may write to one, beside root's.

    Raises:
        FileNotFoundError, NotADirectoryError: There is none.
        ConfigError: Somebody else could have written there.
        OSError: It can't be opened.
    """

    def judge(status: os.stat_result, where: str, /, *, is_last: bool) -> None:  # noqa: ARG001 - a _Judge
        _judge_reading(status, where, is_last=False, uids=uids, gids=gids)

    step = _walk(path, judge)  # opened as a path alone
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=step)
    finally:
        os.close(step)


def _open_directory(path: str) -> int:
    """A descriptor of a directory from which something is read. `path` is absolute, without symbolic links."""
    return _walk(path, _judge_reading)


def _judge_reading(
    status: os.stat_result,
    where: str,
    /,
    *,
    is_last: bool,  # noqa: ARG001 - a _Judge
    uids: AbstractSet[int] = frozenset(),
    gids: AbstractSet[int] | None = None,
) -> None:
    """What is asked of a way on which something is read. Its links were resolved: one that is there now is new."""
    if stat.S_ISLNK(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), where)
    distrust = find_distrust(status, sticky_is_fine=True, uids=uids, gids=gids)
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
        text = f"the directory can't be created: {failure.strerror}"
        raise error(text, where=directory, fix="create it, owned by root") from failure
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

    def judge(status: os.stat_result, where: str, /, *, is_last: bool) -> None:
        _check_owner(where, status, error)
        if not stat.S_ISLNK(status.st_mode):
            _check_writers(where, status, error, strict=is_last and not shared)

    os.close(_walk_named(directory, judge, error))


def open_directory(directory: str, *, error: type[GuardError]) -> int:
    """A descriptor of a directory in which a file is put, renamed or removed by it, and never opened; else an `error`.

    The directory and all above it belong to root, to us or to a system account, and no user may write there. Of a
    system account no symbolic link is followed, so that it leads nobody to a directory of others.
    """

    def judge(status: os.stat_result, where: str, /, *, is_last: bool) -> None:
        if stat.S_ISLNK(status.st_mode) or status.st_uid >= _FIRST_PERSON_ID:
            _check_owner(where, status, error)
        if not stat.S_ISLNK(status.st_mode):
            _check_writers(where, status, error, strict=is_last)

    return _walk_named(directory, judge, error)


def _walk_named(directory: str, judge: _Judge, error: type[GuardError]) -> int:
    """As `_walk`, with an error that says what is wrong where."""
    try:
        return _walk(directory, judge)
    except OSError as failure:
        what = {errno.ENOTDIR: "not a directory", errno.ELOOP: "too many symbolic links"}.get(failure.errno or 0)
        raise error(what or f"not accessible: {failure.strerror}", where=failure.filename) from failure


def _check_owner(path: str, about: os.stat_result, error: type[GuardError]) -> None:
    if about.st_uid not in (0, os.geteuid()):
        text = f"belongs to uid {about.st_uid}, who could swap what is in it"
        raise error(text, where=path, fix=f"chown root {path}")


def _check_writers(path: str, about: os.stat_result, error: type[GuardError], *, strict: bool) -> None:
    is_sticky = bool(about.st_mode & stat.S_ISVTX) and not strict
    if about.st_mode & stat.S_IWOTH and not is_sticky:
        raise error("everybody may write to this directory", where=path, fix=f"chmod o-w {path}")
    system_group = about.st_gid < _FIRST_PERSON_ID and (not strict or about.st_gid == 0)
    if about.st_mode & stat.S_IWGRP and not (is_sticky or system_group):
        raise error(f"group {about.st_gid} may write to this directory", where=path, fix=f"chmod g-w {path}")
