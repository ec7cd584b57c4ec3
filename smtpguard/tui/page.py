"""The lines of the screen, from what the model holds and the room there is. Pure."""

import textwrap
from collections.abc import Sequence

from smtpguard.model import NS
from smtpguard.report.why_card import render_card
from smtpguard.tui.columns import Column, Placed, place_columns
from smtpguard.tui.contents import Contents
from smtpguard.tui.pieces import Line, Piece, clean, cut, fill, join_ends
from smtpguard.tui.screen_model import ScreenModel, Tab
from smtpguard.tui.sightings import Sighting
from smtpguard.tui.tally import Sum

INFO_HEIGHT = 6
MAX_MESSAGE = 4
"""Lines of what was said that are shown."""
WIDE = 150
"""From here on the card stands beside the list; below it else."""
_KEYS = "? keys  / filter  S sort  Enter why  B block  U unblock  A allow  Q quit"
HELP = (
    "1 connections  2 users  3 scripts  4 destinations  5 blocks and incidents",
    "",
    "P        pause: everything stands still; what comes is kept and counted",
    "C        clear: forget what was seen (the guard forgets nothing)",
    "R        names of destinations (reverse DNS)",
    "I        all fields of the connection that one is on",
    "/        filter as you type: all words must be there; Esc ends it",
    "S        sort by the next column (or click on its head)",
    "Enter    why: the card of the user; Esc closes it",
    "B U A    block, unblock, allow the user: asks first, + - changes the time",
    "arrows, PgUp, PgDn; left and right bring other columns into sight",
    "Home     the oldest, and pause;   End   the latest, and live",
    "Q        quit",
    "",
    "Letters in either case. x in front: refused here. (blocked): would be.",
    "Port 25 SMTP, 465 SMTPS, 587 SUBMISSION, 2525 SMTP-ALT.",
    "Any key closes this.",
)


def render_top(model: ScreenModel, width: int, now_ns: int) -> list[Line]:
    """The two lines at the top.

    Args:
        model: What is shown.
        width: Columns.
        now_ns: Wall time: the clock goes on while all else stands still.
    """
    contents = model.collector.contents
    mode = Piece(f" {tell_mode(contents)} ", _style_mode(contents))
    state = Piece(f" PAUSED +{model.came_meanwhile} ", "alarm") if model.is_paused else Piece(" LIVE ", "live")
    clock = Piece(f"{model.tabs[0].view.clock(now_ns, 19 if width >= WIDE else 8)} ", "bar")
    ports = Piece(f"{','.join(map(str, contents.facts.ports or model.ports))}  ", "bar")
    name = Piece(" smtpguard ", "bar")
    left, right = [name, state, mode], [ports, clock]
    if sum(len(span.text) for span in (*left, *right)) >= width:
        left = [state, mode]
    return [join_ends(left, right, width, "bar"), _render_tabs(model, width)]


def _render_tabs(model: ScreenModel, width: int) -> Line:
    spans = [
        Piece(_name_tab(number, tab, width), "tab" if number == model.number else "plain")
        for number, tab in enumerate(model.tabs)
    ]
    left_out = model.collector.contents.left_out
    right = [Piece(f" left out {left_out} ", "alarm")] if left_out else []
    return join_ends(spans, [*right, Piece(f" {model.contents.seen} seen ", "bold")], width)


def _name_tab(number: int, tab: Tab, width: int) -> str:
    return f" {number + 1} {tab.view.name if width >= WIDE else tab.view.short} "


def find_tab(model: ScreenModel, column: int, width: int) -> int | None:
    """The tab in that column of the second line."""
    for number, tab in enumerate(model.tabs):
        column -= len(_name_tab(number, tab, width))
        if column < 0:
            return number
    return None


def tell_mode(contents: Contents) -> str:
    """What the guard does, and whether it sees, in a few words; the worst first."""
    facts = contents.facts
    if contents.link == "begin":
        return "connecting ..."
    if contents.link == "none":
        return f"BLIND: {contents.why or 'no daemon answers'}"
    if contents.link == "own":
        return "NO DAEMON: own source, nobody refused"
    if facts.is_blind:
        return "BLIND: no source works"
    if facts.mode == "off":
        return "OFF: nobody is refused"
    if facts.mode == "dry-run":
        return "DRY RUN: nobody is refused"
    sensors = f" ({facts.sensors})" if facts.sensors else ""
    return f"enforcing{sensors}" if facts.mode else f"daemon{sensors}"


def _style_mode(contents: Contents) -> str:
    is_fine = contents.link in ("begin", "daemon") and not contents.facts.is_blind and contents.facts.mode != "off"
    return "bar" if is_fine else "alarm"


def render_list(model: ScreenModel, width: int, height: int) -> list[Line]:
    """The list with its head."""
    tab = model.tab
    columns = tab.view.columns(rdns=model.shows_rdns)
    placed = list_placed(model, width)
    lines = [_render_head(columns, placed, tab.sort, width)]
    for index in range(tab.cursor.top, tab.cursor.top + height - 1):
        if index >= len(model.rows):
            break
        lines.append(_render_row(model, columns, placed, model.rows[index], width))
    if not model.rows:
        lines.append(fill([Piece(_tell_nothing(model), "dim")], width))
    return [*lines, *([fill([], width)] * (height - len(lines)))][:height]


