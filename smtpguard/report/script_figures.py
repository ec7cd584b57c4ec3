"""Scripts over all users: one file that twelve sites have is one row, whatever it is called there. Pure."""

from dataclasses import dataclass, field

from smtpguard.report.host_report import ScriptFigures
from smtpguard.report.report_input import ReportInput
from smtpguard.text import split_line

MAX_NAMED = 100
"""Paths and users of one script that are named."""


@dataclass(slots=True)
class _Sum:
    """Figures of one script so far; paths and users in the order of their attempts."""

    connects: int = 0
    refused: int = 0
    paths: dict[str, None] = field(default_factory=dict)
    uids: dict[int, None] = field(default_factory=dict)


def sum_scripts(given: ReportInput) -> tuple[tuple[ScriptFigures, ...], int]:
    """The scripts, the busiest first, and how many there are."""
    found = given.parts["scripts"] or {"rows": [], "count": 0}
    digests = dict(given.rows("files"))
    sums: dict[str, _Sum] = {}
    for text, uid, connects, refused in found["rows"]:
        path = split_line(text)[0] or text
        one = sums.setdefault(digests.get(path) or path, _Sum())
        one.connects += connects
        one.refused += refused
        one.paths[path] = None
        one.uids[uid] = None
    rows = [
        ScriptFigures(
            script=next(iter(one.paths)),
            sha256=key if next(iter(one.paths)) in digests else None,
            paths=tuple(one.paths)[:MAX_NAMED],
            path_count=len(one.paths),
            users=tuple(given.user(uid) for uid in list(one.uids)[:MAX_NAMED]),
            user_count=len(one.uids),
            connects=one.connects,
            refused=one.refused,
        )
        for key, one in sums.items()
    ]
    rows.sort(key=lambda row: (-row.connects, row.script))
    return tuple(rows), len(rows) + found["count"] - len(found["rows"])
