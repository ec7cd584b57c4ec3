"""What stood in the log, was tried, and was going on around a moment: for the report of a judgement that fails."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from smtpguard.logline import LogLine
from smtpguard.model import NS
from tests.lived.model import Person, Span
from tests.support.crowd import Attempt

_BEFORE_NS, _AFTER_NS = 10 * NS, 4 * NS
_FIELDS = ("BY", "UNTIL", "RULE", "COUNT", "MODE", "KIND", "PORTS", "REASON")


def list_around(
    at_ns: int,
    person: Person,
    *,
    lines: Iterable[LogLine],
    attempts: Sequence[Attempt],
    spans: Iterable[Span],
    to_real: Callable[[int], int],
) -> list[str]:
    """One line each, with the seconds from that moment, in order.

    Args:
        at_ns: The moment, by our clock.
        person: Whom it concerns.
        lines: The event log.
        attempts: What they tried.
        spans: What was when.
        to_real: The daemon's wall clock to ours.
    """
    found = [(to_real(line.wall_ns), _render(line, at_ns, to_real)) for line in lines if line.user == person.name]
    found += [
        (span.begun_ns, f"{span.what} until {(span.ended_ns - at_ns) / NS:+.3f}")
        for span in spans
        if span.who in (None, person.uid) and span.touches(at_ns - _BEFORE_NS, at_ns + _AFTER_NS)
    ]
    found += _list_runs(attempts, at_ns)
    near = sorted((when, text) for when, text in found if text and when < at_ns + _AFTER_NS)
    return [f"{(when - at_ns) / NS:+9.3f} {text}" for when, text in near if when > at_ns - _BEFORE_NS]


def _render(line: LogLine, at_ns: int, to_real: Callable[[int], int]) -> str:
    if line.event == "CONNECT":
        return ""
    fields = {name: line.fields[name] for name in _FIELDS if name in line.fields}
    if isinstance(until_ns := fields.get("UNTIL"), int):
        fields["UNTIL"] = f"{(to_real(until_ns) - at_ns) / NS:+.3f}"
    return " ".join([line.event, *(f"{name}={value!s}" for name, value in fields.items())])


def _list_runs(attempts: Sequence[Attempt], at_ns: int) -> Iterator[tuple[int, str]]:
    """Attempts that fared alike, one after the other."""
    near = [a for a in attempts if at_ns - _BEFORE_NS < a.begun_ns < at_ns + _AFTER_NS]
    first = 0
    for number, attempt in enumerate(near):
        if number + 1 == len(near) or near[number + 1].error != attempt.error:
            begun_ns = near[first].begun_ns
            last = f"{(attempt.begun_ns - at_ns) / NS:+.3f}"
            yield begun_ns, f"{number + 1 - first} attempts until {last}: errno {attempt.error}"
            first = number + 1
