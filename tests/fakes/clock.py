"""A clock that tests turn by hand."""

from smtpguard.model import NS

START_WALL_NS = 1_771_418_368 * NS
"""2026-02-18 12:39:28 UTC."""


class FakeClock:
    """Stands still until told: `advance` moves all clocks, `step_wall` is somebody setting the wall clock."""

    def __init__(self, *, boot_ns: int = 1000 * NS, wall_ns: int = START_WALL_NS) -> None:
        self.boot = boot_ns
        self.wall = wall_ns

    def boot_ns(self) -> int:
        return self.boot

    def monotonic_ns(self) -> int:
        return self.boot

    def wall_ns(self) -> int:
        return self.wall

    def advance(self, seconds: float) -> None:
        self.boot += round(seconds * NS)
        self.wall += round(seconds * NS)

    def step_wall(self, seconds: float) -> None:
        self.wall += round(seconds * NS)
