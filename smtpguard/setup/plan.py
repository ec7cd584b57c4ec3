"""What setup would do, as data: from what is wanted, what is there and what an earlier setup wrote. Pure.

A file is ours while its content is what the manifest says we wrote. What an administrator has changed is theirs: it is
shown before it is replaced, the replaced one is kept beside it, and removal leaves it alone.
"""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Act = Literal["create", "update", "replace", "remove", "keep", "leave"]
WRITES: frozenset[Act] = frozenset({"create", "update", "replace"})
BACKUP_SUFFIX = "~"
"""systemd, fail2ban and logrotate read no file whose name ends so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFile:
    """A file as it should be.

    Attributes:
        path: Absolute, as seen on the system it is for.
        content: What it should hold.
        mode: Permission bits.
        seed: Only to be there: an existing one is never changed, whatever it holds.
    """

    path: str
    content: bytes
    mode: int = 0o644
    seed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is at a path.

    Attributes:
        content: Of a regular file; None if nothing is there, or something else.
        obstacle: Why it is not to be touched ("is a symbolic link"); None for a file or nothing.
    """

    content: bytes | None = None
    obstacle: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens to one path.

    Attributes:
        path: Which.
        act: create it; update what we wrote; replace what somebody else wrote or changed; remove it; keep it, it is
            as it should be; leave it alone.
        reason: Why, for people.
        before, after: Its content; None for no file.
        mode: Permission bits of a written file.
    """

    path: str
    act: Act
    reason: str = ""
    before: bytes | None = None
    after: bytes | None = None
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What setup has written, so that it can take away just that.

    Attributes:
        files: Path to digest.
        folders: Folders it made, outer ones first.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


def compute_digest(content: bytes) -> str:
    """How the manifest knows a content again."""
    return hashlib.sha256(content).hexdigest()


def plan_install(wanted: Sequence[WantedFile], found: Mapping[str, Found], manifest: Manifest) -> list[Step]:
    """The steps that lead from what is there to what is wanted.

    Args:
        wanted: Files as they should be.
        found: What is at each of their paths.
        manifest: What earlier setups wrote.
    """
    return [_plan_file(file, found[file.path], manifest.files.get(file.path)) for file in wanted]


def _plan_file(file: WantedFile, now: Found, ours: str | None) -> Step:
    act: Act
    if now.obstacle is not None:
        return Step(path=file.path, act="leave", reason=now.obstacle)
    if now.content is None:
        act, reason = "create", ""
    elif now.content == file.content:
        return Step(path=file.path, act="keep", reason="is as it should be", before=now.content)
    elif file.seed:
        return Step(path=file.path, act="keep", reason="is yours", before=now.content)
    elif ours == compute_digest(now.content):
        act, reason = "update", "written by an earlier version"
    else:
        act, reason = "replace", f"not written by setup, or changed since: kept as {file.path}{BACKUP_SUFFIX}"
    return Step(path=file.path, act=act, reason=reason, before=now.content, after=file.content, mode=file.mode)


def plan_remove(found: Mapping[str, Found], manifest: Manifest) -> list[Step]:
    """The steps that take away what setup wrote, and nothing else."""
    steps = []
    for path, digest in manifest.files.items():
        now = found[path]
        if now.obstacle is not None:
            steps.append(Step(path=path, act="leave", reason=now.obstacle))
        elif now.content is None:
            steps.append(Step(path=path, act="keep", reason="is gone already"))
        elif compute_digest(now.content) != digest:
            steps.append(Step(path=path, act="leave", reason="changed since it was written", before=now.content))
        else:
            steps.append(Step(path=path, act="remove", before=now.content))
    return steps


def merge_manifest(manifest: Manifest, steps: Sequence[Step], folders: Sequence[str]) -> Manifest:
    """The manifest after an installation.

    Args:
        manifest: As it was.
        steps: Of the installation.
        folders: Folders that are made for them.
    """
    written = {step.path: compute_digest(step.after) for step in steps if step.act in WRITES and step.after is not None}
    return Manifest(files={**manifest.files, **written}, folders=tuple(sorted({*manifest.folders, *folders})))


def render_diff(step: Step) -> str:
    """A step as a unified diff, control characters escaped; "" where nothing changes."""
    if step.act not in WRITES and step.act != "remove":
        return ""
    lines = difflib.unified_diff(
        _split(step.before),
        _split(step.after),
        fromfile="/dev/null" if step.before is None else step.path,
        tofile="/dev/null" if step.after is None else step.path,
        lineterm="",
    )
    return "\n".join(lines)


def _split(content: bytes | None) -> list[str]:
    if not content:
        return []
    lines = content.decode("utf-8", "backslashreplace").split("\n")
    if lines[-1]:
        lines[-1] += "\n\\ No newline at end of file"
    else:
        lines.pop()
    return ["".join(c if c.isprintable() or c in "\t\n" else ascii(c)[1:-1] for c in line) for line in lines]
