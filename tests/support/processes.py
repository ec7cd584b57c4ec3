"""Processes as /proc shows them, for who looks while they come and go: what has just ended is not there.

A file in /proc is opened while its process lives and read when it may have ended: ENOENT at the one, ESRCH at the
other (proc(5)). Who looks at a process that may end in that moment reads it here, never by its path.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.support.host import wait_for


def read_process(pid: int | str, name: str) -> bytes:
    """A file of a process, such as `stat`; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def has_ended(pid: int | str) -> bool:
    """Whether nothing of a process runs any more; one that is not waited for yet has ended too."""
    state = read_process(pid, "stat").rpartition(b")")[2].split()[:1]
    return state in ([], [b"Z"], [b"X"])


def read_name(pid: int) -> str:
    """What a process calls itself; nothing where it has ended."""
    return read_process(pid, "comm").decode().rstrip("\n")


def remove_cgroup(path: Path) -> bool:
    """Whether a control group is gone: a process that has just ended is in it for a while, listed or not."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def list_children(pid: int) -> list[int]:
    """Processes that any thread of a process has started."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - pathlib's looks again, and fails at what has ended
            found += map(int, read_process(pid, f"task/{thread}/children").split())
    return found


def list_descendants(pid: int) -> Iterator[int]:
    """Those, and theirs."""
    for child in list_children(pid):
        yield child
        yield from list_descendants(child)


def find_child(pid: int, name: str) -> int | None:
    """A process's child that has given itself a name; None where there is none, or it has not got so far."""
    return next((child for child in list_children(pid) if read_name(child) == name), None)


def wait_for_child(pid: int, name: str) -> int:
    """The same, once it is there: a signal to nobody would be one to the tests themselves (kill(2), pid 0)."""
    return wait_for(lambda: find_child(pid, name))
