"""Where attempts come from: the daemon's stream, or where none runs, a source of our own in a process of its own."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smtpguard.control.client import subscribe
from smtpguard.control.watch_item import TOPIC
from smtpguard.errors import UNREADABLE, GuardError, NoDaemonError
from smtpguard.tui.contents import MAX_KEPT
from smtpguard.tui.facts import Link
from smtpguard.tui.own_source import OwnSource
from smtpguard.tui.pieces import clean
from smtpguard.tui.sightings import Sighting, read_item

MAX_WAITING = MAX_KEPT
"""Attempts that wait to be shown; the screen takes them five times a second."""
_ROOM_S = 0.02
_AGAIN_S = 0.5
"""Between two tries to reach a daemon."""
_PATIENCE_S = 3.0
"""How long a daemon that was there may be away before a source of our own is opened: a restart takes one."""
_OWN_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What came since the last time.

    Attributes:
        sightings: Attempts, in their order.
        left_out: How many came too fast.
        link, why: Where they come from, and if from nowhere, why.
    """

    sightings: Sequence[Sighting]
    left_out: int
    link: Link
    why: str


class Feed(Protocol):
    """Gives attempts."""

    def drain(self, most: int) -> Drained:
        """What came; never waits.

        Args:
            most: Attempts that are wanted at once; the others are given the next time.
        """
        ...

    def close(self) -> None:
        """Nothing more is wanted."""
        ...


class GuardFeed:
    """Follows the daemon, or a source of our own, whichever there is.

    Args:
        socket_path: The control socket.
        own: Arguments of `watch` for a source of our own; None where it can't be had.
        is_own_wanted: Whether the daemon's stream is not wanted.
    """

    def __init__(self, socket_path: str, own: Sequence[str] | None, *, is_own_wanted: bool = False) -> None:
        self._path = socket_path
        self._own = own
        self._is_own_wanted = is_own_wanted
        self._lock = threading.Lock()
        self._waiting: deque[Sighting] = deque()
        self._left_out = 0
        self._link: Link = "begin"
        self._why = ""
        self._source: OwnSource | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, daemon=True).start()

    def drain(self, most: int) -> Drained:
        """What came."""
        with self._lock:
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            left_out, self._left_out = self._left_out, 0
        return Drained(sightings=taken, left_out=left_out, link=self._link, why=self._why)

    def close(self) -> None:
        """End our own source."""
        self._is_closed = True
        self._end_own()

    def _run(self) -> None:
        away_since = time.monotonic() - _PATIENCE_S
        own_due = 0.0
        while not self._is_closed:
            if not self._is_own_wanted and self._follow():
                away_since = time.monotonic()
            now = time.monotonic()
            self._look_after_own()
            if self._own is not None and self._source is None and now >= max(own_due, away_since + _PATIENCE_S):
                own_due = now + _OWN_AGAIN_S
                self._source = OwnSource(self._own, self._take)
                self._link, self._why = "own", ""
            time.sleep(_AGAIN_S)

    def _follow(self) -> bool:
        """Take what the daemon sees until it ends; whether there was one."""
        was_there = False

        def begin() -> None:
            nonlocal was_there
            was_there = True
            self._end_own()
            self._link, self._why = "daemon", ""

        try:
            for item in subscribe(self._path, TOPIC, begun=begin):
                self._wait_for_room()
                if "dropped" in item:
                    self._leave_out(int(item["dropped"]))
                else:
                    self._take(read_item(item))
            self._lose("the daemon has gone")
        except NoDaemonError as error:
            self._lose(error.what)
        except (GuardError, OSError, *UNREADABLE) as error:
            self._lose(str(error))
        return was_there

    def _wait_for_room(self) -> None:
        """What is not taken the daemon leaves out, and says so: less work than to read it and throw it away."""
        while len(self._waiting) >= MAX_WAITING and not self._is_closed:
            time.sleep(_ROOM_S)

    def _lose(self, why: str) -> None:
        if self._source is None:
            self._link, self._why = "none", clean(why)

    def _look_after_own(self) -> None:
        if self._source is not None and not self._source.is_running():
            self._link, self._why = "none", self._source.why
            self._source = None

    def _end_own(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.end()

    def _take(self, sighting: Sighting) -> None:
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                self._left_out += 1
            else:
                self._waiting.append(sighting)

    def _leave_out(self, count: int) -> None:
        with self._lock:
            self._left_out += max(0, count)
