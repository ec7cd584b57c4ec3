"""What one means of enforcement was told, and what has to be told to it so that it holds what the blocks add up to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from smtpguard.actions.base import Deny, Enforcer, Exemptions, Reach
from smtpguard.model import Subject

Wanted = Mapping[Subject, Mapping[Reach, Deny]]
"""What the blocks in force add up to, by subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """What differs.

    Attributes:
        denies: What begins or changes.
        releases: What ends.
        over: What the kernel has ended by itself.
    """

    denies: list[Deny]
    releases: list[tuple[Subject, Reach]]
    over: list[tuple[Subject, Reach]]


@dataclass(slots=True)
class Told:
    """What one enforcer was told and has not refused."""

    enforcer: Enforcer
    exemptions: Exemptions | None = None
    denies: dict[Subject, dict[Reach, Deny]] = field(default_factory=dict)
    failed: set[Subject] = field(default_factory=set)
    trouble: str | None = None

    def find_changes(self, subjects: Iterable[Subject], wanted: Wanted, now_ns: int) -> Differences:
        """What has to be told about some subjects.

        Args:
            subjects: Of whom.
            wanted: What their blocks add up to.
            now_ns: CLOCK_BOOTTIME.
        """
        denies: list[Deny] = []
        releases: list[tuple[Subject, Reach]] = []
        over: list[tuple[Subject, Reach]] = []
        for subject in subjects:
            merged = wanted.get(subject, {})  # {}: they were told of, and have no block any more
            known = self.denies.get(subject, {})
            for reach in {**merged, **known}:
                deny, held = merged.get(reach), known.get(reach)
                if deny is not None and deny != held:
                    denies.append(deny)
                elif deny is None and held is not None:
                    (over if held.until_ns <= now_ns else releases).append((subject, reach))
        return Differences(denies=denies, releases=releases, over=over)
