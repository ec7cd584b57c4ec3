"""For a daemon under libfaketime (0.9.10), whose clock_nanosleep(2) fails with EINVAL: no fault of ours."""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep  # type: ignore[assignment]  # nobody gives it an index
