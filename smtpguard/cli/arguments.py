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


def check_ports(text: str | None) -> list[int] | None:
    """Ports as they are typed, `25,587`; None if none were.

    Raises:
        click.BadParameter: Not ports.
    """
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 65_536 for part in parts):
        raise click.BadParameter(f"{text!r} is no list of ports, such as 25,587", param_hint="--ports")
    return [int(part) for part in parts]


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
