"""Configuration, log, state, fail2ban and the clock: is everything where the guard will look for it."""

import ctypes
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.errors import ConfigError
from smtpguard.safe_files import check_directory

MIN_FREE_BYTES = 200_000_000
_TIME_ERROR = 5  # adjtimex(2)
_TIMEX_BYTES = 512  # struct timex has 208; the kernel writes no further
_FAIL2BAN_FILES = ("filter.d/smtpguard.conf", "action.d/smtpguard.conf", "jail.d/smtpguard.conf")
_FAIL2BAN_SOCKET = "run/fail2ban/fail2ban.sock"


def check_configuration(host: ExaminedHost) -> Iterator[Finding]:
    """The file in force."""
    name = "configuration"
    settings = host.settings
    if host.problem is not None:
        yield Finding(
            name=name,
            level="fatal",
            found=str(host.problem).splitlines()[0],
            means="The service goes on with the last good configuration. By hand it does not start. "
            "What follows is about the shipped defaults",
            fix="smtpguard check" if host.path is None else f"smtpguard check --config {shlex.quote(host.path)}",
        )
        return
    where = settings.path or "shipped defaults"
    if settings.sources == "none":
        means = "no connection is seen"
        yield Finding(name=name, level="fatal", found=f"{where}: sources: none", means=means, fix="sources: auto")
    elif settings.dry_run:
        found = f"{where}: dry run (normal for the first days)"
        yield Finding(name=name, level="note", found=found, fix="Next: smtpguard blocks")
    else:
        yield Finding(name=name, level="ok", found=f"{where}: enforcing")


def check_log(host: ExaminedHost) -> Iterator[Finding]:
    """The event log's directory."""
    yield judge_directory("log", host.settings.log_path, "events are not written, and fail2ban sees none")


def check_state(host: ExaminedHost) -> Iterator[Finding]:
    """The database's directory."""
    yield judge_directory(
        "state", host.settings.state_path, "blocks are forgotten at a restart, and there is no history"
    )


def judge_directory(name: Literal["log", "state"], path: str, means: str) -> Finding:
    """Whether a file can be kept at a path, safe from everybody else, with room to grow.

    Args:
        name: Of the check.
        path: The file.
        means: What it means if not.
    """
    directory = Path(path).parent
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    is_there = directory == Path(path).parent
    try:
        check_directory(str(directory), error=ConfigError, shared=not is_there or name == "log")
    except ConfigError as error:
        return Finding(name=name, level="bad", found=str(error), means=means, fix=error.fix or "")
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < MIN_FREE_BYTES:
        found = f"{path}: {free // 1_000_000} MB are free"
        return Finding(name=name, level="bad", found=found, means=f"when it is full: {means}", fix="make room")
    return Finding(name=name, level="ok", found=path if is_there else f"{path}; its directory is made at the start")


def check_fail2ban(host: ExaminedHost) -> Iterator[Finding]:
    """fail2ban, where it is to be told or to block."""
    missing = [name for name in _FAIL2BAN_FILES if not (host.root / "etc/fail2ban" / name).is_file()]
    yield judge_fail2ban(
        is_installed=(host.root / "etc/fail2ban").is_dir() and shutil.which("fail2ban-server") is not None,
        missing=missing,
        runs=(host.root / "var" / _FAIL2BAN_SOCKET).exists() or (host.root / _FAIL2BAN_SOCKET).exists(),
        needed=host.settings.block_by == "fail2ban",
    )


def judge_fail2ban(*, is_installed: bool, missing: list[str], runs: bool, needed: bool) -> Finding:
    """What the state of fail2ban means.

    Args:
        is_installed: fail2ban is here.
        missing: Our files that are not below /etc/fail2ban.
        runs: Its server's socket is there.
        needed: block.by is fail2ban.
    """
    name = "fail2ban"
    fault = ""
    fix = ""
    if not is_installed:
        fault, fix = "is not installed", "install it, or set block.by: guard"
    elif missing:
        fault, fix = f"lacks {', '.join(missing)}", "smtpguard setup"
    elif not runs:
        fault, fix = "does not run", "systemctl start fail2ban"
    if not fault:
        return Finding(name=name, level="ok", found="runs, with the jail installed")
    if needed:
        return Finding(
            name=name, level="fatal", found=fault, means="block.by is fail2ban: nobody would be blocked", fix=fix
        )
    if not is_installed:
        return Finding(name=name, level="ok", found=fault, means="not needed: block.by is guard")
    return Finding(
        name=name, level="note", found=fault, means="blocks work all the same; fail2ban does not list them", fix=fix
    )


def check_time(host: ExaminedHost) -> Iterator[Finding]:
    """Whether something keeps the clock right. adjtimex(2) without a mode only asks."""
    del host
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    yield judge_time(is_kept=state != _TIME_ERROR)


def judge_time(*, is_kept: bool) -> Finding:
    """What the state of the clock means.

    Args:
        is_kept: The kernel believes it right, because somebody keeps it.
    """
    if is_kept:
        return Finding(name="time", level="ok", found="the clock is synchronised")
    return Finding(
        name="time",
        level="note",
        found="No time sync (chrony, timesyncd) found",
        means="Log times may be wrong",
        fix="Install chrony.",
    )
