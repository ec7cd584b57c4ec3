"""What became of connections, judged after the fact: failures, and bytes sent; by rules with windows of their own."""

from typing import Protocol

from smtpguard.model import Connect, Decision, SocketReport
from smtpguard.policy.byte_windows import CountedSessions
from smtpguard.policy.engine_core import EngineCore
from smtpguard.policy.rules import OUTCOMES
from smtpguard.settings import Settings

FAILED = frozenset({"refused", "timeout", "gave-up"})
HIDING = frozenset({"untracked", "unfollowed"})
"""A socket with no room for what is kept of it: a failure where bytes count; unfollowed, all the bytes there may be."""


class IsCounted(Protocol):
    """Knows which destinations count."""

    def __call__(self, address: bytes, /) -> bool:
        """Whether a destination, 4 or 16 bytes, counts."""
        ...


class Outcomes:
    """Judges reports of sockets.

    Args:
        core: Shared with the engine.
        counts: Which destinations count.
    """

    __slots__ = ("_core", "_counts", "_has_rules", "_sessions")

    def __init__(self, core: EngineCore, counts: IsCounted) -> None:
        self._core = core
        self._counts = counts
        self._sessions = CountedSessions()
        self.reconfigure(core.settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration."""
        self._has_rules = any(rule.count in OUTCOMES for rule in settings.rules)

    def take(self, report: SocketReport) -> list[Decision]:
        """Count what became of a connection: failures, and bytes sent. Judged after the fact, in the report's order."""
        if not self._has_rules or report.uid is None or report.port not in self._core.settings.ports:
            return []
        hides = report.kind in HIDING
        amount = 0 if hides else self._sessions.news(report)
        failed = report.kind in FAILED
        if not (failed or amount or hides) or not self._counts(report.address):
            return []
        watched = self._core.roster.find(report.uid, report.netns)
        if hides:  # whose bytes are not counted loses nothing by it
            failed = any(report.port in volume.ports for book in watched.volumes for volume in book.counters)
        span = self._core.blocks.cover(watched.subject, report.time_ns, report.port)
        found = []
        for book in watched.failures if failed else ():
            if span is None or (book.mode == "enforce" and not span.hides):
                excesses = book.judge(report.time_ns, report.port, report.address)
                if all(excess.action == "warn" for excess in excesses):
                    book.enter(report.time_ns, report.port, report.address)
                found.append((book.mode, excesses, max(report.time_ns, book.newest_ns())))
        for volume in watched.volumes if amount or report.kind == "unfollowed" else ():
            # Open sessions live on in a throttle, and may have to be ended by a block: it alone stops the judging.
            hidden = span is not None and span.kind == "block" and (span.hides or volume.mode == "dry-run")
            if hides:
                excesses = volume.fill(report.time_ns, report.port)
            else:
                excesses = volume.enter(report.time_ns, report.port, amount)
            if not hidden:
                found.append((volume.mode, excesses, report.time_ns))
        out: list[Decision] = []
        for mode, excesses, at_ns in found:
            if excesses:
                watched.changes += 1
                connect = _connect_of(report)
                out += self._core.verdicts.decide(
                    watched, mode, excesses, connect, at_ns=at_ns, now_ns=self._core.now_ns
                )
        self._core.settle(watched)
        self._core.roster.active[watched] = 0
        return out


def _connect_of(report: SocketReport) -> Connect:
    """The attempt behind a report, as far as the report tells."""
    return Connect(
        time_ns=report.time_ns,
        uid=report.uid,
        netns=report.netns,
        port=report.port,
        address=report.address,
        sensor="bpf",
        result="allowed",
        cookie=report.cookie,
    )
