"""When something is sent again: 1 s, 2 s, 4 s, at most 30 s for ten minutes; then ever longer, up to an hour. Pure."""

FIRST_S = 1.0
SOON_S = 30.0
SOON_FOR_S = 600.0
LATE_S = 3600.0
LAST_S = 24 * 3600.0
"""What could not be sent for so long is given up."""


def next_pause(pause_s: float | None, age_s: float) -> float:
    """How long to wait after an attempt that failed.

    Args:
        pause_s: What was waited before it; None if it was the first.
        age_s: How long ago the message was made.
    """
    if pause_s is None:
        return FIRST_S
    return min(2 * pause_s, SOON_S if age_s < SOON_FOR_S else LATE_S)
