"""The evidence bundle as data: what is kept of the first event over a threshold, for the person who cleans up. Pure.

Gathered when the rule is first exceeded, not when somebody asks: by then the process is gone and the files are changed.
Everything in it is untrusted text; `render_evidence` escapes it.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from smtpguard.enrich.looker.protocol import (
    MAX_CHAIN,
    MAX_PACKET,
    Attribution,
    attribution_fields,
    dump,
    load,
    number,
    parse_attribution,
    raw,
    text,
)
from smtpguard.errors import DecodeError
from smtpguard.model import NS
from smtpguard.text import render_escaped

MAX_NAMED = 24
"""Most files told because process, command line or stack name them."""
MAX_NEWEST = 50
"""Most code files told because they are new."""
MAX_JSON = 12_000
"""Longest rendering in bytes; a verdict's row keeps 16 KiB in all."""

Origin = Literal["web", "cron", "at", "ssh", "detached"]
_ORIGINS = frozenset(get_args(Origin))


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file as it was at that moment.

    Attributes:
        path: As the process sees it.
        owner: Uid.
        mode: Permission bits and type, as stat(2) has them.
        size: In bytes.
        ctime_ns, mtime_ns: Since the epoch. ctime is when inode or content were last changed; touch(1) sets mtime only.
        sha256: In hex; None for files that are not the user's own, or too large.
    """

    path: bytes
    owner: int
    mode: int
    size: int
    ctime_ns: int
    mtime_ns: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found.

    Attributes:
        found: The attribution.
        origin: Where the process came from: "web" (a genuine PHP-FPM or Apache above it), "cron", "at", "ssh",
            "detached" (its parents are gone); None if nothing tells.
        login_uid: Uid that logged in (audit's auid); None if nobody did.
        login_session: Audit's session id; None if there is none.
        cgroup: Its cgroup (v2, else the first one named); a service's or session's unit outlives the parents.
        titles: Command lines of the ancestors, nearest first, cut.
        files: Files that binary, command line and stack name.
        root: Folder below which the newest code was looked for; None if none was found.
        newest: The user's newest code files below it by ctime, newest first.
        looked: How many entries were looked at.
        complete: Whether all of them were.
    """

    found: Attribution
    origin: Origin | None = None
    login_uid: int | None = None
    login_session: int | None = None
    cgroup: bytes | None = None
    titles: tuple[bytes, ...] = ()
    files: tuple[NamedFile, ...] = ()
    root: bytes | None = None
    newest: tuple[NamedFile, ...] = ()
    looked: int = 0
    complete: bool = False


