"""Processes as /proc shows them, for who looks while they come and go: what has just ended is not there."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.host import wait_for


def list_children(pid: int) -> list[int]:
    """Processes that any thread of a process has started."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, children.read_text().split())
    return found


def list_descendants(pid: int) -> Iterator[int]:
    """Those, and theirs."""
    for child in list_children(pid):
        yield child
        yield from list_descendants(child)


def find_child(pid: int, name: str) -> int | None:
    """A process's child that has given itself a name; None where there is none, or it has not got so far."""
    for child in list_children(pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text() == f"{name}\n":
                return child
    return None


def wait_for_child(pid: int, name: str) -> int:
    """The same, once it is there: a signal to nobody would be one to the tests themselves (kill(2), pid 0)."""
    return wait_for(lambda: find_child(pid, name))
