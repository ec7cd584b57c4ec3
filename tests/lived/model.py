"""Who may send and who may not, by what has been done to the host; and whether everybody got what they ought to.

The model knows what an administrator would expect, and nothing of how the guard does it. Times are CLOCK_REALTIME of
this process, in nanoseconds: nobody sets that clock, the daemon's own is a faked one.
"""

import contextlib
import errno
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from smtpguard.daemon.enforce.reconciler import SETTLE_NS
from smtpguard.logline import LogLine
from smtpguard.model import NS
from tests.support.crowd import Attempt

REFUSED = frozenset({errno.EPERM, errno.ECONNREFUSED, errno.ECONNRESET})
LINK_ERRORS = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ECONNABORTED}
)
SURE_NS = NS
"""A block ends within a second of its end: nobody says before what a connection then finds."""
HEARING_S = 0.05
"""How late the daemon may hear of a connection that it judges itself."""

Kind = Literal["spammer", "innocent", "newsletter", "guest"]
What = Literal["free", "blind", "dead", "lost", "unsaved", "bare", "stopped", "link"]
"""What a time was: `free` nobody had to be refused, and windows may have been emptied; `blind` the program in the
kernel was not there; `dead` nor was the daemon; `lost` what was counted may be forgotten; `unsaved` so may blocks that
began, as nothing got into the state's file until the daemon ended; `bare` the table was not there; `stopped` the daemon
stood still; `link` the network was down."""


class Outlook(Enum):
    """What becomes of somebody's next connection."""

    PASSES = "passes"
    REFUSED = "is refused"
    OPEN = "nobody can say"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a spammer is held to.

    Attributes:
        port: Where they send.
        rate: How often they try in a second.
        limit: How many may pass.
        window_s: In how long.
        credited: Whether the kernel counts, so that not one more passes; else the daemon judges what it hears of.
    """

    port: int
    rate: float
    limit: int
    window_s: float
    credited: bool


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which something was so; `who` is None for everybody."""

    what: What
    begun_ns: int
    ended_ns: int
    who: int | None = None

    def covers(self, attempt: Attempt) -> bool:
        return self.touches(attempt.begun_ns, attempt.ended_ns)

    def touches(self, begun_ns: int, ended_ns: int) -> bool:
        return begun_ns <= self.ended_ns and self.begun_ns <= ended_ns


@dataclass(slots=True)
class Person:
    """Somebody with an account.

    Attributes:
        blocks: By whom they are blocked until when, source to time.
        exempt: Why nothing may refuse them: their group, or the configuration.
        unclear_until_ns: Until then nobody can say what they may.
    """

    name: str
    uid: int
    kind: Kind
    rule: Rule | None = None
    blocks: dict[str, int] = field(default_factory=dict)
    exempt: set[str] = field(default_factory=set)
    unclear_until_ns: int = 0

    def free(self) -> None:
        """Whatever was active for them has ended."""
        self.blocks.clear()


class Model:
    """The host as it ought to be.

    Attributes:
        calm: Why nobody is refused at all: it is off, a dry run.
        places: Destinations that pass whoever connects.
        link_is_up: Whether anything can pass.
        spans: What was when; for the final judgement.
    """

    def __init__(self, people: Sequence[Person]) -> None:
        self.people = {person.name: person for person in people}
        self.calm: set[str] = set()
        self.places: set[str] = set()
        self.link_is_up = True
        self.spans: list[Span] = []

    def of_kind(self, kind: Kind) -> list[Person]:
        return [person for person in self.people.values() if person.kind == kind]

    def outlook(self, person: Person, place: str) -> Outlook:
        """What becomes of a connection that somebody opens now."""
        now_ns = time.time_ns()
        if not self.link_is_up or now_ns < person.unclear_until_ns:
            return Outlook.OPEN
        if self.calm or person.exempt or place in self.places or person.kind in ("innocent", "newsletter"):
            return Outlook.PASSES
        if any(until_ns - SURE_NS > now_ns for until_ns in person.blocks.values()):
            return Outlook.REFUSED
        if any(until_ns + SURE_NS > now_ns for until_ns in person.blocks.values()) or person.kind == "spammer":
            return Outlook.OPEN
        return Outlook.PASSES

    @contextlib.contextmanager
    def span(self, what: What, *, before_s: float = 0, after_s: float = 0, who: int | None = None) -> Iterator[None]:
        """Note that it was so while something was done, and a little before and after."""
        begun_ns = time.time_ns() - round(before_s * NS)
        try:
            yield
        finally:
            self.spans.append(Span(what, begun_ns, time.time_ns() + round(after_s * NS), who))

    @contextlib.contextmanager
    def being_calm(self, why: str, *, after_s: float = 0.1) -> Iterator[None]:
        """Nobody is refused meanwhile."""
        with self.span("free", after_s=after_s):
            self.calm.add(why)
            try:
                yield
            finally:
                self.calm.discard(why)


# -- the final judgement ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """A block that is enforced, by the log."""

    begun_ns: int
    ended_ns: int