def list_placed(model: ScreenModel, width: int) -> list[Placed]:
    """The columns in sight."""
    tab = model.tab
    columns = tab.view.columns(rdns=model.shows_rdns)
    return place_columns(columns, width, pinned=tab.view.pinned, shift=tab.shift)


def _tell_nothing(model: ScreenModel) -> str:
    if model.needle:
        return f"Nothing has {model.needle!r} in it."
    if model.number == 4:
        return "Nobody is blocked, throttled or allowed, and there are no incidents."
    return "No connection yet."


def _render_head(columns: Sequence[Column], placed: Sequence[Placed], sort: str, width: int) -> Line:
    line: Line = []
    for place in placed:
        title = columns[place.index].title
        text = cut(title, place.width)
        text = text.rjust(place.width) if columns[place.index].is_right else text.ljust(place.width)
        line += [Piece(text, "sorted" if title == sort else "head"), Piece(" ", "head")]
    return fill(line, width, "head")


def _render_row(
    model: ScreenModel, columns: Sequence[Column], placed: Sequence[Placed], row: object, width: int
) -> Line:
    line: Line = []
    for place in placed:
        column = columns[place.index]
        span = model.tab.view.cell(row, column, place.width, model.contents)
        text = cut(clean(span.text), place.width, keeps_end=column.keeps_end)
        text = text.rjust(place.width) if column.is_right else text.ljust(place.width)
        line += [Piece(text, span.style), Piece(" ")]
    return fill(line, width)


def render_info(model: ScreenModel, width: int) -> list[Line]:
    """All fields of the attempt that one is on; of a sum, of its latest one."""
    row = model.selected()
    seen = row[1] if isinstance(row, tuple) else row.last if isinstance(row, Sum) else getattr(row, "total", None)
    seen = seen.last if isinstance(seen, Sum) else seen
    if not isinstance(seen, Sighting):
        texts = ["There is no connection to show here."]
    else:
        when = model.tabs[0].view.clock(seen.wall_ns, 23)
        pid = "-" if seen.pid is None else seen.pid
        user = seen.user if seen.domain == "-" else f"{seen.user} ({seen.domain})"
        texts = [
            f"{when} {user} uid {seen.uid} pid {pid} {seen.proc} {seen.exe}",
            f"to {seen.address} port {seen.port} {seen.protocol}, name {seen.rdns}",
            f"result {seen.result}, seen by {seen.sensor}, process found: {seen.attr}",
            f"cwd {seen.cwd}",
            f"script {seen.script}",
        ]
    lines = [fill([Piece("-- info " + "-" * width, "dim")], width)]
    lines += [fill([Piece(cut(clean(text), width, keeps_end=n > 2))], width) for n, text in enumerate(texts)]
    return [*lines, *([fill([], width)] * (INFO_HEIGHT - len(lines)))]


def render_why(model: ScreenModel, width: int, height: int) -> list[Line]:
    """The card of a user."""
    user = model.card_of[0] if model.card_of is not None else ""
    lines = [fill([Piece(f"-- why {user} (Esc closes) " + "-" * width, "bold")], width)]
    card = model.card
    texts = [f"asking about {user} ..."] if card is None else render_card(card, width=width, height=height)
    lines += [
        fill([Piece(cut(clean(text), width), "bold" if not n else "plain")], width) for n, text in enumerate(texts)
    ]
    return [*lines, *([fill([], width)] * (height - len(lines)))][:height]


def render_bottom(model: ScreenModel, width: int) -> list[Line]:
    """The line at the bottom: what is typed, or the keys; of what was said, all."""
    if model.message and not model.is_typing:
        texts = textwrap.wrap(clean(model.message), width)[:MAX_MESSAGE]
        return [fill([Piece(text, "bold")], width) for text in texts or [""]]
    return [_render_keys(model, width)]


def _render_keys(model: ScreenModel, width: int) -> Line:
    if model.is_typing:
        return fill(
            [
                Piece("filter: ", "bold"),
                Piece(model.needle),
                Piece(" ", "bar"),
                Piece("  Enter keeps it, Esc ends it", "dim"),
            ],
            width,
        )
    if model.needle:
        found = f"filter {model.needle!r}: {len(model.rows)} found, Esc ends it  "
        return fill([Piece(found, "bold"), Piece("? keys", "dim")], width)
    troubles = model.contents.facts.troubles
    return fill([Piece(troubles[0], "refused") if troubles else Piece(_KEYS, "dim")], width)


def render_question(model: ScreenModel, width: int, now_ns: int) -> list[Line]:
    """What is to be confirmed."""
    texts = model.question.render(now_ns / NS, model.zone) if model.question is not None else []
    return [fill([Piece(cut(clean(text), width), "bold" if not n else "plain")], width) for n, text in enumerate(texts)]


def render_help(width: int) -> list[Line]:
    """The keys."""
    return [fill([Piece(text)], width) for text in HELP]
