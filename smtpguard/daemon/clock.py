"""The clocks, where the daemon's parts look for them; sources need them too, so they live in `smtpguard.clock`."""

from smtpguard.clock import STEP_NS, Clock, SystemClock, WallMap

__all__ = ["STEP_NS", "Clock", "SystemClock", "WallMap"]
