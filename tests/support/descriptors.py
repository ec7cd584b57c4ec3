"""Which descriptors this process holds, while threads of earlier tests may still let go of theirs."""

import os

from tests.support.host import wait_for

Open = set[tuple[int, str]]


def list_descriptors() -> Open:
    """Numbers, and what each stands for."""
    found: Open = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the descriptor that this opens is closed when it returns
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))  # noqa: PTH115 - no file, as a rule
        except FileNotFoundError:
            continue
    return found


def wait_until_closed(before: Open) -> None:
    """Until nothing is open that was not before; what stays is told.

    Args:
        before: What was.
    """
    wait_for(lambda: not list_descriptors() - before)
