"""Keeps a source open: chooses it, proves it, reads it, and moves on when it dies.

With `auto` the best source that proves itself leads. When it dies it is reopened at once; if that fails the next one
takes over, and the better ones are tried again with growing pauses, so that the guard comes back to the best by itself.
With a list, the first that works leads; the others run beside it. When a better one comes back, what happened while it
was opened counts once, whichever of the two saw it.

At the start sources are opened in the loop, which is decided when it is over; later beside it, one at a time.
"""

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smtpguard.daemon.intake.sensor_pairing import TakeConnects
from smtpguard.daemon.intake.source_opener import MakeSource, SourceOpener, open_source
from smtpguard.daemon.supervision import Supervision
from smtpguard.errors import GuardError, SourceError
from smtpguard.hooks import ClockNs
from smtpguard.model import NS, Connect, SocketReport
from smtpguard.settings import Settings
from smtpguard.sources.base import Budgeting, LoopbackSensor, Reporting, Reviving, Source, Unsent
from smtpguard.sources.registry import KINDS, make_source

log = logging.getLogger(__name__)

_PAUSE_NS = NS
_LONGEST_PAUSE_NS = 60 * NS
_MAX_LAST_READS = 16
"""Of a source that is about to be replaced: sources bound what one read hands over, and a flood must not hold us."""
_MAX_MEANWHILE = 1 << 16
"""Attempts remembered while a better source is opened: a second of them at 65,000 a second."""


@dataclass(slots=True)
class Sensor:
    """One source and how it fares.

    Attributes:
        name: Its name.
        source: The open source; None while it is down or not needed.
        why: Why it is down, or "".
        retry_ns: When it is tried again; None if it needs no try.
        pause_ns: How long the next pause will be.
        restarts: How often it has died.
        died: Whether it is opened again because it has died.
        stands_in: Whether it is opened because another one has died and could not be opened again.
        lost: Events that it had lost when it was read last.
        lost_ns: When more of them were found to be lost (CLOCK_BOOTTIME); None if never.
    """

    name: str
    source: Source | None = None
    why: str = ""
    retry_ns: int | None = None
    pause_ns: int = _PAUSE_NS
    restarts: int = 0
    died: bool = False
    stands_in: bool = False
    lost: int = 0
    lost_ns: int | None = None


class SourceHook(Protocol):
    """Has to know when a source comes or goes."""

    def __call__(self, source: Source) -> None:
        """Take it."""


class TakeReports(Protocol):
    """Judges what became of connections."""

    def __call__(self, reports: Sequence[SocketReport]) -> None:
        """Take what was reported together."""


