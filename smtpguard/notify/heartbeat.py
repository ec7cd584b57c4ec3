"""A GET every so often, only while all is well: its absence is somebody else's alarm.

The daemon says every ten seconds whether it guards and is in sync. Where it has said nothing for HOLDS_S, it does not.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from smtpguard import __version__
from smtpguard.daemon.outlet.frames import HelperSettings
from smtpguard.errors import ThreadError
from smtpguard.hooks import ClockS, Task
from smtpguard.kernel.lasting_thread import start_thread
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.request import request

if TYPE_CHECKING:
    from smtpguard.settings.notify import Heartbeat

log = logging.getLogger(__name__)

HOLDS_S = 30.0
_NS = 1_000_000_000


def send_heartbeat(url: str) -> str:
    """Send one, and say what came back. Raises DeliveryError."""
    return request("GET", url, {"User-Agent": f"smtpguard/{__version__}"})


class HeartbeatDuty:
    """The duty. What waits for the answer is a thread; while it waits, there is no other.

    Args:
        wake: Gives us a turn, from any thread.
        clock: Monotonic seconds.
    """

    name = "heartbeat"

    def __init__(self, wake: Task, *, clock: ClockS = time.monotonic) -> None:
        self._wake = wake
        self._clock = clock
        self._heartbeat: Heartbeat | None = None
        self._well_s: float | None = None
        self._why = "not known yet"
        self._due_s = 0.0
        self._is_busy = False
        self._error: str | None = None
        self._sent = 0

    def configure(self, settings: HelperSettings) -> None:
        """Take settings; the next one is due at once where they are others."""
        heartbeat = settings.values["notify"].heartbeat
        if heartbeat != self._heartbeat:
            self._heartbeat, self._due_s, self._error = heartbeat, self._clock(), None

    def take(self, kind: str, content: Any) -> None:  # noqa: ANN401 - JSON values
        """Take whether all is well."""
        if kind == "health":
            self._well_s = self._clock() if content["well"] else None
            self._why = content["why"]

    def next_due_s(self) -> float | None:
        """When the next one is due."""
        return None if self._heartbeat is None or self._is_busy or not self._is_well() else self._due_s

    def on_time(self, now_s: float) -> None:
        """Send it, if it is due and all is well."""
        if self._heartbeat is None or self._is_busy or now_s < self._due_s or not self._is_well():
            return
        self._due_s = now_s + self._heartbeat.every_ns / _NS
        self._is_busy = True
        try:
            start_thread("heartbeat", partial(self._send, self._heartbeat.url))
        except ThreadError as error:
            self._is_busy, self._error = False, str(error)

    def report(self) -> Mapping[str, Any]:
        """How it fares."""
        if self._heartbeat is None:
            return {}
        text = f"{self._sent} sent" if self._is_well() else f"{self._sent} sent, none now: {self._why}"
        troubles = [] if self._error is None else [f"the heartbeat was not taken: {self._error}"]
        return {"text": text, "troubles": troubles}

    def close(self) -> None:
        """The end: whoever waits for the next one will notice."""

    def _is_well(self) -> bool:
        return self._well_s is not None and self._clock() - self._well_s < HOLDS_S

    def _send(self, url: str) -> None:
        try:
            send_heartbeat(url)
        except DeliveryError as error:
            if self._error is None:
                log.warning("notification: the heartbeat was not taken: %s", error)
            self._error = str(error)
        else:
            self._error = None
            self._sent += 1
        finally:
            self._is_busy = False
            self._wake()
