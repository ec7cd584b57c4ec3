"""The daemon's side of notification: hands occasions and figures to the notifying process, and keeps that running.

Nothing waits. An occasion is kept here until the process has it in its file, so that one which dies loses none; more
than the bound are dropped, the newest first, and counted. Of figures only the last matter: where there is no room they
are left out.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from smtpguard.daemon.outlet.frames import find_writable, parse_frame, pick_settings, render_frame
from smtpguard.daemon.outlet.helper_process import AnyHelper, HelperProcess, StartProcess
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.settings import Settings
from smtpguard.text import render_count

log = logging.getLogger(__name__)

MAX_KEPT = 512
"""Occasions that the process does not have yet; some kB each."""
STUCK_NS = 60 * NS
"""A process that takes nothing for so long is ended, and another one started."""
FIRST_REST_NS, LONGEST_REST_NS = NS, 60 * NS
"""How long after its end the next one is started: twice as long each time, unless it has lived for LONGEST_REST_NS."""
PATIENCE_NS = NS // 2
"""How long one may take to end: it has nothing to do but to remove a file. A stop waits for it, a reload does not."""
_LOOK_NS = 20_000_000
"""How often it is looked whether it has."""
_MAX_READ = 64
"""Packets taken in one turn."""


def is_wanted(settings: Settings) -> bool:
    """Whether the configuration has anything for the process to do."""
    return settings.metrics_textfile is not None or settings.notify.is_wanted or bool(settings.listed.zones)


class Messenger:
    """Hands over what is to be told; a part of the loop.

    Args:
        settings: The configuration.
        now: CLOCK_BOOTTIME in nanoseconds.
        start: Starts the process.

    Attributes:
        report: What the process says of itself, by its parts.
    """

    def __init__(self, settings: Settings, now: ClockNs, *, start: StartProcess = HelperProcess) -> None:
        self._settings = settings
        self._now = now
        self._start = start
        self._process: AnyHelper | None = None
        self._leaving: tuple[AnyHelper, int] | None = None
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._handed: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._rest_ns = FIRST_REST_NS
        self._begun_ns = 0
        self._due_ns: int | None = None
        self._busy_since_ns: int | None = None
        self._look_ns = 0
        self._trouble: str | None = None
        self.report: Mapping[str, Any] = {}

    # -- what is handed over -----------------------------------------------------------------------------------------

    @property
    def is_used(self) -> bool:
        """Whether anybody wants to be told anything."""
        return is_wanted(self._settings)

    def tell(self, occasion: Mapping[str, Any]) -> None:
        """Have something told.

        Args:
            occasion: JSON values; `id` is its own for ever.
        """
        if not self.is_used:
            return
        if len(self._kept) >= MAX_KEPT:
            self._counts["occasion"] += 1
            return
        try:
            self._kept[str(occasion["id"])] = render_frame("occasion", occasion)
        except ValueError:
            self._counts["occasion"] += 1
            return
        self._hand_over()

    def send_snapshot(self, figures: Mapping[str, Any]) -> None:
        """Hand over figures; those of before matter no more."""
        if self._process is None:
            return
        try:
            taken = self._send(render_frame("snapshot", figures))
        except ValueError:
            taken = False
        self._counts["snapshot"] += not taken

    def send_health(self, *, is_well: bool, why: str) -> None:
        """Say whether all is well; whoever hears nothing takes it that nothing is.

        Args:
            is_well: Whether the guard guards, and the kernel holds what it ought to.
            why: How it fares, in one line.
        """
        self._send(render_frame("health", {"well": is_well, "why": why}))

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration: start the process, tell it, or end it."""
        before, after, self._settings = pick_settings(self._settings), pick_settings(settings), settings
        if not self.is_used:
            self._kept.clear()
            self._dismiss()
        elif self._process is None:
            self._due_ns = self._now()
        elif find_writable(after) != find_writable(before):
            self._dismiss()  # it has given up to write elsewhere
            self._due_ns = self._now()
        elif after != before:
            self._configure()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the process where it is wanted."""
        if self.is_used:
            self._begin()

    def filenos(self) -> Sequence[int]:
        """The process's socket."""
        return () if self._process is None else (self._process.fileno(),)

    def on_ready(self, fileno: int) -> None:
        """It has said something, or has ended."""
        del fileno
        for _ in range(_MAX_READ):
            packet = None if self._process is None else self._process.receive()
            if packet is None:
                return
            if not packet:
                self._lost("it has ended")
                return
            self._take(packet)

    def next_deadline(self) -> int | None:
        """When the next process is started, or this one has been busy for too long."""
        if self._leaving is not None:
            return self._look_ns
        if self._process is None:
            return self._due_ns
        return None if self._busy_since_ns is None else self._busy_since_ns + STUCK_NS

    def on_time(self, now_ns: int) -> None:
        """Start it again, or end one that is stuck."""
        if self._leaving is not None:
            leaving, until_ns = self._leaving
            self._look_ns = now_ns + _LOOK_NS
            if not leaving.has_ended and now_ns < until_ns:
                return
            leaving.end()
            self._leaving = None
        if self._process is None:
            if self._due_ns is not None and now_ns >= self._due_ns and self.is_used:
                self._begin()
        elif self._busy_since_ns is not None and now_ns >= self._busy_since_ns + STUCK_NS:
            self._lost(f"it has taken nothing for {STUCK_NS // NS} s")

    def close(self) -> None:
        """End the process, and wait for it. What it has not told is in its file."""
        self._dismiss()
        if self._leaving is not None:
            self._leaving[0].end(patience_s=PATIENCE_NS / NS)
            self._leaving = None

    def _dismiss(self) -> None:
        """Tell the process to end; the next one begins when it has."""
        process, self._process = self._process, None
        self._due_ns = self._busy_since_ns = self._trouble = None
        self._handed.clear()
        self.report = {}
        if process is None:
            return
        try:
            process.send(render_frame("stop"))
        except OSError:
            log.debug("the notifying process has ended before it was told to")
        self._look_ns = self._now() + _LOOK_NS
        self._leaving = process, self._now() + PATIENCE_NS

    # -- what is shown -----------------------------------------------------------------------------------------------

    def trouble(self) -> str | None:
        """What is wrong, for `status`."""
        if self._trouble is not None:
            return self._trouble
        troubles = [str(text) for part in self.report.values() for text in part.get("troubles", ())]
        return "; ".join(troubles) or None

    def dropped(self) -> dict[str, int]:
        """What was not handed over since the start, by kind."""
        return dict(self._counts)

    def parts(self) -> dict[str, str]:
        """Lines for `status`."""
        if not self.is_used:
            return {}
        told = [f"{name}: {part['text']}" for name, part in self.report.items() if part.get("text")]
        where = "not running" if self._process is None else f"process {self._process.pid}"
        kept = f"{len(self._kept)} waiting to be handed over"
        lost = f"{self._counts['occasion']} occasions and {self._counts['snapshot']} snapshots dropped"
        return {"notification": "; ".join([where, kept, lost, *told])}

    # -- the process -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._due_ns = None
        self._begun_ns = self._now()
        try:
            self._process = self._start()
        except OSError as error:
            self._fail(f"the notifying process can't be started: {error}")
            return
        self._configure()
        self._hand_over()

    def _configure(self) -> None:
        try:
            packet = render_frame("reload", pick_settings(self._settings))
        except ValueError as error:
            self._trouble = f"the notifying process can't be told its settings: {error}"
            return
        if not self._send(packet) and self._process is not None:
            self._lost("it does not take its settings")  # another one begins with them

    def _hand_over(self) -> None:
        for name, packet in list(self._kept.items()):
            if name not in self._handed:
                if not self._send(packet):
                    return
                self._handed.add(name)

    def _send(self, packet: bytes) -> bool:
        if self._process is None:
            return False
        try:
            taken = self._process.send(packet)
        except OSError as error:
            self._lost(f"it has ended: {error}")
            return False
        if self._busy_since_ns is None:
            self._busy_since_ns = self._now()
        return taken

    def _take(self, packet: bytes) -> None:
        try:
            kind, content = parse_frame(packet, from_daemon=False)
        except ValueError as error:
            self._lost(f"it says what it never should: {error}")
            return
        self._busy_since_ns = self._trouble = None
        if kind == "took":
            self._kept.pop(content["id"], None)
            self._handed.discard(content["id"])
        elif kind == "report":
            self.report = content
        self._hand_over()

    def _lost(self, why: str) -> None:
        process, self._process = self._process, None
        self._busy_since_ns = None
        self._handed.clear()
        if process is not None:
            process.end()
        self._fail(f"the notifying process is gone: {why}")

    def _fail(self, trouble: str) -> None:
        now_ns = self._now()
        if now_ns - self._begun_ns >= LONGEST_REST_NS:
            self._rest_ns = FIRST_REST_NS
        self._due_ns = now_ns + self._rest_ns
        self._rest_ns = min(2 * self._rest_ns, LONGEST_REST_NS)
        self._trouble = f"{trouble}; another one is started"
        log.warning("%s. %s kept", self._trouble, render_count(len(self._kept), "occasion"))