def list_blocks(lines: Sequence[LogLine], user: str, to_real: Callable[[int], int]) -> list[Held]:
    """When a user was blocked. A person's word ends all blocks; of several, time ends the one whose end it is.

    The next block may begin before that is told: after a time in which nobody was refused the window is full.

    Args:
        lines: The event log, in any order: of several files.
        user: Whose.
        to_real: The daemon's wall clock to ours.
    """
    found: list[Held] = []
    for line in sorted(lines, key=lambda line: to_real(line.wall_ns)):
        if line.user != user:
            continue
        at_ns = to_real(line.wall_ns)
        if line.event == "UNBLOCK":
            ended = found
            if line.fields["BY"] == "time":
                ended = sorted(found, key=lambda b: abs(b.ended_ns - at_ns))[:1]
            found = [Held(b.begun_ns, min(b.ended_ns, at_ns)) if b in ended else b for b in found]
        elif line.event in ("BLOCK", "EXTENDED") and line.fields["MODE"] == "enforce":
            until_ns = line.fields["UNTIL"]
            assert isinstance(until_ns, int)
            going_on = found.pop() if line.event == "EXTENDED" and found and found[-1].ended_ns >= at_ns else None
            found.append(Held(going_on.begun_ns if going_on else at_ns, to_real(until_ns)))
    return found


class WrongError(AssertionError):
    """Somebody did not get what they ought to.

    Args:
        what: In words.
        at_ns: When.
    """

    def __init__(self, what: str, at_ns: int) -> None:
        super().__init__(what)
        self.at_ns = at_ns


class Judge:
    """What one person may have got in the whole time.

    Args:
        person: Who.
        attempts: What they tried.
        spans: What was when.
        late_s: How late the daemon may hear of a connection.
    """

    def __init__(self, person: Person, attempts: Sequence[Attempt], spans: Sequence[Span], *, late_s: float) -> None:
        self._person = person
        self._late_s = late_s
        self._attempts = attempts
        self._spans = [span for span in spans if span.who in (None, person.uid)]

    def check_innocent(self) -> None:
        """Nobody refused them; what failed, failed with the network."""
        refused = [a for a in self._attempts if a.error in REFUSED]
        assert not refused, f"{self._person.name} was refused {len(refused)} times, {refused[:3]}"
        link = self._of("link")
        odd = [a for a in self._attempts if not a.passed and not _is_in(a, link)]
        assert not odd, f"{self._person.name} failed {len(odd)} times, {odd[:3]}"
        assert self._attempts, f"{self._person.name} did nothing"

    def check_limit(self) -> None:
        """Nothing over the limit but in the times in which nothing could hold."""
        rule = self._person.rule
        assert rule is not None
        window_ns = round(rule.window_s * NS)
        unheld = self._of("free", "blind", "dead", "lost")
        free = self._of("free")
        slow = self._of("stopped", "blind", "dead")
        passed = [a for a in self._attempts if a.passed and not _is_in(a, unheld)]
        for index, first in enumerate(passed):
            within = [a for a in passed[index : index + 4 * rule.limit] if a.begun_ns - first.begun_ns < window_ns]
            if len(within) <= rule.limit:
                continue
            last = within[-1]
            if any(span.touches(first.begun_ns, last.ended_ns) for span in free):
                continue  # a verdict empties the window, whether or not it refuses anybody
            standing_ns = sum(
                min(s.ended_ns, last.ended_ns) - max(s.begun_ns, first.begun_ns)
                for s in slow
                if s.touches(first.begun_ns, last.ended_ns)
            )
            blind = any(s.touches(first.begun_ns, last.ended_ns) for s in self._of("blind", "dead"))
            more = 0 if rule.credited and not blind else math.ceil(rule.rate * (standing_ns / NS + self._late_s))
            if len(within) > rule.limit + more:
                raise WrongError(
                    f"{len(within)} of {self._person.name} came through within {rule.window_s} s from "
                    f"{first.begun_ns / NS:.3f} to {last.begun_ns / NS:.3f}, at most {rule.limit + more} may",
                    first.begun_ns,
                )

    def check_blocks(self, blocks: Sequence[Held]) -> None:
        """Each block held, and ended on time."""
        rule = self._person.rule
        assert rule is not None
        free, blind, dead = self._of("free"), self._of("blind", "dead"), self._of("dead")
        unsaved = self._of("unsaved")
        bare = [span for span in self._of("bare") if any(span.touches(b.begun_ns, b.ended_ns) for b in blind)]
        more = math.ceil(rule.rate * self._late_s)
        deaf = [] if rule.credited else self._of("stopped")
        for block in blocks:
            # BPF refuses at once, nft (SETTLE_NS) and the state's file (a sync) a moment later: who is killed in that
            # moment may have said it and kept it nowhere. The windows are kept: the next verdict comes soon.
            cut = [span.begun_ns for span in dead if 0 <= span.begun_ns - block.begun_ns < 3 * SETTLE_NS]
            cut += [span.ended_ns for span in unsaved if span.begun_ns <= block.begun_ns < span.ended_ns]
            ended_ns = min([block.ended_ns, *cut])
            through = [
                a for a in self._attempts if a.passed and block.begun_ns < a.begun_ns and a.ended_ns < ended_ns
                and not _is_in(a, [*free, *bare, *deaf])
            ]  # fmt: skip
            who = self._person.name
            if len(through) > more:
                raise WrongError(f"{len(through)} of {who} came through a block", block.begun_ns)
        for block in blocks:
            end_ns = block.ended_ns
            if any(b.begun_ns < end_ns + NS and end_ns < b.ended_ns for b in blocks):
                continue  # another one goes on
            after = [a for a in self._attempts if 0 < a.begun_ns - end_ns - NS // 50 < NS]
            if len(after) >= 5 and all(a.error in REFUSED for a in after):
                raise WrongError(f"a block of {self._person.name} did not end within a second", end_ns)

    def _of(self, *what: What) -> list[Span]:
        return [span for span in self._spans if span.what in what]


def _is_in(attempt: Attempt, spans: Sequence[Span]) -> bool:
    return any(span.covers(attempt) for span in spans)
