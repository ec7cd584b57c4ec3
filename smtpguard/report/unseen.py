"""What a report can't see, in sentences: it never says that nobody sent where nobody looked. Pure."""

from collections.abc import Iterator, Sequence

from smtpguard.logline import render_time
from smtpguard.model import NS
from smtpguard.report.host_report import Gap, HostReport
from smtpguard.report.report_input import ReportInput
from smtpguard.settings import MINUTE_NS
from smtpguard.text import render_count, render_duration

MAX_GAPS = 10


def render_moment(wall_ns: int) -> str:
    """A time for people: `2026-10-25 02:30 +0200`, as an hour comes twice when summer time ends."""
    text = render_time(wall_ns)
    return f"{text[:10]} {text[11:16]} {text[-6:].replace(':', '')}"


def list_unseen(report: HostReport, given: ReportInput) -> Iterator[str]:
    """Sentences, the gravest first."""
    yield from _tell_blind(report, given)
    if report.losses is None:
        yield "What was lost on its way here is not known. See: smtpguard status."
    elif report.losses:
        yield "What was lost on its way here stands above. Whose it was is not known."
    yield from _tell_lost_since(report, given)
    for gap in report.off[:MAX_GAPS]:
        yield f"The guard was off, and refused nobody, from {_render_gap(gap)}."
    if len(report.off) > MAX_GAPS:
        yield f"It was off {len(report.off)} times."
    yield from _tell_late(given)
    if report.messages is None:
        yield "Mail handed to the local mail server (sendmail, mail()) is not counted."
    yield from _tell_places(report)
    changes = given.parts.get("changes")
    if changes is not None and changes.get("has_more"):
        yield "The oldest blocks have no room here. See: smtpguard events --kind block."
    if report.fullest is None:
        reason = "the configuration can't be read" if given.rules is None else "there is too much to look at"
        yield f"The fullest windows are not known: {reason}."
    elif given.own_rules is None:
        yield "The fullest windows are held against the rules of all, not those of `users`: there are too many users."
    yield "Attempts in containers of nobody on this host are in the log only."


def tell_seen(report: HostReport) -> str:
    """The first line: how much was seen, and whether anybody looked."""
    length_s = max(1, (report.until_ns - report.since_ns) // NS)
    if report.connects:
        users = render_count(report.user_count, "user")
        attempts = render_count(report.connects, "attempt")
        return f"{attempts} by {users}, {report.refused} refused"
    if not report.watched_s:
        return "UNKNOWN: nothing was watched in this time"
    if report.blind:
        return f"No attempt was seen, but {render_duration(length_s - report.watched_s)} were not watched"
    return "No attempt was seen"


def _tell_blind(report: HostReport, given: ReportInput) -> Iterator[str]:
    watched = given.parts.get("watched")
    first_ns = None if watched is None else watched["first_ns"]
    if first_ns is None:
        yield "It is not known when connections were watched: the record has nothing of it."
        return
    if first_ns > report.since_ns:
        yield f"The record begins at {render_moment(first_ns)}. Before that nothing is known."
    yield from _tell_gaps([gap for gap in report.blind if gap.until_ns > first_ns])


def _tell_gaps(gaps: Sequence[Gap]) -> Iterator[str]:
    for gap in sorted(gaps, key=lambda gap: gap.since_ns - gap.until_ns)[:MAX_GAPS]:
        yield f"Blind from {_render_gap(gap)}."
    if len(gaps) > MAX_GAPS:
        rest = sum(gap.until_ns - gap.since_ns for gap in gaps) / NS
        yield f"There are {len(gaps)} such gaps, {render_duration(rest)} together."


def _render_gap(gap: Gap) -> str:
    length = render_duration((gap.until_ns - gap.since_ns) / NS)
    return f"{render_moment(gap.since_ns)} to {render_moment(gap.until_ns)} ({length})"


def _tell_lost_since(report: HostReport, given: ReportInput) -> Iterator[str]:
    """From when on losses are known, where the record itself is older."""
    losses, watched = given.parts["losses"], given.parts["watched"]
    if report.losses is None or losses is None or watched is None:
        return
    begun_ns = max(report.since_ns, watched["first_ns"] or 0)
    if losses["first_ns"] > begun_ns + MINUTE_NS:
        yield f"What was lost before {render_moment(losses['first_ns'])} is not known."


def _tell_late(given: ReportInput) -> Iterator[str]:
    late = sorted(part for part, found in given.parts.items() if found is None)
    if late:
        yield f"Not read, as it took too long: {', '.join(late)}."


def _tell_places(report: HostReport) -> Iterator[str]:
    if (report.since_ns, report.until_ns) != (report.places_since_ns, report.places_until_ns):
        span = f"{render_moment(report.places_since_ns)} to {render_moment(report.places_until_ns)}"
        yield f"Destinations and scripts are of full hours: {span}."
    else:
        left_out = report.connects - sum(port.connects for port in report.ports)
        if left_out > 0:
            yield f"Of {render_count(left_out, 'attempt')} no destination was kept: there were too many."
    if report.own_unknown:
        attempts = render_count(report.own_unknown, "attempt")
        yield f"Of {attempts} it is not known from which address of this host they came."
    if report.unnamed:
        yield f"Of {render_count(report.unnamed, 'attempt')} the script is not known."
    for what, shown, every in (
        ("users", len(report.users), report.user_count),
        ("destinations", len(report.destinations), report.destination_count),
        ("own addresses", len(report.own_addresses), report.own_count),
    ):
        if shown < every:
            yield f"Of {every} {what} the busiest {shown} are listed."
