"""What the notifying process says of block lists, checked: it hears what strangers answer.

Pure. Whatever has not its form is left out, and texts are escaped anew.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from smtpguard.text import render_words

MAX_NEWS = 64
MAX_ROWS = 64
_MAX_CODES = 16
_MAX_TEXT = 1000
_ID = re.compile(r"listed-[0-9a-f.:]{2,45}-[0-9]{1,12}(-over)?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_TIME = re.compile(r"[0-9T:.+-]{19,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingNews:
    """An address that has come onto block lists, or off them, in one round.

    Attributes:
        id: Its own for ever.
        address: Which.
        holds: Whether it is listed; it is over else.
        zones: The lists, with codes, reason and since when.
    """

    id: str
    address: str
    holds: bool
    zones: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedReport:
    """All of it.

    Attributes:
        news: What is to be told.
        shown: How it stands, for `status`.
    """

    news: tuple[ListingNews, ...] = ()
    shown: Mapping[str, Any] = field(default_factory=dict)


def parse_listed(content: object) -> ListedReport:
    """The part `listed` of the process's report; empty where there is none."""
    part = content if isinstance(content, dict) else {}
    shown = part.get("shown")
    news = tuple(found for item in _list(part.get("news"), MAX_NEWS) if (found := _parse_news(item)) is not None)
    return ListedReport(news=news, shown=_parse_shown(shown) if isinstance(shown, dict) else {})


def _parse_news(item: object) -> ListingNews | None:
    if not isinstance(item, dict):
        return None
    zones = tuple(_parse_zones(item.get("zones")))
    name, address = item.get("id"), _parse_address(item.get("address"))
    if not zones or address is None or not isinstance(name, str) or _ID.fullmatch(name) is None:
        return None
    return ListingNews(id=name, address=address, holds=item.get("holds") is True, zones=zones)


def _parse_shown(shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "asked": _parse_text(shown.get("asked"), _TIME),
        "zones": _parse_count(shown.get("zones")),
        "addresses": [a for item in _list(shown.get("addresses"), MAX_ROWS) if (a := _parse_address(item))],
        "listings": list(_parse_listings(shown.get("listings"))),
        "count": _parse_count(shown.get("count")),
        "not_asked": list(_parse_not_asked(shown.get("not_asked"))),
        "why": _show(shown["why"]) if isinstance(shown.get("why"), str) else None,
    }


def _parse_listings(value: object) -> Iterator[dict[str, Any]]:
    for item in _list(value, MAX_ROWS):
        address = _parse_address(item.get("address")) if isinstance(item, dict) else None
        for zone in _parse_zones([item]):
            if address is not None:
                yield {"address": address, **zone}


def _parse_zones(value: object) -> Iterator[dict[str, Any]]:
    for item in _list(value, MAX_ROWS):
        if not isinstance(item, dict):
            continue
        zone, since = _parse_text(item.get("zone"), _ZONE), _parse_text(item.get("since"), _TIME)
        if zone is None or since is None:
            continue
        codes = [code for entry in _list(item.get("codes"), _MAX_CODES) if (code := _parse_address(entry))]
        yield {"zone": zone, "codes": codes, "reason": _show(item.get("reason")), "since": since}


def _parse_not_asked(value: object) -> Iterator[dict[str, str]]:
    for item in _list(value, MAX_ROWS):
        zone = _parse_text(item.get("zone"), _ZONE) if isinstance(item, dict) else None
        if zone is not None:
            yield {"zone": zone, "why": _show(item.get("why"))}


def _list(value: object, most: int) -> list[Any]:
    return value[:most] if isinstance(value, list) else []


def _parse_text(value: object, form: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and form.fullmatch(value) else None


def _parse_address(value: object) -> str | None:
    try:
        return str(ip_address(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def _parse_count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else 0


def _show(value: object) -> str:
    """A text, escaped once: what is escaped already has backslashes, which stay as they are."""
    text = value[:_MAX_TEXT] if isinstance(value, str) else ""
    return "\\".join(render_words(part, max_bytes=_MAX_TEXT) for part in text.split("\\"))
