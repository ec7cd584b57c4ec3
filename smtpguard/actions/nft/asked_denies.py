"""What was asked of one set: whose refusals, which elements they come to, and who shares uids with whom. No kernel."""

from collections.abc import Iterable, Sequence

from smtpguard.actions.base import Deny
from smtpguard.actions.nft.elements import Element, Interval, clip, flatten, list_claims, merge_intervals
from smtpguard.model import Subject

_PRUNE_EVERY_NS = 60_000_000_000


class AskedDenies:
    """The refusals that one set ought to hold, by subject."""

    def __init__(self) -> None:
        self._asked: dict[Subject, Deny] = {}
        self._ranged: set[Subject] = set()
        self._wanted: list[Element] | None = None
        self._next_prune_ns = 0

    def get(self, subject: Subject) -> Deny | None:
        """What was asked for a subject."""
        return self._asked.get(subject)

    def remember(self, deny: Deny) -> None:
        """Ask from now on."""
        self._wanted = None
        self._asked[deny.subject] = deny
        if deny.ranges:
            self._ranged.add(deny.subject)
        else:
            self._ranged.discard(deny.subject)

    def forget(self, subject: Subject) -> None:
        """Ask no longer."""
        self._wanted = None
        self._asked.pop(subject, None)
        self._ranged.discard(subject)

    def clear(self) -> None:
        """Ask for nobody."""
        self._wanted = None
        self._asked.clear()
        self._ranged.clear()

    def prune(self, now_ns: int) -> None:
        """Ask no longer for what is over; once a minute."""
        if now_ns >= self._next_prune_ns:
            self._next_prune_ns = now_ns + _PRUNE_EVERY_NS
            for subject in [subject for subject, deny in self._asked.items() if deny.until_ns <= now_ns]:
                self.forget(subject)

    def find_owners(self, ranges: Iterable[Interval]) -> list[Subject]:
        """Who asked for any of these uids."""
        region = merge_intervals(ranges)
        return [subject for subject, deny in self._asked.items() if clip(list_claims(deny), region)]

    def list_wanted(self, now_ns: int) -> list[Element]:
        """All that is asked for and not over, as disjoint elements in order; kept until something else is asked for."""
        known = self._wanted
        if known is None or any(element.until_ns <= now_ns for element in known):
            claims = [claim for deny in self._asked.values() if deny.until_ns > now_ns for claim in list_claims(deny)]
            known = self._wanted = flatten(claims)
        return known

    def is_shared(self, subject: Subject, claims: Sequence[Element]) -> bool:
        """Whether another account claims one of these uids. Without ranges nobody claims another's."""
        ranged = len(claims) > 1 or any(claim.first != claim.last for claim in claims)
        others: Iterable[Subject] = self._asked if ranged else self._ranged
        region = merge_intervals((claim.first, claim.last) for claim in claims)
        return any(clip(list_claims(self._asked[other]), region) for other in others if other != subject)
