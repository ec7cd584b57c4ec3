"""Keeps a source open: chooses it, proves it, reads it, and moves on when it dies.

With `auto` the best source that proves itself leads. When it dies it is reopened at once; if that fails the next one
takes over, and the better ones are tried again with growing pauses, so that the guard comes back to the best by itself.
With a list, the first that works leads; the others run beside it. When a better one comes back, what happened while it
was opened counts once, whichever of the two saw it.

At the start sources are opened in the loop, which is decided when it is over; later beside it, one at a time.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Sequence

from smtpguard.daemon.intake.handover import Handover
from smtpguard.daemon.intake.sensor import Sensor, SourceHook, TakeReports
from smtpguard.daemon.intake.sensor_list import SensorList
from smtpguard.daemon.intake.sensor_pairing import TakeConnects
from smtpguard.daemon.intake.source_opener import MakeSource, SourceOpener, open_source, tell_changes
from smtpguard.daemon.supervision import Supervision
from smtpguard.errors import GuardError, SourceError, ThreadError
from smtpguard.hooks import ClockNs
from smtpguard.settings import Settings
from smtpguard.sources.base import Reporting, Source
from smtpguard.sources.registry import KINDS, make_source

log = logging.getLogger(__name__)

_MAX_READS = 16
"""Most looks at a source at once, each bounded by it: so many that it is seen whole, however full it was."""


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
        self.sensors = SensorList(Sensor(name) for name in names)
        self._opening = SourceOpener(make)
        self._opened: Sensor | None = None
        self._queue: deque[Sensor] = deque()
        self._handover = Handover(now)

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
            log.info("source %s leads%s", leader.name, self.sensors.render_why_not_better(leader))
        elif self.sensors:
            self._tell_blind()

    def leader(self) -> Sensor | None:
        """The sensor whose events count; None if the guard is blind."""
        return self.sensors.leader()

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration: open sources are told of its ports, those that are opened later get all of it."""
        before, self._settings = self._settings, settings
        for sensor in self.sensors:
            if sensor.source is not None:
                try:
                    tell_changes(sensor.source, before, settings)
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
            for _ in range(_MAX_READS):
                self._read(sensor)
                if sensor.source is None or sensor.source.next_poll_ns() != 0:
                    break

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
            if self._opened is not None and self.sensors.is_better(self._opened, sensor):
                self._handover.note(connects)
            self._deliver(connects)
        elif self._beside is not None:
            self._beside(connects)

    def _lost(self, sensor: Sensor, error: SourceError) -> None:
        """A source has died: it is opened again before any other."""
        log.error("source %s has died: %s", sensor.name, error)
        sensor.restarts += 1
        if sensor.revive():
            log.warning("source %s is back", sensor.name)
            return
        self._close(sensor)
        sensor.why, sensor.died = f"it has died and is being opened again: {error}", True
        self._queue.appendleft(sensor)

    def _is_asked(self, sensor: Sensor) -> bool:
        """Whether it is being opened, or waits for it."""
        return sensor is self._opened or sensor in self._queue

    def _begin_next(self) -> None:
        """Have the next source opened, if none is."""
        while self._queue and self._opened is None:
            sensor = self._queue.popleft()
            leader = self.leader()
            if self.auto and leader is not None and self.sensors.is_better(leader, sensor):
                sensor.retry_ns, sensor.stands_in = None, False  # a better one leads: this one is not needed
                continue
            self._handover.begin()
            try:
                self._opening.begin(sensor.name, self._settings)
            except ThreadError as error:
                self._failed(sensor, error)
                self._after_failure(sensor)
            else:
                self._opened = sensor

    def _take_opened(self) -> None:
        """Take over the source that was opened beside the loop, if it is over."""
        sensor = self._opened
        if sensor is None:
            return
        try:
            source = self._opening.take(self._settings)
            if source is None:
                return
        except Exception as error:  # noqa: BLE001 - as `_open` does
            self._opened = None
            self._failed(sensor, error)
            self._after_failure(sensor)
            return
        self._opened = None
        before, stands_in = self.leader(), sensor.stands_in
        sensor.died = sensor.stands_in = False
        self._put_in_place(sensor, source)
        if stands_in:
            log.warning("source %s takes over%s", sensor.name, self.sensors.render_why_not_better(sensor))
        else:
            log.warning("source %s is back", sensor.name)
        if before is not None and self.leader() is sensor:
            if connects := self._handover.take_over(before.source, sensor.source):
                self._deliver(connects)
            if self.auto:
                self._close(before)

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
        elif died and leader is not None and not self.auto and self.sensors.is_better(sensor, leader):
            log.warning("source %s leads now%s", leader.name, self.sensors.render_why_not_better(leader))
        if (died or stood_in) and leader is None and not self._queue:
            self._tell_blind()

    def _tell_blind(self) -> None:
        log.error("no source works: the guard is blind; %s", self.sensors.render_whys())

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
        sensor.put_in_place(source)
        self._on_open(source)

    def _failed(self, sensor: Sensor, error: Exception) -> None:
        if isinstance(error, GuardError | OSError):
            sensor.plan_retry(str(error), self._now())
        else:
            self._supervision.record(f"source {sensor.name}", error)
            sensor.plan_retry(f"{type(error).__name__}: {error}", self._now())

    def _close(self, sensor: Sensor) -> None:
        source = sensor.take_out()
        if source is None:
            return
        self._on_close(source)
        with contextlib.suppress(GuardError, OSError):
            source.close()
