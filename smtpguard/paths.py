"""Whether a path is safe for root to write to: nobody else can swap a file, a link or a directory along it.

Checked once before a file is created, and again whenever it is opened anew. It never changes anything but the last
directory, which `make_directory` creates. See path_resolution(7) and, for the sticky bit, unlink(2).
"""

import os
import stat
from pathlib import Path

from smtpguard.errors import GuardError

_MAX_LINKS = 40
"""As many symbolic links as the kernel follows (path_resolution(7))."""
_FIRST_PERSON_GID = 1000
"""Groups below are the system's: Ubuntu's /var/log is writable by group syslog."""


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
