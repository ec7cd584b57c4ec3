"""What `status` shows of the sources: which lead, what they lost, what they only counted, which rules nobody counts."""

from collections import Counter
from typing import Any

from smtpguard.clock import WallMap, render_moment
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.intake.sensor_list import SensorList
from smtpguard.errors import SourceError
from smtpguard.hooks import ClockNs
from smtpguard.model import NS, Subject
from smtpguard.policy.countable import Uncounted, find_uncounted
from smtpguard.policy.incidents import AccountOf
from smtpguard.text import CONTAINED, render_user

Figures = dict[str, Any]
MAX_NOT_RECORDED = 20
"""Users with events that were only counted that are shown."""
_RECENT_NS = 15 * 60 * NS
"""How long a loss of events is a trouble."""


class SourceStatus:
    """Collects it.

    Args:
        guard: The configuration in force.
        sensors: The sources.
        account_of: Knows accounts.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(self, guard: Guard, sensors: SensorList, account_of: AccountOf, wall: WallMap, now: ClockNs) -> None:
        self._guard = guard
        self._sensors = sensors
        self._account_of = account_of
        self._wall = wall
        self._now = now

    def is_seeing(self) -> bool:
        """Whether a source works, or none is wanted."""
        return self._sensors.leader() is not None or self._guard.settings.sources == "none"

    def headline(self, mode: str) -> str:
        """Who watches, in one line, after what the guard does."""
        leader = self._sensors.leader()
        if leader is not None:
            return f"{mode}, watching with {leader.name}"
        if self._guard.settings.sources == "none":
            return f"{mode}, watching nothing (sources: none)"
        return "blind: " + self._sensors.render_whys()

    def troubles(self) -> list[str]:
        """What is wrong now, but for a guard that is blind."""
        found = self._list_losses()
        found += [
            f"rule {name} is NOT COUNTED: failures and bytes need the source bpf. See: smtpguard doctor"
            for name in self.find_uncounted().broken
        ]
        return found + [
            f"source {sensor.name}: {text}"
            for sensor in self._sensors
            if sensor.source is not None
            for text in sensor.source.stats.warnings
        ]

    def find_uncounted(self) -> Uncounted:
        """Rules that nobody counts; none while nobody sees anything, which is told by itself."""
        outcomes = self._sensors.sees_outcomes()
        return Uncounted() if outcomes is None else find_uncounted(self._guard.settings, outcomes=outcomes)

    def list_not_recorded(self, troubles: list[str]) -> list[Figures] | None:
        """Whose events were only counted in the kernel, most first; None if it does not say."""
        totals: dict[tuple[int, bool], Counter[str]] = {}
        try:
            for row in self._sensors.read_unsent():
                what = "reports" if row.news else "refused" if row.refused_by else "attempts"
                totals.setdefault((row.owner, row.elsewhere), Counter())[what] += row.count
        except SourceError as error:
            troubles.append(str(error))
            return None
        most = sorted(totals.items(), key=lambda item: -item[1].total())[:MAX_NOT_RECORDED]
        return [
            {
                "user": f"@{CONTAINED}" if elsewhere else render_user(uid, self._account_of(Subject(id=uid)).name),
                "uid": uid,
                "attempts": counts["attempts"],
                "refused": counts["refused"],
                "reports": counts["reports"],
            }
            for (uid, elsewhere), counts in most
        ]

    def list_sources(self) -> list[Figures]:
        """A row for each."""
        leader = self._sensors.leader()
        rows = []
        for sensor in self._sensors:
            stats = sensor.source.stats if sensor.source is not None else None
            down = "down" if sensor.why else "standby"
            rows.append(
                {
                    "name": sensor.name,
                    "state": down if stats is None else "leads" if sensor is leader else "beside",
                    "why": sensor.why,
                    "restarts": sensor.restarts,
                    "events": stats.events if stats else 0,
                    "lost": stats.lost if stats else 0,
                    "garbled": stats.garbled if stats else 0,
                    "notes": dict(stats.notes) if stats else {},
                }
            )
        return rows

    def _list_losses(self) -> list[str]:
        """Sensors that lost events lately."""
        since_ns = self._now() - _RECENT_NS
        return [
            f"source {sensor.name}: {sensor.source.stats.lost} events lost, the last at "
            f"{render_moment((sensor.lost_ns + self._wall.offset_ns) / NS)}. Their destinations are not recorded"
            for sensor in self._sensors
            if sensor.source is not None and sensor.lost_ns is not None and sensor.lost_ns > since_ns
        ]
