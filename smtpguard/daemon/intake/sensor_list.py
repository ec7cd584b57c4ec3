"""The sensors of a guard, the best first: which leads, and what it can say."""

from smtpguard.daemon.intake.sensor import Sensor
from smtpguard.sources.base import Budgeting, Reporting, Unsent


class SensorList(list[Sensor]):
    """All that are wanted, open or not."""

    def leader(self) -> Sensor | None:
        """The sensor whose events count; None if the guard is blind."""
        return next((sensor for sensor in self if sensor.source is not None), None)

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

    def is_better(self, sensor: Sensor, other: Sensor) -> bool:
        """Whether one comes before another."""
        return self.index(sensor) < self.index(other)

    def render_why_not_better(self, leader: Sensor) -> str:
        """Why none before the leader leads, to be added to a line for people."""
        reasons = "; ".join(f"{sensor.name}: {sensor.why}" for sensor in self[: self.index(leader)] if sensor.why)
        return f" (better ones can't be used: {reasons})" if reasons else ""

    def render_whys(self) -> str:
        """Why none works, for people."""
        return "; ".join(f"{sensor.name}: {sensor.why}" for sensor in self)
