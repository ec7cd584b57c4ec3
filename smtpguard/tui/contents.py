"""All that the screen can show: attempts that are kept, sums over all of them, and what the guard says. Pure."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from smtpguard.tui.facts import Facts, Link
from smtpguard.tui.sightings import Sighting
from smtpguard.tui.tally import MAX_PLACES, MAX_SCRIPTS, MAX_USERS, Sums

MAX_KEPT = 10_000
"""Attempts that can be looked at; older ones are in the sums only."""


@dataclass(slots=True)
class Contents:
    """What is shown, or is going to be.

    Attributes:
        kept: The latest attempts with their serial numbers, the oldest first.
        users, scripts, places: Sums over everything since `since_ns`.
        seen: How many attempts came in all.
        left_out: How many came too fast and are in none of it.
        facts: What the guard says.
        link: Where attempts come from, and `why` not from the daemon.
        now_ns: Wall time of all this.
        since_ns: When it began, or was cleared.
        version: Another one where a list of it may be another one.
    """

    kept: deque[tuple[int, Sighting]]
    users: Sums
    scripts: Sums
    places: Sums
    seen: int
    left_out: int
    facts: Facts
    link: Link
    why: str
    now_ns: int
    since_ns: int
    version: int = 0

    @classmethod
    def begin(cls, now_ns: int) -> "Contents":
        """An empty one."""
        return cls(
            kept=deque(maxlen=MAX_KEPT),
            users=Sums(MAX_USERS),
            scripts=Sums(MAX_SCRIPTS),
            places=Sums(MAX_PLACES),
            seen=0,
            left_out=0,
            facts=Facts(),
            link="begin",
            why="",
            now_ns=now_ns,
            since_ns=now_ns,
        )

    def copy(self) -> "Contents":
        """One that does not change any more."""
        return Contents(
            kept=self.kept.copy(),
            users=self.users.copy(),
            scripts=self.scripts.copy(),
            places=self.places.copy(),
            seen=self.seen,
            left_out=self.left_out,
            facts=self.facts,
            link=self.link,
            why=self.why,
            now_ns=self.now_ns,
            since_ns=self.since_ns,
            version=self.version,
        )


def name_script(sighting: Sighting) -> str:
    """What is summed up as a script: where none is known, the program's name in brackets."""
    return sighting.script if sighting.script != "-" else f"[{sighting.proc}]"


class Collector:
    """Takes what comes.

    Args:
        now_ns: Wall time.

    Attributes:
        contents: What there is.
    """

    def __init__(self, now_ns: int) -> None:
        self.contents = Contents.begin(now_ns)
        self._numbers = count(1)

    def add(self, sightings: Iterable[Sighting]) -> None:
        """Take attempts."""
        contents = self.contents
        for sighting in sightings:
            contents.seen += 1
            contents.kept.append((next(self._numbers), sighting))
            contents.users.add(sighting.user, sighting)
            contents.scripts.add(name_script(sighting), sighting)
            contents.places.add(sighting.address, sighting)

    def clear(self, now_ns: int) -> None:
        """Forget all attempts; what the guard says stays."""
        old = self.contents
        self.contents = Contents.begin(now_ns)
        self.contents.facts, self.contents.link, self.contents.why = old.facts, old.link, old.why
        self.contents.version = old.version + 1
