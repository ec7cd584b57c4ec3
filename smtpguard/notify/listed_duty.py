"""Asks block lists every so often whether this host is on them, in a thread of its own.

What is new is in the report until it comes back as an occasion: the daemon, which has the history, adds who sent most
(daemon/serve/listings.py), and hands it over like any other.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from smtpguard.daemon.outlet.frames import HelperSettings
from smtpguard.errors import SourceError
from smtpguard.hooks import ClockS, Task
from smtpguard.kernel.capabilities import apply_capabilities
from smtpguard.kernel.lasting_thread import start_thread
from smtpguard.logline import render_time
from smtpguard.model import NS
from smtpguard.notify.known_listings import KnownListings, Listing, show_listing
from smtpguard.notify.list_answers import show_zone
from smtpguard.notify.list_round import AskName, Round, ask_lists, ask_system, find_public
from smtpguard.settings.listed import ListedSettings

log = logging.getLogger(__name__)

NO_ADDRESS = "no interface has a public address: name what others see in listed.addresses"
LOOK_AGAIN_S = 60.0
"""How soon addresses are looked for again where there are none: a network may come up late."""
MAX_SHOWN = 30
_MAX_WHY = 200


class FindAddresses(Protocol):
    """Knows what to ask for. Raises SourceError."""

    def __call__(self, extra: Sequence[str], /) -> tuple[str, ...]:
        """The addresses named, and this host's public ones."""
        ...


@dataclass(slots=True)
class _Asking:
    """A round that is under way.

    Attributes:
        settings: What it asks.
        addresses: What for.
        is_wanted: Whether it is to go on.
        found: What came of it; None until then.
    """

    settings: ListedSettings
    addresses: tuple[str, ...]
    is_wanted: bool = True
    found: Round | None = None