def render_packet(evidence: Evidence, *, final: bool) -> bytes:
    """Evidence as one packet; if it would be too long the older half of the newest files is left out, and so on.

    Args:
        evidence: What was found.
        final: False if a further packet follows that replaces this one.
    """
    while len(packet := _dump(evidence, final=final)) > MAX_PACKET:
        if evidence.newest:
            evidence = replace(evidence, newest=evidence.newest[: len(evidence.newest) // 2], complete=False)
        elif evidence.files or evidence.titles:
            evidence = replace(evidence, files=(), titles=())
        else:
            evidence = replace(evidence, found=replace(evidence.found, cmdline=None, chain=(), stack=()))
    return packet


def _dump(evidence: Evidence, *, final: bool) -> bytes:
    return dump(
        [
            final,
            attribution_fields(evidence.found),
            evidence.origin,
            evidence.login_uid,
            evidence.login_session,
            text(evidence.cgroup),
            [text(title) for title in evidence.titles],
            [_file_fields(file) for file in evidence.files],
            text(evidence.root),
            [_file_fields(file) for file in evidence.newest],
            evidence.looked,
            evidence.complete,
        ]
    )


def parse_packet(packet: bytes) -> tuple[Evidence, bool]:
    """One packet as evidence and whether it is the last one; raises DecodeError on anything else."""
    match load(packet):
        case [
            bool(final),
            found,
            None | str() as origin,
            login_uid,
            login_session,
            cgroup,
            [*titles],
            [*files],
            root,
            [*newest],
            looked,
            bool(complete),
        ] if (
            (origin is None or origin in _ORIGINS)
            and len(titles) <= MAX_CHAIN
            and len(files) <= MAX_NAMED
            and len(newest) <= MAX_NEWEST
        ):
            return Evidence(
                found=parse_attribution(found),
                origin=origin,  # type: ignore[arg-type]  # it is one of _ORIGINS
                login_uid=None if login_uid is None else number(login_uid),
                login_session=None if login_session is None else number(login_session),
                cgroup=raw(cgroup),
                titles=tuple(raw(title) or b"" for title in titles),
                files=tuple(map(_parse_file, files)),
                root=raw(root),
                newest=tuple(map(_parse_file, newest)),
                looked=number(looked),
                complete=complete,
            ), final
    raise DecodeError("not evidence")


def _file_fields(file: NamedFile) -> list[object]:
    return [text(file.path), file.owner, file.mode, file.size, file.ctime_ns, file.mtime_ns, file.sha256]


def _parse_file(fields: object) -> NamedFile:
    match fields:
        case [str(path), owner, mode, size, ctime_ns, mtime_ns, None | str() as sha256] if sha256 is None or (
            len(sha256) == 64 and sha256.isascii() and sha256.isalnum()
        ):
            return NamedFile(
                path=raw(path) or b"",
                owner=number(owner),
                mode=number(mode),
                size=number(size),
                ctime_ns=number(ctime_ns),
                mtime_ns=number(mtime_ns),
                sha256=sha256,
            )
    raise DecodeError("not a file")


def render_evidence(evidence: Evidence, *, max_bytes: int = MAX_JSON) -> dict[str, Any]:
    """Evidence for the database, `why --json` and tickets: escaped text, numbers, null for what is not known.

    Args:
        evidence: What was found.
        max_bytes: Where the oldest of the newest files are left out, and `complete` becomes false.
    """
    while True:
        rendered = _render(evidence)
        if not evidence.newest or len(dump(rendered)) <= max_bytes:
            return rendered
        evidence = replace(evidence, newest=evidence.newest[: len(evidence.newest) * 3 // 4], complete=False)


def _render(evidence: Evidence) -> dict[str, Any]:
    found = evidence.found
    titles = [*evidence.titles, *[b""] * len(found.chain)]
    return {
        "attr": found.attr,
        "why": found.why,
        "proc": _show(found.proc),
        "exe": _show(found.exe),
        "cwd": _show(found.cwd),
        "script": _show(found.script),
        "cmdline": _show_arguments(found.cmdline),
        "started": _seconds(found.start_ns),
        "stack": [_show(frame) for frame in found.stack],
        "request": _show(found.request),
        "client": _show(found.client),
        "origin": evidence.origin,
        "login_uid": evidence.login_uid,
        "login_session": evidence.login_session,
        "cgroup": _show(evidence.cgroup),
        "parents": [
            {
                "pid": parent.pid,
                "uid": parent.uid,
                "proc": _show(parent.comm),
                "exe": _show(parent.exe),
                "cmdline": _show_arguments(title or None),
            }
            for parent, title in zip(found.chain, titles, strict=False)
        ],
        "files": [_render_file(file) for file in evidence.files],
        "root": _show(evidence.root),
        "newest": [_render_file(file) for file in evidence.newest],
        "looked": evidence.looked,
        "complete": evidence.complete,
    }


def _render_file(file: NamedFile) -> dict[str, Any]:
    rendered = {
        "path": _show(file.path),
        "owner": file.owner,
        "mode": f"{file.mode:o}",
        "size": file.size,
        "ctime": _seconds(file.ctime_ns),
        "mtime": _seconds(file.mtime_ns),
    }
    return rendered if file.sha256 is None else rendered | {"sha256": file.sha256}


def _show(value: bytes | None) -> str | None:
    return None if value is None else render_escaped(value)


def _show_arguments(value: bytes | None) -> list[str] | None:
    """Arguments one by one; a NUL between them is no character of theirs."""
    return None if value is None else [render_escaped(word) for word in value.rstrip(b"\0").split(b"\0")[:64]]


def _seconds(value_ns: int | None) -> float | None:
    return None if value_ns is None else round(value_ns / NS, 3)
