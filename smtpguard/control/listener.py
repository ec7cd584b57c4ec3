"""Binding the control socket: never over a daemon that answers, never open to others for a moment."""

import grp
import os
import socket
import stat
from pathlib import Path

from smtpguard.errors import BusyError, ConfigError

_BACKLOG = 128
_ANSWER_S = 1.0


def read_gid(group: str, key: str = "control.group") -> int:
    """The group's number.

    Args:
        group: Its name.
        key: Where the configuration names it.

    Raises:
        ConfigError: There is no such group.
    """
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{key}: there is no group {group!r}", fix="groupadd, or null") from error


def read_identity(path: str) -> tuple[int, int] | None:
    """Device and inode of what is there; None if there is nothing."""
    try:
        about = os.lstat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def check_free(path: str) -> None:
    """Make sure that nobody answers there; a socket without a daemon may be replaced.

    Raises:
        BusyError: A daemon answers.
        ConfigError: Something else than a socket is there.
    """
    try:
        about = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(about.st_mode):
        raise ConfigError("not a socket", where=path, fix="remove it, or change control.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_ANSWER_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:
            pass  # its backlog is full, or it hangs: it is somebody's
    raise BusyError("another daemon answers at the control socket", where=path, fix="stop it, or change control.socket")


def bind_listener(path: str, gid: int | None) -> tuple[socket.socket, tuple[int, int] | None]:
    """Bind beside the path, close it to others, and rename over: nobody ever meets half a socket.

    Args:
        path: Absolute path; its directory is safe.
        gid: Group that may connect too.

    Returns:
        The listening socket and its identity in the file system.

    Raises:
        ConfigError: The kernel refused.
    """
    beside = f"{path}.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        Path(beside).unlink(missing_ok=True)
        listener.bind(beside)
        set_access(beside, gid)  # before listen(2): until then nobody can connect
        listener.listen(_BACKLOG)
        Path(beside).rename(path)
    except OSError as failure:
        listener.close()
        Path(beside).unlink(missing_ok=True)
        raise ConfigError(
            f"the control socket can't be made: {failure.strerror or failure}", where=path, fix="change control.socket"
        ) from failure
    return listener, read_identity(path)


def set_access(path: str, gid: int | None) -> None:
    """0600, or 0660 with a group."""
    os.chown(path, os.geteuid(), os.getegid() if gid is None else gid, follow_symlinks=False)
    Path(path).chmod(0o600 if gid is None else 0o660)
