"""The words of the program as types: Connect, Subject, Account, Verdict, Block. No behaviour, no I/O.

Times are integers in nanoseconds. `time_ns` is *event time*: CLOCK_BOOTTIME (clock_gettime(2)) for live sensors,
nanoseconds since the epoch for replayed files; within one run there is one timeline only. None always means
"not known", never 0 or "". Text that a tenant can write (process names, paths, PTR names) stays `bytes` until
it is rendered, where `smtpguard.text` escapes it.
"""

from smtpguard.model.decisions import (
    Action,
    Allowance,
    AllowanceEnded,
    Block,
    BreakerChange,
    Count,
    Decision,
    Ended,
    Extended,
    Mode,
    Named,
    Refusal,
    Verdict,
    Watch,
    WatchEnded,
)
from smtpguard.model.events import Attr, Connect, Message, Outcome, RefusedBy, Result, SocketNews, SocketReport
from smtpguard.model.people import Account, Customer, Standing, Subject

__all__ = [
    "NS",
    "Account",
    "Action",
    "Allowance",
    "AllowanceEnded",
    "Attr",
    "Block",
    "BreakerChange",
    "Connect",
    "Count",
    "Customer",
    "Decision",
    "Ended",
    "Extended",
    "Message",
    "Mode",
    "Named",
    "Outcome",
    "Refusal",
    "RefusedBy",
    "Result",
    "SocketNews",
    "SocketReport",
    "Standing",
    "Subject",
    "Verdict",
    "Watch",
    "WatchEnded",
]

NS = 1_000_000_000
"""Nanoseconds in a second."""
