"""Pictures of a report as numbers for SVG: bars of a user's day, a strip of the month. Pure; no text of anybody's.

Whatever is drawn is a path of numbers or a rectangle, so that the page needs no style within an element and no script.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from smtpguard.model import NS
from smtpguard.report.host_report import Curve, Gap, HostReport, Point
from smtpguard.settings import HOUR_NS, MINUTE_NS

WIDTH, HEIGHT = 300, 60
"""Of a curve, in units of its viewBox."""
CELL = 10
"""Of the strip: a day is a column, an hour a row."""
LEVELS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveDrawing:
    """A user's bars.

    Attributes:
        passed, refused: Paths; what was refused stands on top.
        blind: Left edge and width of what was not watched.
        peak: Attempts of the highest bar.
        connects, denied: All of them.
    """

    user: str
    passed: str
    refused: str
    blind: tuple[tuple[float, float], ...]
    peak: int
    connects: int
    denied: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """An hour of the strip. `level` is 0 for nothing, -1 for not watched; `text` says what it is."""

    x: int
    y: int
    level: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A word at the strip's edge."""

    x: int
    y: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The month.

    Attributes:
        cells: Hours in which there were attempts, or nobody watched; the others are empty.
        columns: How many days.
        labels: Days and hours at its edges.
        peak: Attempts of the busiest hour.
    """

    cells: tuple[Cell, ...]
    columns: int
    labels: tuple[Label, ...]
    peak: int


def draw(report: HostReport) -> dict[str, Any]:
    """All drawings of a report, as a template takes them."""
    strip = draw_strip(report)
    return {
        "curves": [asdict(draw_curve(report, curve)) for curve in report.curves],
        "strip": None if strip is None else asdict(strip),
        "width": WIDTH,
        "height": HEIGHT,
        "cell": CELL,
    }


def draw_curve(report: HostReport, curve: Curve) -> CurveDrawing:
    """A user over the whole time of the report."""
    step_ns = report.step * MINUTE_NS
    begin_ns = report.since_ns // step_ns * step_ns
    scale = WIDTH / max(step_ns, report.until_ns - begin_ns)
    peak = max((point.connects for point in curve.points), default=0)
    width = max(0.8, step_ns * scale * 0.85)
    passed, refused = [], []
    for point in curve.points:
        x = (point.at_ns - begin_ns) * scale
        high, top = (HEIGHT * count / max(1, peak) for count in (point.connects - point.refused, point.connects))
        if point.connects > point.refused:
            passed.append(_bar(x, HEIGHT - high, width, high))
        if point.refused:
            refused.append(_bar(x, HEIGHT - top, width, top - high))
    return CurveDrawing(
        user=curve.user,
        passed="".join(passed),
        refused="".join(refused),
        blind=tuple(_spans(report.blind, begin_ns, scale)),
        peak=peak,
        connects=sum(point.connects for point in curve.points),
        denied=sum(point.refused for point in curve.points),
    )


def draw_strip(report: HostReport) -> Strip | None:
    """The hours of the 30 days up to the end, by local day and hour; None where they are not known."""
    if report.month is None:
        return None
    last = _local(report.until_ns - 1).date()
    first = min([last - timedelta(days=29), *(_local(point.at_ns).date() for point in report.month[:1])])
    columns = (last - first).days + 1
    peak = max((point.connects for point in report.month), default=0)
    cells: dict[tuple[int, int], Cell] = {}
    for hour_ns in _blind_hours(report.blind_month):
        at = _local(hour_ns)
        x, y = (at.date() - first).days * CELL, at.hour * CELL
        if x >= 0:
            cells[x, y] = Cell(x=x, y=y, level=-1, text=f"{at:%Y-%m-%d %H:00}: not watched")
    sums: dict[tuple[int, int], list[Point]] = {}
    for point in report.month:
        at = _local(point.at_ns)
        sums.setdefault(((at.date() - first).days * CELL, at.hour * CELL), []).append(point)
    for (x, y), points in sums.items():  # the hour that comes twice when summer time ends is one cell
        count, denied = sum(point.connects for point in points), sum(point.refused for point in points)
        if count:
            level = max(1, -(-count * LEVELS // max(1, peak)))
            text = f"{_local(points[0].at_ns):%Y-%m-%d %H:00}: {count} attempts, {denied} refused"
            cells[x, y] = Cell(x=x, y=y, level=min(level, LEVELS), text=text)
    labels = [Label(x=-4, y=hour * CELL + 8, text=f"{hour:02d}") for hour in (0, 6, 12, 18)]
    for day in range(columns):
        at_day = first + timedelta(days=day)
        if at_day.weekday() == 0:
            labels.append(Label(x=day * CELL + CELL // 2, y=-4, text=f"{at_day:%d.%m.}"))
    return Strip(cells=tuple(cells[key] for key in sorted(cells)), columns=columns, labels=tuple(labels), peak=peak)


def _bar(x: float, y: float, width: float, height: float) -> str:
    return f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z"


def _spans(gaps: Iterable[Gap], begin_ns: int, scale: float) -> Iterator[tuple[float, float]]:
    for gap in gaps:
        yield round((gap.since_ns - begin_ns) * scale, 1), round(max(0.5, (gap.until_ns - gap.since_ns) * scale), 1)


def _blind_hours(gaps: Sequence[Gap]) -> Iterator[int]:
    """Hours of which nothing at all was watched."""
    for gap in gaps:
        yield from range(-(-gap.since_ns // HOUR_NS) * HOUR_NS, gap.until_ns // HOUR_NS * HOUR_NS, HOUR_NS)


def _local(wall_ns: int) -> datetime:
    return datetime.fromtimestamp(wall_ns // NS).astimezone()