class SourceSupervisor:
    """The sources of a running guard, as a part of the loop.

    Args:
        settings: Which sources, and what they need.
        deliver: Takes what the leading source saw.
        on_open: Called when a source was opened and has proved itself.
        on_close: Called when it goes.
        now: CLOCK_BOOTTIME in nanoseconds.
        make: Makes a source by name.
        reports: Takes what the leading source says of what became of connections.
        beside: Takes what sources beside the leading one saw.
        supervision: Counts what a source raises that it ought not to.
    """

    def __init__(
        self,
        settings: Settings,
        deliver: TakeConnects,
        on_open: SourceHook,
        on_close: SourceHook,
        now: ClockNs,
        *,
        make: MakeSource = make_source,
        beside: TakeConnects | None = None,
        reports: TakeReports | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        self._settings = settings
        self._deliver = deliver
        self._beside = beside
        self._reports = reports
        self._on_open = on_open
        self._on_close = on_close
        self._now = now
        self._make = make
        self._supervision = supervision or Supervision(now)
        self._started = False
        self.auto = settings.sources == "auto"
        chosen = {"auto": tuple(KINDS), "none": ()}
        names = settings.sources if isinstance(settings.sources, tuple) else chosen[settings.sources]
        self.sensors = [Sensor(name) for name in names]
        self._opening = SourceOpener(make)
        self._opened: Sensor | None = None
        self._queue: deque[Sensor] = deque()
        self._meanwhile: deque[tuple[bytes, int]] = deque(maxlen=_MAX_MEANWHILE)

    @property
    def is_opening(self) -> bool:
        """Whether a source is being opened beside the loop, or waits for it."""
        return self._opened is not None or bool(self._queue)

    def start(self) -> None:
        """Open what is wanted; what fails is named and tried again later."""
        for sensor in self.sensors:
            if self.auto and self.leader() is not None:
                break
            if sensor.source is None:
                self._open(sensor)
        self._started = True
        leader = self.leader()
        if leader is not None:
            log.info("source %s leads%s", leader.name, self._why_not_better(leader))
        elif self.sensors:
            self._tell_blind()

    def leader(self) -> Sensor | None:
        """The sensor whose events count; None if the guard is blind."""
        return next((sensor for sensor in self.sensors if sensor.source is not None), None)

    def sees_outcomes(self) -> bool | None:
        """Whether it is reported what became of connections; None while the guard is blind."""
        leader = self.leader()
        if leader is None or leader.source is None:
            return None
        return isinstance(leader.source, Reporting) and leader.source.sees_outcomes()

    def read_unsent(self) -> list[Unsent]:
        """What the leading source only counted, by user, port and result. Raises SourceError."""
        leader = self.leader()
        source = leader.source if leader is not None else None
        return source.read_unsent() if isinstance(source, Budgeting) else []

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration: open sources are told of its ports, those that are opened later get all of it."""
        before, self._settings = self._settings, settings
        for sensor in self.sensors:
            source = sensor.source
            if source is None:
                continue
            try:
                if settings.ports != before.ports:
                    source.set_ports(settings.ports)
                if settings.loopback != before.loopback and isinstance(source, LoopbackSensor):
                    source.set_loopback(counts=settings.loopback == "count")
            except SourceError as error:
                self._lost(sensor, error)

    def close(self) -> None:
        """Close every source, and the one that is being opened."""
        self._queue.clear()
        self._opening.close()
        for sensor in self.sensors:
            self._close(sensor)

    def filenos(self) -> Sequence[int]:
        """Descriptors of all open sources, and of the one that is being opened."""
        opened = self._opening.filenos() if self._opened is not None else ()
        return [*opened, *(fileno for sensor in self.sensors if sensor.source for fileno in sensor.source.filenos())]

    def on_ready(self, fileno: int) -> None:
        """Read the source that the descriptor belongs to."""
        if self._opened is not None and fileno in self._opening.filenos():
            self._opening.on_ready()  # `on_time` comes in the same turn
            return
        for sensor in self.sensors:
            if sensor.source is not None and fileno in sensor.source.filenos():
                self._read(sensor)
                return

    def catch_up(self) -> None:
        """Hand over what the open sources have seen until now: who is about to change the rules wants it judged."""
        for sensor in self.sensors:
            self._read(sensor)

    def next_deadline(self) -> int | None:
        """The next poll or retry; at once until sources were opened."""
        if not self._started or (self._queue and self._opened is None):
            return 0
        waiting = [s.retry_ns for s in self.sensors if s.source is None and not self._is_asked(s)]
        times = [retry_ns for retry_ns in waiting if retry_ns is not None]
        polls = [sensor.source.next_poll_ns() for sensor in self.sensors if sensor.source is not None]
        times.extend(poll for poll in polls if poll is not None)
        return min(times, default=None)

    def on_time(self, now_ns: int) -> None:
        """Open sources, then poll what wants to be polled, and try again what is down."""
        if not self._started:
            self.start()
        self._take_opened()
        for sensor in self.sensors:
            if sensor.source is not None:
                poll = sensor.source.next_poll_ns()
                if poll is not None and now_ns >= poll:
                    self._read(sensor)
            elif sensor.retry_ns is not None and now_ns >= sensor.retry_ns and not self._is_asked(sensor):
                self._queue.append(sensor)
        self._begin_next()

    def _read(self, sensor: Sensor) -> None:
        source = sensor.source
        if source is None:
            return
        try:
            connects = source.read()
        except SourceError as error:
            self._lost(sensor, error)
            return
        if source.stats.lost != sensor.lost:
            sensor.lost, sensor.lost_ns = source.stats.lost, self._now()
        if self._reports is not None and isinstance(source, Reporting) and sensor is self.leader():
            self._reports(source.take_reports())
        if not connects:
            return
        if sensor is self.leader():
            if self._opened is not None and self._index(self._opened) < self._index(sensor):
                self._meanwhile.extend((connect.address, connect.port) for connect in connects)
            self._deliver(connects)
        elif self._beside is not None:
            self._beside(connects)

    def _lost(self, sensor: Sensor, error: SourceError) -> None:
        """A source has died: it is opened again before any other."""
        log.error("source %s has died: %s", sensor.name, error)
        sensor.restarts += 1
        if self._revive(sensor):
            log.warning("source %s is back", sensor.name)
            return
        self._close(sensor)
        sensor.why, sensor.died = f"it has died and is being opened again: {error}", True
        self._queue.appendleft(sensor)

    @staticmethod
    def _revive(sensor: Sensor) -> bool:
        """Take up what was taken from a source, where it can: opening one anew takes 0.2 s of CPU."""
        if not isinstance(sensor.source, Reviving):
            return False
        try:
            sensor.source.revive()
        except (GuardError, OSError) as error:
            log.info("source %s is opened anew: %s", sensor.name, error)
            return False
        return True

    def _is_asked(self, sensor: Sensor) -> bool:
        """Whether it is being opened, or waits for it."""
        return sensor is self._opened or sensor in self._queue

    def _begin_next(self) -> None:
        """Have the next source opened, if none is."""
        while self._queue and self._opened is None:
            sensor = self._queue.popleft()
            leader = self.leader()
            if self.auto and leader is not None and self._index(leader) < self._index(sensor):
                sensor.retry_ns, sensor.stands_in = None, False  # a better one leads: this one is not needed
                continue
            self._meanwhile.clear()
            self._opened = sensor
            self._opening.begin(sensor.name, self._settings)

    def _take_opened(self) -> None:
        """Take over the source that was opened beside the loop, if it is over."""
        sensor = self._opened
        if sensor is None:
            return
        try:
            opened = self._opening.take()
            if opened is None:
                return
            if opened.settings.ports != self._settings.ports:
                self._tell_late(opened.source)
        except Exception as error:  # noqa: BLE001 - as `_open` does
            self._opened = None
            self._failed(sensor, error)
            self._after_failure(sensor)
            return
        self._opened = None
        before, stands_in = self.leader(), sensor.stands_in
        sensor.died = sensor.stands_in = False
        self._put_in_place(sensor, opened.source)
        if stands_in:
            log.warning("source %s takes over%s", sensor.name, self._why_not_better(sensor))
        else:
            log.warning("source %s is back", sensor.name)
        if before is not None and self.leader() is sensor:
            self._hand_over(before, sensor)
            if self.auto:
                self._close(before)

    def _tell_late(self, source: Source) -> None:
        """Tell a source of what is otherwise since its opening began; one that can't be told is closed."""
        try:
            source.set_ports(self._settings.ports)
            if isinstance(source, LoopbackSensor):
                source.set_loopback(counts=self._settings.loopback == "count")
        except BaseException:
            with contextlib.suppress(GuardError, OSError):
                source.close()
            raise

    def _after_failure(self, sensor: Sensor) -> None:
        """A source could not be opened; if it has died just now, another one may have to take over."""
        died, stood_in, sensor.died, sensor.stands_in = sensor.died, sensor.stands_in, False, False
        leader = self.leader()
        if died and leader is None and self.auto:
            for other in self.sensors:
                if other is not sensor:
                    other.stands_in = True
                    if other not in self._queue:
                        self._queue.append(other)
        elif died and leader is not None and not self.auto and self._index(leader) > self._index(sensor):
            log.warning("source %s leads now%s", leader.name, self._why_not_better(leader))
        if (died or stood_in) and leader is None and not self._queue:
            self._tell_blind()

    def _tell_blind(self) -> None:
        log.error("no source works: the guard is blind; %s", "; ".join(f"{s.name}: {s.why}" for s in self.sensors))

    def _hand_over(self, old: Sensor, new: Sensor) -> None:
        """A better source leads from here: what only the old one has seen until now counts too, in front.

        From when the new one was attached both see the same; what the old one has told counts already, what waits in
        it unread counts if the new one has not seen it. They are paired by destination, one to one, from the latest on.
        """
        rest, until_ns = self._read_all(old)
        fresh, _ = self._read_all(new)
        both = Counter((connect.address, connect.port) for connect in fresh if connect.time_ns <= until_ns)
        missed: list[Connect] = []
        for connect in reversed(rest):
            place = (connect.address, connect.port)
            if both[place] > 0:
                both[place] -= 1
            else:
                missed.append(connect)
        counted = Counter(self._meanwhile)
        twice = {place: min(count, both[place]) for place, count in counted.items() if both[place] > 0}
        kept: list[Connect] = []
        for connect in fresh:
            place = (connect.address, connect.port)
            if twice.get(place, 0) > 0 and connect.time_ns <= until_ns:
                twice[place] -= 1
            else:
                kept.append(connect)
        self._meanwhile.clear()
        if connects := [*reversed(missed), *kept]:
            self._deliver(connects)

    def _read_all(self, sensor: Sensor) -> tuple[list[Connect], int]:
        """All that a source has, and until when that is all; one that has died says so again at its next read."""
        connects: list[Connect] = []
        until_ns = self._now()
        if sensor.source is not None:
            with contextlib.suppress(SourceError):
                for _ in range(_MAX_LAST_READS):
                    until_ns = self._now()
                    more = sensor.source.read()
                    if not more:
                        break
                    connects += more
        return connects, until_ns

    def _index(self, sensor: Sensor) -> int:
        return self.sensors.index(sensor)

    def _open(self, sensor: Sensor) -> bool:
        """Open and prove a source in the loop; on failure say why and plan the next try."""
        try:
            source = open_source(self._make, sensor.name, self._settings)
        except Exception as error:  # noqa: BLE001 - one source that is broken must not keep the next from being opened
            self._failed(sensor, error)
            return False
        self._put_in_place(sensor, source)
        return True

    def _put_in_place(self, sensor: Sensor, source: Source) -> None:
        """From here on it is read."""
        sensor.lost = 0
        sensor.source, sensor.why, sensor.retry_ns, sensor.pause_ns = source, "", None, _PAUSE_NS
        self._on_open(source)

    def _failed(self, sensor: Sensor, error: Exception) -> None:
        if isinstance(error, GuardError | OSError):
            self._cannot_open(sensor, str(error))
        else:
            self._supervision.record(f"source {sensor.name}", error)
            self._cannot_open(sensor, f"{type(error).__name__}: {error}")

    def _cannot_open(self, sensor: Sensor, why: str) -> None:
        if sensor.why != why:
            log.warning("source %s can't be used: %s", sensor.name, why)
        sensor.why = why
        sensor.retry_ns = self._now() + sensor.pause_ns
        sensor.pause_ns = min(sensor.pause_ns * 2, _LONGEST_PAUSE_NS)

    def _close(self, sensor: Sensor) -> None:
        source = sensor.source
        if source is None:
            return
        sensor.source = None
        self._on_close(source)
        with contextlib.suppress(GuardError, OSError):
            source.close()

    def _why_not_better(self, leader: Sensor) -> str:
        better = self.sensors[: self._index(leader)]
        reasons = "; ".join(f"{sensor.name}: {sensor.why}" for sensor in better if sensor.why)
        return f" (better ones can't be used: {reasons})" if reasons else ""
