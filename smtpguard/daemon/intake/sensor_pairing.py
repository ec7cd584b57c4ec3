"""Hands what several sensors see to the guard, each connection once: policy/sensor_pairs.py as a part of the loop."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from smtpguard.daemon.loop import TimedPart
from smtpguard.model import Connect
from smtpguard.policy.sensor_pairs import SensorPairs


class TakeConnects(Protocol):
    """Judges attempts."""

    def __call__(self, connects: Sequence[Connect], /) -> None:
        """Take what was seen together."""


FOOLED = frozenset({"proc"})
"""A row of a socket has no direction of its own, and is seen late: nobody is stopped on the word of these alone."""


class SensorPairing(TimedPart):
    """Stands between the sources and the guard when several run.

    Args:
        sensors: Names of all that run.
        take: The guard's way in.
        hear: Its way in for what a sensor that can be fooled was alone to see.
    """

    def __init__(self, sensors: Iterable[str], take: TakeConnects, hear: TakeConnects) -> None:
        self.pairing = SensorPairs(sensors)
        self._take = take
        self._hear = hear

    def lead(self, connects: Iterable[Connect]) -> None:
        """The leading source saw these: they count at once."""
        self._take([connect for connect in connects if self.pairing.lead(connect)])

    def beside(self, connects: Iterable[Connect]) -> None:
        """Another source saw these: they count if the leader does not tell of them within a second."""
        for connect in connects:
            self.pairing.beside(connect)

    def next_deadline(self) -> int | None:
        """When something that nobody else saw counts."""
        return self.pairing.next_deadline()

    def on_time(self, now_ns: int) -> None:
        """Let count what the leader did not see."""
        missed = self.pairing.tick(now_ns)
        seen = [connect for connect in missed if connect.sensor not in FOOLED]
        heard = [connect for connect in missed if connect.sensor in FOOLED]
        if seen:
            self._take(seen)
        if heard:
            self._hear(heard)
