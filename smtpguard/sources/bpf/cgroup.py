"""Finds the cgroup v2 directory to attach to, on pure and on hybrid hosts. See cgroups(7) and proc_pid_mountinfo(5)."""

import re
from collections.abc import Iterable
from pathlib import Path

from smtpguard.errors import SourceError

_MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


def parse_cgroup_root(lines: Iterable[str]) -> Path | None:
    """The mount point of the cgroup v2 hierarchy in mountinfo's lines; None if it is not mounted.

    A mount that shows only a part of the hierarchy (a container's bind mount) is taken only if there is no whole one.
    """
    part: Path | None = None
    for line in lines:
        before, found, after = line.partition(" - ")
        fields = before.split(" ")
        if not found or after.split(" ")[0] != "cgroup2" or len(fields) < 5:
            continue
        point = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if fields[3] == "/":
            return point
        part = part or point
    return part


def find_cgroup_root() -> Path | None:
    """Where cgroup v2 is mounted here; None if nowhere."""
    return parse_cgroup_root(_MOUNTINFO.read_text("utf-8", "surrogateescape").splitlines())


def read_cgroup(setting: str) -> Path:
    """The directory that `cgroup` in the configuration means: "auto" or a path. Raises SourceError."""
    if setting != "auto":
        path = Path(setting)
        if not (path / "cgroup.procs").exists():
            raise SourceError("not a cgroup v2 directory", where=setting, fix="set cgroup: auto, or a directory of it")
        return path
    root = find_cgroup_root()
    if root is None:
        raise SourceError(
            "the cgroup v2 hierarchy is not mounted",
            where=str(_MOUNTINFO),
            fix="mount -t cgroup2 none /sys/fs/cgroup/unified, or choose another source",
        )
    return root


def is_inside(cgroup: Path, proc_cgroup: str, root: Path | None) -> bool:
    """Whether a process whose /proc/PID/cgroup reads so lies in a cgroup or below it.

    Args:
        cgroup: The directory in question.
        proc_cgroup: The file's text.
        root: Where the hierarchy is mounted.
    """
    if root is None:
        return False
    for line in proc_cgroup.splitlines():
        if line.startswith("0::/"):
            own = root / line[len("0::/") :]
            return ".." not in own.parts and (own == cgroup or cgroup in own.parents)
    return False
