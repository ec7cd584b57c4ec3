"""The windows as exact limits in the kernel need them: what is in them, and what the kernel alone knows put in."""

from collections.abc import Iterator, Mapping

from smtpguard.model import Connect, Subject
from smtpguard.policy.counters import Counter
from smtpguard.policy.engine_core import EngineCore


class ExactWindows:
    """Keeps the windows here and the limits in the kernel in step; sources/bpf has the other half.

    Args:
        core: Shared with the engine.
    """

    __slots__ = ("_core",)

    def __init__(self, core: EngineCore) -> None:
        self._core = core

    def windows(self) -> Iterator[tuple[int, str, list[int]]]:
        """What connections rules that are carried out have in their windows: (uid, rule, event times)."""
        for uid, counter in self._carried():
            if counter.rule.count == "connections":
                yield uid, counter.rule.name, counter.times()

    def key_windows(self) -> Iterator[tuple[int, str, dict[bytes, int], int]]:
        """The same of rules that count destinations or networks: (uid, rule, keys, up to when it was emptied)."""
        for uid, counter in self._carried():
            if counter.table is not None:
                yield uid, counter.rule.name, counter.table.keys, counter.floor_ns

    def would_refuse(self, subject: Subject, connect: Connect) -> bool:
        """Whether an attempt is inside a block, or exceeds a rule that is carried out and refuses."""
        watched = self._core.roster.of(subject)
        if self._core.blocks.cover(subject, connect.time_ns, connect.port) is not None:
            return True
        books = [book for book in watched.books if book.mode == "enforce"]
        found = [book.judge(connect.time_ns, connect.port, connect.address) for book in books]
        return any(excess.action != "warn" for excesses in found for excess in excesses)

    def catch_up(self, subject: Subject, rule: str, connect: Connect, *, keys: Mapping[bytes, int], lost: int) -> None:
        """Take in what the kernel knows and nobody reported, before an attempt that it refused is judged.

        Args:
            subject: Whose attempt.
            rule: By which rule it was refused.
            connect: The attempt.
            keys: Destinations or networks that the kernel has in the window of that rule.
            lost: Attempts that it let through and nobody told of: they count as if they had come with this one.
        """
        watched = self._core.roster.of(subject)
        for book in watched.books:
            lane = book.open_lane(connect.port)
            for _ in range(lost):
                book.put_back(lane, max(connect.time_ns, book.newest_ns()))
            for counter in lane.counters:
                if counter.rule.name == rule and counter.table is not None:
                    for key, last_ns in keys.items():
                        book.put_back_key(counter.table, key, last_ns)
            book.distrust()
        watched.changes += 1
        self._core.roster.active[watched] = 0
        self._core.settle(watched)

    def _carried(self) -> Iterator[tuple[int, Counter]]:
        """Rules that refuse and are carried out, of users on the host's own network, with what they have counted.

        Of who has not been seen since a switch was turned, the windows from before go on: it may be report-only
        rules' alone.
        """
        for watched in self._core.roster:
            books = watched.books if watched.subject.scope is None else ()
            carried = [book for book in books if book.mode == "enforce"]
            for book in carried or (books if self._core.roster.is_outdated(watched) else ()):
                for counter in book.counters:
                    if counter.rule.action != "warn":
                        yield watched.subject.id, counter