class ListedDuty:
    """The duty.

    Args:
        wake: Gives us a turn, from any thread.
        ask: Asks a name server.
        find: Finds this host's addresses.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
    """

    name = "listed"

    def __init__(
        self,
        wake: Task,
        *,
        ask: AskName = ask_system,
        find: FindAddresses = find_public,
        clock: ClockS = time.monotonic,
        wall: ClockS = time.time,
    ) -> None:
        self._wake = wake
        self._ask = ask
        self._find = find
        self._clock = clock
        self._wall = wall
        self._settings = ListedSettings()
        self._listings: KnownListings | None = None
        self._addresses: tuple[str, ...] = ()
        self._trouble: str | None = None
        self._asking: _Asking | None = None
        self._last = Round()
        self._asked_s: float | None = None
        self._due_s = 0.0

    def configure(self, settings: HelperSettings) -> None:
        """Take settings; where they are others, all is asked at once."""
        listed: ListedSettings = settings.values["listed"]
        if listed == self._settings:
            return
        self._settings, self._due_s = listed, self._clock()
        self._last, self._asked_s = Round(), None
        self._stop_asking()
        if listed.zones and self._listings is None:
            path = Path(settings.state_path)
            self._listings = KnownListings(str(path.with_name(f"listed-{path.stem}.json")))
            if self._listings.trouble:
                log.warning("block lists: %s", self._listings.trouble)
        self._look_around()

    def take(self, kind: str, content: Any) -> None:  # noqa: ANN401 - JSON values
        """What we had to tell comes back: whoever tells it has it by now."""
        if kind == "occasion" and content["kind"] == "listed" and self._listings is not None:
            self._listings.acknowledge(content["id"])

    def next_due_s(self) -> float | None:
        """When the lists are asked next."""
        return None if not self._settings.zones or self._asking is not None else self._due_s

    def on_time(self, now_s: float) -> None:
        """Take what a round has found; begin the next one."""
        if self._asking is not None and self._asking.found is not None:
            self._take_found(self._asking, self._asking.found)
            self._asking = None
        if not self._settings.zones or self._asking is not None or now_s < self._due_s:
            return
        self._look_around()
        if not self._addresses:
            self._due_s = now_s + LOOK_AGAIN_S
            return
        self._due_s = now_s + LOOK_AGAIN_S
        asking = _Asking(self._settings, self._addresses)
        start_thread("listed", partial(self._work, asking))
        self._asking, self._due_s = asking, now_s + self._settings.every_ns / NS

    def report(self) -> Mapping[str, Any]:
        """How it fares: what is shown in `status`, and what is to be told."""
        if not self._settings.zones or self._listings is None:
            return {}
        count = len(self._settings.zones) - len(self._last.not_asked)
        asked = f"{len(self._addresses)} asked for, {count} of {len(self._settings.zones)} lists answer"
        troubles = [] if self._listings.trouble is None else [self._listings.trouble]
        text = asked if self._asked_s is not None else "not asked yet"
        return {"text": text, "troubles": troubles, "shown": self._show(), "news": self._listings.list_news()}

    def list_series(self) -> tuple[list[list[Any]], list[list[Any]]]:
        """For metrics: list, address and whether it is listed; list and whether it could be asked."""
        listed = {(row.zone, row.address) for row in self._list_current()}
        pairs = [(zone, address) for zone in self._settings.zones for address in self._addresses]
        rows = [[show_zone(zone), address, int((zone, address) in listed)] for zone, address in pairs]
        is_known = self._asked_s is not None
        asked = [[show_zone(z), int(is_known and z not in self._last.not_asked)] for z in self._settings.zones]
        return _drop_doubles(rows), _drop_doubles(asked)

    def close(self) -> None:
        """The end; what is under way is not waited for."""
        self._stop_asking()

    # -- a round -----------------------------------------------------------------------------------------------------

    def _work(self, asking: _Asking) -> None:
        zones = asking.settings.zones
        try:
            apply_capabilities(())  # a thread has its own: this one listens to strangers
            asking.found = ask_lists(zones, asking.addresses, ask=self._ask, is_wanted=lambda: asking.is_wanted)
        except Exception as error:  # our mistake: it is said, and the next round is begun in its time
            log.exception("block lists: can't be asked")
            asking.found = Round(not_asked=dict.fromkeys(zones, f"{type(error).__name__}: {error}"))
        self._wake()

    def _take_found(self, asking: _Asking, found: Round) -> None:
        if self._listings is None:
            return
        self._last, self._asked_s = found, self._wall()
        self._listings.take(found, asking.settings.zones, asking.addresses, self._asked_s)

    def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.is_wanted = False
            self._asking = None

    def _look_around(self) -> None:
        if not self._settings.zones:
            self._addresses = ()
            return
        try:
            self._addresses, self._trouble = self._find(self._settings.addresses), None
        except SourceError as error:
            self._trouble = str(error)

    def _list_current(self) -> list[Listing]:
        return [] if self._listings is None else self._listings.list_current(self._addresses)

    def _show(self) -> dict[str, Any]:
        listings = self._list_current()
        not_asked = {show_zone(zone): why[:_MAX_WHY] for zone, why in self._last.not_asked.items()}
        why = self._trouble or (None if self._addresses else NO_ADDRESS)
        return {
            "asked": None if self._asked_s is None else render_time(int(self._asked_s * NS)),
            "zones": len(self._settings.zones),
            "addresses": list(self._addresses),
            "listings": [{"address": row.address, **show_listing(row)} for row in listings[:MAX_SHOWN]],
            "count": len(listings),
            "not_asked": [{"zone": zone, "why": why} for zone, why in not_asked.items()],
            "why": why,
        }


def _drop_doubles(rows: list[list[Any]]) -> list[list[Any]]:
    """Two lists of one name, but for the customer's key in it, are one series: the larger value."""
    kept: dict[tuple[Any, ...], Any] = {}
    for *labels, value in rows:
        kept[tuple(labels)] = max(value, kept.get(tuple(labels), 0))
    return [[*labels, value] for labels, value in kept.items()]
