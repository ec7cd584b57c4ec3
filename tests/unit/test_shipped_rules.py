"""The shipped rules: nobody ordinary is refused in a month, and hacked sites are. docs/limits.md has the figures.

With --update-golden they are written anew.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from smtpguard.model import NS
from tests.support.ordinary_hosts import DAY_S, Attack, in_time, make_users, spend_days
from tests.support.simulation import Found, make_engine, remember, run, shipped_settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "limits.md"
MARKED = re.compile(r"<!-- (ordinary month|hacked sites|stolen relay account) -->\n(.*?)<!-- end -->\n", re.DOTALL)
MONTH = range(60, 90)
HOURS = {1: 24.0, 10: 6.0, 100: 1.0, 1000: 0.25}
"""How long a hacked site of so many connects a minute is watched."""
SEEDS = range(5)
UID = 1001


@cache
def ordinary_month() -> Found:
    users = make_users(1)
    engine = make_engine()
    remember(engine, users, range(30, 60))
    return run(engine, spend_days(users, MONTH))


@cache
def hacked(a_minute: int, *, relay: bool) -> tuple[Found, ...]:
    seeds = SEEDS[:1] if relay else SEEDS
    attacks = [Attack(a_minute=a_minute, relay=relay, seed=seed) for seed in seeds]
    return tuple(run(make_engine(), attack.attempts(UID, HOURS[a_minute])) for attack in attacks)


def seconds_until(times_ns: Iterable[int]) -> float | None:
    """How long after the first attempt the first of these was."""
    return min(((time_ns - in_time(0)) / NS for time_ns in times_ns), default=None)


def until_told(found: Found) -> float | None:
    return seconds_until(verdict.time_ns for verdict in found.verdicts)


def until_stopped(found: Found, kind: str = "block") -> float | None:
    return seconds_until(block.since_ns for block in found.blocks if block.kind == kind)


def show_span(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def show_spread(spans: Sequence[float | None]) -> str:
    known = [span for span in spans if span is not None]
    assert len(known) == len(spans)
    return f"{show_span(median(known))} ({show_span(max(known))})"


def render_month() -> Iterator[str]:
    found = ordinary_month()
    yield f"{found.attempts:,} connections, {found.refused} refused, {len(found.verdicts)} warnings:"
    yield ""
    yield "| rule | action | warnings | of how many users |"
    yield "|---|---|---|---|"
    counts = found.by_rule()
    for rule in shipped_settings().rules:
        yield f"| {rule.name} | {rule.action} | {counts[rule.name]} | {len(found.users_of(rule.name))} |"


def render_hacked() -> Iterator[str]:
    yield "| connects a minute | reported after | stopped after | mails | in |"
    yield "|---|---|---|---|---|"
    for a_minute, hours in HOURS.items():
        runs = hacked(a_minute, relay=False)
        passed = [each.attempts - each.refused for each in runs]
        told, stopped = show_spread([*map(until_told, runs)]), show_spread([*map(until_stopped, runs)])
        yield f"| {a_minute:,} | {told} | {stopped} | {median(passed)} ({max(passed)}) | {hours:g} h |"


def render_relay() -> Iterator[str]:
    yield "| connects a minute | reported after | slowed after | mails | of | in |"
    yield "|---|---|---|---|---|---|"
    for a_minute, hours in HOURS.items():
        (found,) = hacked(a_minute, relay=True)
        told, slowed = show_span(until_told(found)), show_span(until_stopped(found, "throttle"))
        passed = found.attempts - found.refused
        yield f"| {a_minute:,} | {told} | {slowed} | {passed:,} | {found.attempts:,} | {hours:g} h |"


def render_document(text: str) -> str:
    makers = {"ordinary month": render_month, "hacked sites": render_hacked, "stolen relay account": render_relay}

    def fill(match: re.Match[str]) -> str:
        lines = "\n".join(makers[match[1]]())
        return f"<!-- {match[1]} -->\n{lines}\n<!-- end -->\n"

    return MARKED.sub(fill, text)


def test_a_month_of_ordinary_users_sees_no_refusal() -> None:
    found = ordinary_month()
    assert found.attempts > 400_000
    assert (found.refused, found.blocks) == (0, [])
    assert {verdict.action for verdict in found.verdicts} == {"warn"}


def test_ordinary_users_do_what_they_are_said_to_do() -> None:
    """A month without noise would prove nothing: the users come near the limits, and some are told of."""
    users = make_users(1)
    week = [*spend_days(users, range(MONTH.start, MONTH.start + 7))]
    assert len(users) == 300
    assert week == sorted(week)
    assert {attempt.port for attempt in week} == {25, 465, 587}
    assert len({attempt.uid for attempt in week}) > 250
    found = ordinary_month()
    a_day = found.attempts / len(MONTH)
    assert a_day > 300 * 40
    assert {"mx-busy", "hourly", "daily", "submission-busy", "submission-fanout", "volume"} <= set(found.by_rule())
    assert (MONTH.stop - MONTH.start) * DAY_S == 30 * DAY_S


@pytest.mark.parametrize("a_minute", HOURS)
def test_a_hacked_site_is_stopped(a_minute: int) -> None:
    for found in hacked(a_minute, relay=False):
        stopped_s = until_stopped(found)
        assert stopped_s is not None
        assert stopped_s < 3600
        told_s = until_told(found)
        assert told_s is not None
        assert told_s <= stopped_s, "a newcomer's first networks are told before"
        assert found.attempts - found.refused < 200


@pytest.mark.parametrize("a_minute", HOURS)
def test_a_stolen_relay_account_is_never_blocked(a_minute: int) -> None:
    """It looks like a newsletter; only what no hoster sells is slowed."""
    (found,) = hacked(a_minute, relay=True)
    assert {block.kind for block in found.blocks} == ({"throttle"} if a_minute > 300 else set())
    assert (until_told(found) is not None) == (a_minute >= 10)


def test_the_document_has_the_figures(request: pytest.FixtureRequest) -> None:
    text = DOCUMENT.read_text("utf-8")
    rendered = render_document(text)
    if request.config.getoption("--update-golden"):
        DOCUMENT.write_text(rendered, "utf-8")
        text = rendered
    assert text == rendered, "write docs/limits.md anew: pytest --update-golden " + __file__
