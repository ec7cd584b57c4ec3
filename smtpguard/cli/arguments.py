"""What `--source` accepts: a jail of fail2ban for `block` and `unblock`, a sensor for `run` and `watch`."""

import re

import click

_SOURCE = re.compile(r"fail2ban:[A-Za-z0-9_.-]{1,64}")
MAX_UID = 2**32 - 2
_NUMBER = re.compile(r"0*([0-9]{1,10})", re.ASCII)


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
    ports = [_parse_number(part) for part in text.split(",")]
    if not all(0 < port < 65_536 for port in ports):
        raise click.BadParameter(f"{text[:100]!r} is no list of ports, such as 25,587", param_hint="--ports")
    return ports


def check_uid(uid: str | None) -> int | None:
    """A uid; None for the empty text that fail2ban passes for a ban by hand; a usage error else."""
    if uid is None or not uid:
        return None
    number = _parse_number(uid)
    if not 0 <= number <= MAX_UID:
        raise click.BadParameter("it must be a number", param_hint="--uid")
    return number


def _parse_number(text: str) -> int:
    """Digits as a number; -1 for what is none, or longer than any uid: int() raises ValueError at 4,300 digits."""
    found = _NUMBER.fullmatch(text)
    return int(found[1]) if found else -1


def check_sensors(names: tuple[str, ...]) -> None:
    """Each must be a sensor that there is; a usage error else."""
    from smtpguard.sources.registry import KINDS

    for name in names:
        if name not in KINDS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(KINDS)}", param_hint="--source")
