"""What the loop does with a part that raises: it is told with its trace, counted, rests a little, and goes on.

A part on the way of a verdict rests a second at most, because nobody is judged meanwhile; while it fails, `status` says
that the guard is not ready. One that still fails after a minute ends the process: what it holds in memory may be what
is wrong with it, and the service manager has the guard back in a second, with every block.
"""

import logging
from collections import Counter
from dataclasses import dataclass

from smtpguard.errors import GuardError
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.text import render_escaped, to_bytes

log = logging.getLogger(__name__)

FIRST_REST_NS = NS // 10
LONGEST_REST_NS = 10 * NS
LONGEST_VITAL_REST_NS = NS
WELL_NS = 10 * NS
"""Without an error for so long, a part is well again."""
LAST_NS = 60 * NS
"""A part on the way of a verdict that fails for so long ends the process."""
_RECENT_NS = 15 * 60 * NS
"""How long a mistake of a thread is a trouble; it goes on, or another takes its place when it is needed."""
_UNDONE = {
    "event-log": "events may not have been written",
    "state": "blocks and windows may be stored late",
    "names-of-destinations": "exempt names may be looked up late",
    "rdns": "a name of an address was not looked up",
}
"""What a thread has left undone, by the beginning of its name."""
_MAX_TOLD = 500


class PartError(GuardError):
    """A part that no verdict can do without goes on failing: the process ends, so that it begins anew."""


@dataclass(slots=True)
class Health:
    """How a part fares.

    Attributes:
        name: What it is called in `status` and in metrics.
        vital: Whether it is on the way of a verdict.
        in_a_row: Errors since it was well.
        since_ns: When it began to fail; None while it is well.
        rests_until_ns: It is left alone until then (CLOCK_BOOTTIME); None while it works.
        well_ns: When it is well again, if nothing happens.
        error: The last error, for people.
    """

    name: str
    vital: bool = False
    in_a_row: int = 0
    since_ns: int | None = None
    rests_until_ns: int | None = None
    well_ns: int = 0
    error: str = ""


class Supervision:
    """Keeps count of what parts raised.

    Args:
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        failures: Errors since the start, by part.
        vital_failures: Those of parts on the way of a verdict.
    """

    def __init__(self, now: ClockNs) -> None:
        self._now = now
        self._failing: dict[str, Health] = {}
        self.failures: Counter[str] = Counter()
        self.vital_failures = 0
        self._mistakes: dict[str, tuple[int, str]] = {}

    def note(self, health: Health, error: Exception) -> None:
        """A part has raised: let it rest.

        Args:
            health: How it fared until now.
            error: What it raised.

        Raises:
            PartError: It can't go on, and nothing can without it.
        """
        now_ns = self._now()
        if health.since_ns is None or now_ns >= health.well_ns:
            health.since_ns, health.in_a_row = now_ns, 0
        same = health.in_a_row > 0 and health.error == _render(error)
        self.record(health.name, error, trace=not same)
        health.in_a_row += 1
        health.error = _render(error)
        longest_ns = LONGEST_VITAL_REST_NS if health.vital else LONGEST_REST_NS
        rest_ns = min(FIRST_REST_NS << min(health.in_a_row - 1, 16), longest_ns)
        health.rests_until_ns = now_ns + rest_ns
        health.well_ns = health.rests_until_ns + WELL_NS
        self._failing[health.name] = health
        if health.vital:
            self.vital_failures += 1
            if now_ns - health.since_ns >= LAST_NS:
                raise PartError(
                    f"the part {health.name} fails since {(now_ns - health.since_ns) // NS} s: {health.error}",
                    fix="the guard ends, so that it can be started anew",
                ) from error

    def record(self, name: str, error: BaseException, *, trace: bool = True) -> None:
        """Tell and count an error of something that needs no rest: a request, a thread."""
        self.failures[name] += 1
        log.error(
            "the part %s has failed (%d since the start): %s",
            name,
            self.failures[name],
            _render(error),
            exc_info=error if trace else None,
        )

    def note_thread(self, name: str, error: BaseException) -> None:
        """A thread has made a mistake: tell, count, and remember it for `troubles`. Called in that thread."""
        self._mistakes[name] = self._now(), _render(error)
        self.record(f"thread {name}", error)

    def _render_mistakes(self) -> list[str]:
        """What threads have failed at of late."""
        found = []
        for name, (time_ns, error) in list(self._mistakes.items()):
            if self._now() - time_ns < _RECENT_NS:
                undone = next((text for begin, text in _UNDONE.items() if name.startswith(begin)), "")
                what = f": {undone}; it is taken up again, and its trace" if undone else "; its trace"
                found.append(f"the thread {name} has failed: {error}{what} is in the log")
        return found

    def failing(self) -> list[Health]:
        """The parts that fail now."""
        now_ns = self._now()
        for health in [health for health in self._failing.values() if now_ns >= health.well_ns]:
            health.since_ns = None
            del self._failing[health.name]
            log.warning("the part %s works again", health.name)
        return list(self._failing.values())

    def is_ready(self) -> bool:
        """Whether all parts on the way of a verdict work."""
        return not any(health.vital for health in self.failing())

    def is_sound(self) -> bool:
        """Whether attempts are judged; one error, from which a part went on at once, does not make it unsound."""
        return not any(health.vital and health.in_a_row > 1 for health in self.failing())

    def troubles(self) -> list[str]:
        """What fails now, for `status`."""
        return [
            f"{'NOT JUDGING RELIABLY: ' if health.vital else ''}the part {health.name} fails: {health.error}; "
            "it is taken up again, its trace is in the log"
            for health in self.failing()
        ] + self._render_mistakes()


def _render(error: BaseException) -> str:
    words = f"{type(error).__name__}: {error}"[:_MAX_TOLD].split(" ")
    return " ".join(render_escaped(to_bytes(word)) for word in words)
