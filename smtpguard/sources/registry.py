"""Which sources there are, in the order `auto` tries them. A new source is one file and one line here."""

import importlib
from dataclasses import dataclass

from smtpguard.errors import SourceError
from smtpguard.settings import Settings
from smtpguard.sources.base import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """A kind of sensor.

    Attributes:
        module: Module with `make_source(settings) -> Source`, imported when it is used.
        sees: What it can't see or tell, for `status` and `doctor`; "" if it sees every way to connect.
    """

    module: str
    sees: str = ""


KINDS: dict[str, SourceKind] = {
    "bpf": SourceKind(module="smtpguard.sources.bpf.source"),
    "nflog": SourceKind(
        module="smtpguard.sources.nflog",
        sees="not what containers with a network of their own send; setuid programs and sockets that root handed on "
        "count as root; not whether an attempt was refused",
    ),
    "audit": SourceKind(
        module="smtpguard.sources.audit.netlink",
        sees="not data sent with the SYN (MSG_FASTOPEN) by io_uring or 32-bit socketcall, nor io_uring connects that "
        "the kernel finishes by itself; not whether an attempt was refused",
    ),
    "audit-log": SourceKind(
        module="smtpguard.sources.audit.logfile",
        sees="not what audit does not see; comes as late as auditd writes it",
    ),
    "proc": SourceKind(
        module="smtpguard.sources.proc",
        sees="only sessions that last from one look to the next (0.1 s while there are any, else 1 s): most of a fast "
        "burst goes unseen, and so does what was refused; nothing of containers with a network of their own",
    ),
}
"""Name to kind; the order is that of `auto`."""


def make_source(name: str, settings: Settings) -> Source:
    """Make a source by name, unopened.

    Raises:
        SourceError: There is no source of that name.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise SourceError(f"there is no source {name!r}", fix=f"one of: {', '.join(KINDS)}")
    source: Source = importlib.import_module(kind.module).make_source(settings)
    return source
