"""Puts the table back when somebody flushes the ruleset, and takes an element deleted by hand as the wish to unblock.

nftables' own notifications tell the two apart (kernel/nft/notifications.py). A heal is logged once, with the process
that made it necessary. A hand that will not stop is told, and healing slows to one a second.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

from smtpguard.actions.base import Reach
from smtpguard.actions.nft.enforcer import NftEnforcer, parse_set
from smtpguard.actions.nft.heal_limiter import HealLimiter
from smtpguard.clock import next_beat
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.decode.netlink.nft_notify import NftEvent
from smtpguard.errors import EnforceError
from smtpguard.hooks import ClockNs
from smtpguard.kernel.nft.notifications import NftNotifications
from smtpguard.model import NS
from smtpguard.text import render_escaped

log = logging.getLogger(__name__)

_REOPEN_NS = 10 * NS
_CHECK_NS = 10 * NS


class FreedByHand(Protocol):
    """Has to know that somebody took elements out of our sets."""

    def __call__(self, ranges: tuple[tuple[int, int], ...], reach: Reach, who: str) -> None:
        """Take which uid ranges, what they were refused, and who it was."""


class ChangeHistory(Protocol):
    """Keeps the history of what was done."""

    def change(self, event: str, *, by: str, reason: str) -> None:
        """Something was done, by whom and why."""


class TableWatch:
    """Watches the table, as a part of the loop.

    Args:
        watch: Notifications about the table.
        nft: The table.
        enforcement: Whether it ought to be there, and what puts it back.
        freed: Called with (uid ranges, reach, who) when somebody deleted elements by hand.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        heals: How often the table was put back.
        trouble: Why nobody watches; None when all is well.
        changes: Who is told of heals; None where nobody is.
    """

    def __init__(
        self,
        watch: NftNotifications,
        *,
        nft: NftEnforcer,
        enforcement: Enforcement,
        freed: FreedByHand,
        now: ClockNs,
    ) -> None:
        self._watch = watch
        self._nft = nft
        self._enforcement = enforcement
        self._freed = freed
        self._now = now
        self._limiter = HealLimiter()
        self._due_ns: int | None = None
        self._check_ns = next_beat(now(), _CHECK_NS)
        self._done, self._by = "deleted", ""
        self.heals = 0
        self.changes: ChangeHistory | None = None
        self.trouble: str | None = None

    def open(self) -> None:
        """Begin to watch; without it the table is looked at every ten seconds."""
        try:
            self._watch.open()
            self.trouble = None
        except EnforceError as error:
            self.trouble = str(error)
            log.warning("%s: a lost table is noticed within 10 s only", error)

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()

    def filenos(self) -> Sequence[int]:
        """The notification socket."""
        fileno = self._watch.fileno()
        return (fileno,) if fileno >= 0 else ()

    def on_ready(self, fileno: int) -> None:
        """Somebody has changed nftables."""
        del fileno
        try:
            events = self._watch.read()
        except EnforceError as error:
            log.error("%s", error)  # noqa: TRY400 - one line for people
            self.trouble = str(error)
            self._watch.close()
            return
        for event in events:
            if not self._enforcement.is_refusing():
                self._enforcement.remove_foreign(_name(event))
            elif self._due_ns is None:  # else all is put back, and looked at, in a moment
                self._take(event)
        self.on_time(self._now())

    def _take(self, event: NftEvent) -> None:
        reach = parse_set(event.set or "")
        if event.kind == "deleted":
            if reach is not None:
                self._freed(event.ranges, reach, _name(event))
        elif event.kind == "changed":
            if not event.loaded:
                self._enforcement.compare("changed", _name(event))
        elif event.kind == "unknown" and self._is_whole():
            self._enforcement.compare("changed")
        else:
            self._done, self._by = "deleted" if event.kind == "lost" else "changed", _name(event)
            self._due_ns = self._limiter.next_heal_ns(self._now())

    def next_deadline(self) -> int:
        """When a heal is due, or the next look."""
        return self._check_ns if self._due_ns is None else min(self._due_ns, self._check_ns)

    def on_time(self, now_ns: int) -> None:
        """Heal what is due; look by ourselves now and then, in case notifications fail."""
        if now_ns >= self._check_ns:
            self._check_ns = next_beat(now_ns, _CHECK_NS)
            if self._watch.fileno() < 0:
                self.open()
            if not self._enforcement.is_refusing():
                self._enforcement.remove_foreign("somebody")
            elif self._due_ns is None and self._enforcement.is_in_place() and not self._is_whole():
                self._done, self._by, self._due_ns = "changed", "somebody", now_ns
        if self._due_ns is not None and now_ns >= self._due_ns:
            self._due_ns = None
            self._heal(now_ns)

    def _heal(self, now_ns: int) -> None:
        if not self._enforcement.is_refusing():
            return
        if self._limiter.record(now_ns):
            log.error("%s deletes the table again and again: it is put back once a second from here", self._by)
        if not self._enforcement.refresh("lost"):
            why = self._enforcement.health.table_trouble
            log.error("the table was %s by %s and can't be put back: %s", self._done, self._by, why)
            self._due_ns = now_ns + NS
            return
        self.heals += 1
        if self.changes is not None:
            self.changes.change("heal", by="guard", reason=f"the table was {self._done} by {self._by}")
        log.warning(
            "The nft table was %s by %s. It is back, with every block and the rest of its time.", self._done, self._by
        )

    def _is_whole(self) -> bool:
        try:
            return self._nft.check() == "whole"
        except EnforceError:
            return False


def _name(event: NftEvent) -> str:
    comm = render_escaped(event.comm) if event.comm else "somebody"
    return f"{comm} (pid {event.pid})" if event.pid is not None else comm
