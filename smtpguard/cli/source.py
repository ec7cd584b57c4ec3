"""What `--source` accepts: a jail of fail2ban for `block` and `unblock`, a sensor for `run` and `watch`."""

import re

import click

_SOURCE = re.compile(r"fail2ban:[A-Za-z0-9_.-]{1,64}")
MAX_UID = 2**32 - 2


def check_source(source: str) -> str:
    """The name of a source that may ask from outside; a usage error else."""
    if not _SOURCE.fullmatch(source):
        raise click.BadParameter("it must be fail2ban:JAIL", param_hint="--source")
    return source


def check_uid(uid: str | None) -> int | None:
    """A uid; None for the empty text that fail2ban passes for a ban by hand; a usage error else."""
    if uid is None or not uid:
        return None
    if not (uid.isascii() and uid.isdigit() and int(uid) <= MAX_UID):
        raise click.BadParameter("it must be a number", param_hint="--uid")
    return int(uid)


def check_sensors(names: tuple[str, ...]) -> None:
    """Each must be a sensor that there is; a usage error else."""
    from smtpguard.sources.registry import KINDS

    for name in names:
        if name not in KINDS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(KINDS)}", param_hint="--source")
