"""How long this guard has known who sends, for `novel` rules: kept over restarts, and lengthened by logs of before.

What was watched is written down every ten minutes. A pause of more than a day, be the guard stopped or blind, begins
anew: who sent meanwhile would look like a newcomer.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from smtpguard.clock import WallMap
from smtpguard.logline import render_time
from smtpguard.model import NS, Subject
from smtpguard.policy.engine import Engine
from smtpguard.policy.history import MAX_GAP_NS, Span, add_spans, known_since, speaks_from, watched_since
from smtpguard.settings import Settings
from smtpguard.state.last_good import FactKeeper
from smtpguard.state.learned import LEARNED, WATCHED, read_spans, render_spans
from smtpguard.state.rows import FactRow
from smtpguard.text import render_minute

log = logging.getLogger(__name__)

WRITE_NS = 600 * NS
"""How often it is written down until when the guard has watched."""


class IsSeeing(Protocol):
    """Says whether connections are seen now."""

    def __call__(self) -> bool:
        """Whether a source works."""
        ...


class LearningPeriod:
    """What is known of the past.

    Args:
        engine: Whose rules ask.
        keeper: Keeps facts.
        wall: Event time to wall time.
        is_seeing: Whether connections are seen.
    """

    def __init__(self, engine: Engine, keeper: FactKeeper, wall: WallMap, is_seeing: IsSeeing) -> None:
        self._engine = engine
        self._keeper = keeper
        self._wall = wall
        self._is_seeing = is_seeing
        self._watched: Span | None = None  # wall times, as all spans here
        self._learned: tuple[Span, ...] = ()
        self._written_ns = 0

    def restore(self, facts: Mapping[str, str], seen: Mapping[tuple[int, int], int], now_ns: int) -> None:
        """Take what an earlier run has kept, also when it could be read late only.

        Args:
            facts: What the state held.
            seen: When who was last seen on a port (wall time).
            now_ns: Event time.
        """
        wall_ns = self._wall.to_wall_ns(now_ns)
        self._learned = add_spans(self._learned, read_spans(facts, LEARNED))
        since_ns = watched_since(read_spans(facts, WATCHED), wall_ns)
        if self._watched is not None:
            since_ns = min(since_ns, self._watched[0])
        self._watched = (since_ns, wall_ns)
        self._take_seen(seen)
        self._tell()

    def learn(self, spans: Iterable[Span], seen: Mapping[tuple[int, int], int]) -> None:
        """Take what was read from logs while the guard runs.

        Args:
            spans: Which times they cover.
            seen: As for `restore`.
        """
        self._learned = add_spans(self._learned, spans)
        self._keeper.put(FactRow(name=LEARNED, value=render_spans(self._learned)))
        self._take_seen(seen)
        self._tell()

    def on_time(self, now_ns: int) -> None:
        """Once a second: note that it was watched until now, if it was."""
        if self._watched is None or not self._is_seeing():
            return
        wall_ns = self._wall.to_wall_ns(now_ns)
        since_ns, until_ns = self._watched
        if wall_ns - until_ns > MAX_GAP_NS:
            log.warning("nothing was seen for more than a day: rules with `novel` learn anew who sends")
            since_ns = wall_ns
        is_due = since_ns != self._watched[0] or now_ns >= self._written_ns + WRITE_NS
        self._watched = (since_ns, max(until_ns, wall_ns))
        if is_due:
            self._written_ns = now_ns
            self.write()
            self._tell()

    def write(self) -> None:
        """Keep until when was watched."""
        if self._watched is not None:
            self._keeper.put(FactRow(name=WATCHED, value=render_spans((self._watched,))))

    def clock_was_set(self, step_ns: int) -> None:
        """Somebody set the wall clock: what was watched keeps its length."""
        if self._watched is not None:
            self._watched = (self._watched[0] + step_ns, self._watched[1] + step_ns)
            self.write()
            self._tell()

    def waiting(self, settings: Settings, now_ns: int) -> dict[str, int]:
        """The rules that say nothing yet, and until when (wall time) they learn."""
        wall_ns = self._wall.to_wall_ns(now_ns)
        since_ns = self._since_ns()
        times = {rule.name: speaks_from(rule, since_ns) for rule in settings.rules}
        return {name: until_ns for name, until_ns in times.items() if until_ns is not None and until_ns > wall_ns}

    def render(self, settings: Settings, now_ns: int) -> str | None:
        """One line for people: who says nothing yet, and until when; None if all speak."""
        waiting = self.waiting(settings, now_ns)
        if not waiting:
            return None
        until = ", ".join(f"{name} until {render_minute(render_time(moment))}" for name, moment in waiting.items())
        return f"rules that still learn who sends: {until}. Sooner: smtpguard replay --learn FILE..."

    def _since_ns(self) -> int:
        watched_ns = self._watched[0] if self._watched is not None else 0
        return known_since(watched_ns, self._learned)

    def _take_seen(self, seen: Mapping[tuple[int, int], int]) -> None:
        for (uid, port), wall_ns in seen.items():
            self._engine.memory.restore_seen(Subject(id=uid), port, wall_ns - self._wall.offset_ns)

    def _tell(self) -> None:
        self._engine.memory.know_since(self._since_ns() - self._wall.offset_ns)
