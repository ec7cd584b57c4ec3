"""A report as one self-contained page: no script, nothing remote, and a policy in it that says so.

The page is the template report.html; an administrator may have one of their own. Its one style sheet is allowed by its
sum, so that a style in anybody's text would not hold even if it got there.
"""

import base64
import hashlib
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from smtpguard.model import NS
from smtpguard.report.drawings import LEVELS, Cell, CurveDrawing, Label, Strip, draw
from smtpguard.report.host_report import (
    DestinationFigures,
    FullWindow,
    Gap,
    HostReport,
    OwnFigures,
    OwnUser,
    PortFigures,
    ProviderFigures,
    ReportedBlock,
    ScriptFigures,
    UserFigures,
    VerdictFigures,
    to_json,
)
from smtpguard.report.report_text import tell_block, tell_end
from smtpguard.report.templates import Names, render_template
from smtpguard.report.unseen import render_moment, tell_seen
from smtpguard.resources import OWN_FILES
from smtpguard.text import render_duration

MAX_ROWS = 100
"""Of each table; JSON has more."""
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_ANY_STYLE = "'unsafe-inline'"


def _names(cls: type, *more: str) -> Names:
    return dict.fromkeys((*(entry.name.removesuffix("_ns") for entry in fields(cls)), *more))


_LISTS: dict[str, Names] = {
    "users": _names(UserFigures),
    "scripts": _names(ScriptFigures),
    "destinations": _names(DestinationFigures),
    "providers": _names(ProviderFigures),
    "ports": _names(PortFigures),
    "own_addresses": {**_names(OwnFigures), "users": _names(OwnUser)},
    "verdicts": _names(VerdictFigures),
    "blocks": _names(ReportedBlock, "what", "end"),
    "blind": _names(Gap),
    "off": _names(Gap),
    "fullest": _names(FullWindow),
    "curves": _names(CurveDrawing),
}
_PLAIN = ("month", "blind_month", "places_since", "places_until", "step")
"""Fields of the JSON that the page has as drawings and sentences."""
REPORT: Names = {
    **{name: None for name in _names(HostReport) if name not in _PLAIN and name not in _LISTS},
    **dict.fromkeys(("seen", "from", "to", "watched", "length", "enforced", "would", "most", "block_count", "levels")),
    **dict.fromkeys(("width", "height", "cell")),
    **_LISTS,
    "strip": {**_names(Strip), "cells": _names(Cell), "labels": _names(Label)},
}
"""What the page may use."""


def render_html(report: HostReport, *, own_files: Path | None = None) -> str:
    """The page.

    Args:
        report: What it tells.
        own_files: Where an administrator's own templates are; None for the usual place.

    Raises:
        ConfigError: The administrator's own template is wrong.
    """
    page = render_template("report.html", build_page(report), own_files=own_files or OWN_FILES)
    page = page.encode("ascii", "xmlcharrefreplace").decode("ascii")  # so that no locale and no mail program spoils it
    style = _STYLE.search(page)
    if style is None:
        return page
    digest = base64.b64encode(hashlib.sha256(style[1].encode("ascii")).digest()).decode("ascii")
    return page.replace(_ANY_STYLE, f"'sha256-{digest}'", 1)


def build_page(report: HostReport) -> dict[str, Any]:
    """What the template is given: the report as its JSON has it, with drawings and what only people read."""
    block_count = len(report.blocks)
    report = replace(
        report,
        users=report.users[:MAX_ROWS],
        scripts=report.scripts[:MAX_ROWS],
        destinations=report.destinations[:MAX_ROWS],
        own_addresses=report.own_addresses[:MAX_ROWS],
        blocks=report.blocks[-MAX_ROWS:],
    )
    values = {name: value for name, value in to_json(report).items() if name not in _PLAIN}
    values["blocks"] = [
        row | {"what": tell_block(block), "end": tell_end(block)}
        for row, block in zip(values["blocks"], report.blocks, strict=True)
    ]
    length_s = (report.until_ns - report.since_ns) // NS
    return values | {
        "seen": tell_seen(report),
        "from": render_moment(report.since_ns),
        "to": render_moment(report.until_ns),
        "length": render_duration(length_s),
        "watched": render_duration(report.watched_s),
        "enforced": report.count_verdicts("enforce"),
        "would": report.count_verdicts("dry-run"),
        "most": MAX_ROWS,
        "block_count": block_count,
        "levels": LEVELS,
        **draw(report),
    }
