"""Where this host is listed, and what of it is still to be told: kept over restarts in a file beside the state.

A listing is told once, and once when it is over; what can't be asked changes nothing. What is found for one address in
one round is told together.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smtpguard.logline import render_time
from smtpguard.model import NS
from smtpguard.notify.list_answers import show_zone
from smtpguard.notify.list_round import Round
from smtpguard.notify.text_file import replace_file

KEEP_S = 7 * 86_400.0
"""How long a listing is remembered whose address is not this host's now: one that moves between hosts comes back."""
MAX_LISTINGS = 4096
MAX_NEWS = 4
"""Told at a time; the others follow."""
_LAST_S = 1 << 40
_MAX_BYTES = 8 << 20
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(slots=True, kw_only=True)
class Listing:
    """An address on a list.

    Attributes:
        address: Which.
        zone: Which list.
        codes: What the list answers.
        reason: What it writes; escaped.
        since_s: When we saw it first, seconds since the epoch.
        seen_s: When the list said so last.
        is_told: Whether somebody was told, or nobody wants to be.
        over_s: When the list said first that it is over; None while it is not.
    """

    address: str
    zone: str
    codes: list[str]
    reason: str
    since_s: float
    seen_s: float
    is_told: bool = False
    over_s: float | None = None


class KnownListings:
    """All of them.

    Args:
        path: The file.

    Attributes:
        trouble: Why they are not kept; None if they are.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.trouble: str | None = None
        self._listings: dict[tuple[str, str], Listing] = {}
        self._load()

    def take(self, found: Round, zones: Collection[str], addresses: Collection[str], now_s: float) -> None:
        """Take what was found.

        Args:
            found: It.
            zones: Lists that are asked: what is on others is forgotten.
            addresses: Addresses that are asked for.
            now_s: Seconds since the epoch.
        """
        for (address, zone), answer in found.answers.items():
            listing = self._listings.get((address, zone))
            if answer.kind == "listed" and (listing is not None or len(self._listings) < MAX_LISTINGS):
                if listing is None:
                    listing = Listing(address=address, zone=zone, codes=[], reason="", since_s=now_s, seen_s=now_s)
                    self._listings[address, zone] = listing
                listing.codes, listing.seen_s, listing.over_s = list(answer.codes), now_s, None
                listing.reason = answer.reason or listing.reason
            elif answer.kind == "clean" and listing is not None and listing.over_s is None:
                listing.over_s = now_s
                if not listing.is_told:
                    del self._listings[address, zone]
        for key, listing in list(self._listings.items()):
            is_away = listing.address not in addresses and listing.seen_s < now_s - KEEP_S
            if listing.zone not in zones or is_away:
                del self._listings[key]
        self._save()

    def list_current(self, addresses: Collection[str]) -> list[Listing]:
        """Listings of these addresses, the oldest first."""
        found = [row for row in self._listings.values() if row.over_s is None and row.address in addresses]
        return sorted(found, key=lambda row: (row.since_s, row.address, row.zone))

    def list_news(self) -> list[dict[str, Any]]:
        """What is to be told, each with an id of its own for ever; the first ones."""
        grouped: dict[str, list[Listing]] = {}
        for row in self._listings.values():
            if (name := _name_news(row)) is not None:
                grouped.setdefault(name, []).append(row)
        return [
            {
                "id": name,
                "address": rows[0].address,
                "holds": rows[0].over_s is None,
                "zones": [show_listing(row) for row in rows],
            }
            for name, rows in list(grouped.items())[:MAX_NEWS]
        ]

    def acknowledge(self, name: str) -> None:
        """It was told, or will be by somebody who keeps it."""
        mine = {key: row for key, row in self._listings.items() if _name_news(row) == name}
        for key, row in mine.items():
            if row.over_s is None:
                row.is_told = True
            else:
                del self._listings[key]
        if mine:
            self._save()

    def _load(self) -> None:
        try:
            with Path(self._path).open("rb") as file:
                rows = json.loads(file.read(_MAX_BYTES))["listings"]
            kept = [_read_listing(row) for row in rows[:MAX_LISTINGS]]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.trouble = f"{self._path} can't be read ({error}): what was told of block lists is told again"
            return
        self._listings = {(row.address, row.zone): row for row in kept}

    def _save(self) -> None:
        content = json.dumps({"version": 1, "listings": [asdict(row) for row in self._listings.values()]})
        folder, name = os.path.split(self._path)
        try:
            directory = os.open(folder, _FOLDER)
            try:
                replace_file(name, content.encode("ascii"), directory=directory, mode=0o600, is_durable=True)
            finally:
                os.close(directory)
        except OSError as error:
            self.trouble = f"{self._path} can't be written ({error.strerror}): a restart tells of block lists again"
        else:
            self.trouble = None


def _read_listing(values: Mapping[str, Any]) -> Listing:
    """A listing as the file has it, which comes from a disk. Raises TypeError where a value is of another kind."""
    row = Listing(**values)
    texts = (row.address, row.zone, row.reason, *(row.codes if isinstance(row.codes, list) else [None]))
    times = (row.since_s, row.seen_s, 0 if row.over_s is None else row.over_s)
    if (
        all(isinstance(text, str) for text in texts)
        and all(type(time_s) in (int, float) and 0 <= time_s < _LAST_S for time_s in times)
        and type(row.is_told) is bool
    ):
        return row
    raise TypeError("a value of another kind")


def show_listing(row: Listing) -> Mapping[str, Any]:
    """A listing without its address, as JSON values."""
    return {
        "zone": show_zone(row.zone),
        "codes": list(row.codes),
        "reason": row.reason,
        "since": render_time(int(row.since_s * NS)),
    }


def _name_news(row: Listing) -> str | None:
    """What it is called where it is told; None where nothing is to be told of it."""
    if row.over_s is not None:
        return f"listed-{row.address}-{int(row.over_s)}-over"
    return None if row.is_told else f"listed-{row.address}-{int(row.since_s)}"
