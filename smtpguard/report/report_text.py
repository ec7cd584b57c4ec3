"""A report as text for a terminal, cron and mail: 78 columns, printable ASCII. Pure."""

from collections.abc import Iterator, Sequence

from smtpguard.model import NS
from smtpguard.report.host_report import HostReport, ReportedBlock
from smtpguard.report.unseen import render_moment, tell_seen
from smtpguard.text import render_count, render_duration, render_ports, render_words

WIDTH = 78
MAX_ROWS = 20
"""Of each table; html and json have more."""
_USER = 24
_OWN_USERS = 3
Table = tuple[Sequence[str], list[Sequence[str]]]


def render_text(report: HostReport) -> Iterator[str]:
    """The lines."""
    length = render_duration((report.until_ns - report.since_ns) // NS)
    yield cut(f"smtpguard report of {render_words(report.host)}", WIDTH)
    yield f"{render_moment(report.since_ns)} to {render_moment(report.until_ns)}, {length}"
    yield ""
    yield from _summary(report)
    yield from _section("USERS", _users(report), len(report.users), report.user_count)
    yield from _section("SCRIPTS", _scripts(report), len(report.scripts), report.script_count)
    yield from _section("DESTINATIONS", _destinations(report), len(report.destinations), report.destination_count)
    yield from _section("PROVIDERS", _providers(report), len(report.providers), len(report.providers))
    yield from _section("PORTS", _ports(report), len(report.ports), len(report.ports))
    yield from _section("OWN ADDRESSES", _own(report), len(report.own_addresses), report.own_count)
    yield from _section("VERDICTS", _verdicts(report), len(report.verdicts), len(report.verdicts))
    yield from _section("BLOCKS", _blocks(report), len(report.blocks), len(report.blocks))
    yield from _section("FULLEST WINDOWS WITHOUT A VERDICT", _fullest(report), 0, 0)
    yield from ("", "WHAT THIS REPORT CAN'T SEE")
    for sentence in report.unseen:
        yield from wrap(f"- {render_words(sentence, max_bytes=500)}", WIDTH)


def cut(text: str, width: int) -> str:
    """A text that is too long ends in three dots."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."


def cut_path(text: str, width: int) -> str:
    """Of a path the end tells most."""
    return text if len(text) <= width else "..." + text[len(text) - width + 3 :]


def wrap(text: str, width: int) -> Iterator[str]:
    """A sentence in lines; a word that is too long is cut."""
    line = ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = " "
        line = cut(f"{line} {word}" if line else word, width)
    yield line


def tell_verdicts(report: HostReport) -> str:
    """Verdicts, and those of a dry run apart."""
    enforced, would = report.count_verdicts("enforce"), report.count_verdicts("dry-run")
    return f"{render_count(enforced, 'verdict')}" + (f"; {would} more in dry run, nothing refused" if would else "")


def tell_block(block: ReportedBlock) -> str:
    """What was refused and whose doing it was."""
    where = render_ports(block.ports) or " on all ports"
    would = "" if block.mode == "enforce" else " (dry run)"
    by = f"rule {block.rule}" if block.rule else f"by {block.who or block.by}"
    return f"{block.kind}{where}{would}, {render_words(by)}"


def tell_end(block: ReportedBlock) -> str:
    """When it ended, or is to end."""
    if block.ended_ns is not None:
        return f"ended {render_moment(block.ended_ns)} by {block.ended_by}"
    return "-" if block.until_ns is None else f"until {render_moment(block.until_ns)}"


def _summary(report: HostReport) -> Iterator[str]:
    yield tell_seen(report) + "."
    if report.verdicts:
        yield tell_verdicts(report) + "."
    if report.messages is not None:
        yield f"{render_count(report.messages, 'message')} to {render_count(report.recipients or 0, 'recipient')}."
    length_s = (report.until_ns - report.since_ns) // NS
    blind = "" if report.watched_s >= length_s else "  BLIND, see below"
    yield f"Watched {render_duration(report.watched_s)} of {render_duration(length_s)}.{blind}"
    if report.losses:
        told = ", ".join(f"{render_words(kind)} {count}" for kind, count in report.losses.items())
        yield from wrap(f"LOST: {told}", WIDTH)


def _section(title: str, table: Table, shown: int, every: int) -> Iterator[str]:
    head, rows = table
    if not rows:
        return
    most = min(shown, MAX_ROWS)
    yield ""
    yield title if every <= most else f"{title} ({most} of {every}, the busiest)"
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = [cell if cell.isascii() and cell.isprintable() else render_words(cell, max_bytes=WIDTH) for cell in row]
        cells = [
            cell.rjust(width) if _is_number(head[i]) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        yield cut("  ".join(cells).rstrip(), WIDTH)


def _is_number(head: str) -> bool:
    return head in {
        "ATTEMPTS",
        "REFUSED",
        "VERDICTS",
        "DRY RUN",
        "MAIL",
        "USERS",
        "FAILED",
        "CONNECTED",
        "PORT",
        "COUNT",
    }


def _users(report: HostReport) -> Table:
    head = ["USER", "ATTEMPTS", "REFUSED", "VERDICTS", "DRY RUN"]
    has_mail = report.messages is not None
    rows = [
        [
            cut(row.user, _USER),
            str(row.connects),
            str(row.refused),
            str(row.verdicts - row.would),
            str(row.would),
            *([str(row.messages)] if has_mail else []),
        ]
        for row in report.users[:MAX_ROWS]
    ]
    return ([*head, "MAIL"] if has_mail else head), list(rows)


def _scripts(report: HostReport) -> Table:
    rows = []
    for row in report.scripts[:MAX_ROWS]:
        script = cut_path(row.script, 52 if row.path_count == 1 else 38)
        more = "" if row.path_count == 1 else f" and {row.path_count - 1} more"
        rows.append([str(row.connects), str(row.refused), str(row.user_count), script + more])
        if row.sha256:
            rows.append(["", "", "", f"sha256 {row.sha256[:32]}"])
    return ("ATTEMPTS", "REFUSED", "USERS", "SCRIPT"), list(rows)


def _destinations(report: HostReport) -> Table:
    rows = [
        [
            str(row.connects),
            str(row.refused),
            "-" if row.failed is None else str(row.failed),
            str(row.users),
            cut(f"{row.address} port {row.port}" + (f" ({row.name})" if row.name else ""), 44),
        ]
        for row in report.destinations[:MAX_ROWS]
    ]
    return ("ATTEMPTS", "REFUSED", "FAILED", "USERS", "TO"), list(rows)


def _providers(report: HostReport) -> Table:
    rows = [[str(row.connects), str(row.refused), cut(row.provider, 50)] for row in report.providers[:MAX_ROWS]]
    return ("ATTEMPTS", "REFUSED", "PROVIDER"), list(rows)


def _ports(report: HostReport) -> Table:
    return ("PORT", "ATTEMPTS", "REFUSED"), [
        [str(row.port), str(row.connects), str(row.refused)] for row in report.ports[:MAX_ROWS]
    ]


def _own(report: HostReport) -> Table:
    rows: list[Sequence[str]] = []
    for row in report.own_addresses[:MAX_ROWS]:
        rows.append([str(row.connected), str(row.failed), str(row.user_count), row.address])
        shown = [f"{user.user} {user.connected + user.failed}" for user in row.users[:_OWN_USERS]]
        more = row.user_count - len(shown)
        rows.append(["", "", "", cut(", ".join(shown), 38) + (f" and {more} more" if more > 0 else "")])
    return ("CONNECTED", "FAILED", "USERS", "FROM"), rows


def _verdicts(report: HostReport) -> Table:
    rows = [
        [
            str(row.count),
            str(row.users),
            cut(row.rule, 22),
            row.action,
            "enforced" if row.mode == "enforce" else "dry run",
            render_moment(row.last_ns)[:16],
        ]
        for row in report.verdicts[:MAX_ROWS]
    ]
    return ("COUNT", "USERS", "RULE", "ACTION", "MODE", "LAST"), list(rows)


def _blocks(report: HostReport) -> Table:
    rows: list[Sequence[str]] = []
    for block in report.blocks[-MAX_ROWS:]:
        since = "before" if block.since_ns is None else render_moment(block.since_ns)[:16]
        rows.append([since, cut(block.user, 16), cut(tell_block(block), 40)])
        rows.append(["", "", cut(tell_end(block), 40)])
    return ("SINCE", "USER", "WHAT"), rows


def _fullest(report: HostReport) -> Table:
    rows = [
        [
            cut(row.user, _USER),
            cut(row.rule, 22),
            f"{'at most ' if row.at_most else ''}{row.held} of {row.limit} in {render_duration(row.window)}",
        ]
        for row in report.fullest or ()
    ]
    return ("USER", "RULE", "HELD"), list(rows)
