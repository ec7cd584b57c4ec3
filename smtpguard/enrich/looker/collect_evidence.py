"""Gathers an evidence bundle in a worker: the attribution, where the process came from, and what it left on disk.

Told in steps, so that a file system which hangs us at the end takes nothing away of what was found before.
"""

from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

from smtpguard.enrich.looker.code_files import read_file, site_roots, walk_code
from smtpguard.enrich.looker.evidence import MAX_NAMED, Evidence, NamedFile, Origin
from smtpguard.enrich.looker.inspect_process import find_worker, look_unmarked
from smtpguard.enrich.looker.php_fpm import FpmReader, is_genuine
from smtpguard.enrich.looker.procfs import Process
from smtpguard.enrich.looker.protocol import Ancestor, Attribution, Question
from smtpguard.enrich.looker.rooted_files import is_path, join_path
from smtpguard.enrich.looker.standpoint import Marks

MAX_TITLE = 512
_MAX_WORDS = 32
_SCHEDULERS: dict[bytes, Origin] = {b"cron": "cron", b"crond": "cron", b"anacron": "cron", b"atd": "at"}
_UNITS: dict[bytes, Origin] = {b"cron.service": "cron", b"crond.service": "cron", b"atd.service": "at"}
_SSH = (b"sshd", b"sshd-session")
_APACHE = (b"apache2", b"httpd")


class TellEvidence(Protocol):
    """Takes what is known so far."""

    def __call__(self, found: Evidence, /) -> None:
        """Take it."""


def gather(question: Question, tell: TellEvidence, fpm: FpmReader) -> Evidence:
    """The bundle for an event.

    Args:
        question: Which process, and when.
        tell: Is given what is known before each further step that may hang.
        fpm: Reads workers of PHP-FPM.
    """
    marks = Marks()
    return marks.on_evidence(_gather(question, lambda evidence: tell(marks.on_evidence(evidence)), fpm, marks))


def _gather(question: Question, tell: TellEvidence, fpm: FpmReader, marks: Marks) -> Evidence:
    found = look_unmarked(question, lambda known: tell(Evidence(found=known)), fpm, marks)
    evidence = Evidence(found=found)
    if found.start_ns is None or question.pid is None:
        return evidence
    try:
        process = Process(question.pid)
    except OSError:
        return evidence
    with process:
        stat = process.stat()
        if stat is None or stat.start_ns != found.start_ns:
            return evidence
        login_uid, login_session = process.login()
        evidence = replace(evidence, cgroup=process.cgroup(), login_uid=login_uid, login_session=login_session)
        evidence = replace(evidence, origin=judge_origin(evidence, web=False))
        if not question.deep:
            return evidence
        tell(evidence)
        evidence = replace(
            evidence,
            origin=judge_origin(evidence, web=is_web(process, found, question.uids)),
            titles=read_titles(found.chain, question.uids),
        )
        tell(evidence)
        evidence = replace(evidence, files=read_named(process, found, question.uids))
        marks.compare_files(process, evidence.files, None)
        tell(evidence)
        evidence = _add_newest(process, evidence, question.uids)
        marks.compare_files(process, evidence.newest, evidence.root)
        return evidence


def judge_origin(evidence: Evidence, *, web: bool) -> Origin | None:
    """Where a process came from; None if nothing tells.

    The chain of parents proves most, for a tenant can't make a child of root's daemons. Then the login: cron has one
    too, so its cgroup is asked first. A process whose parents are gone and that nobody logged in for is detached.

    Args:
        evidence: With chain, login and cgroup.
        web: Whether a genuine web server's worker is it or stands above it.
    """
    if web:
        return "web"
    names = [(ancestor.exe or b"").rpartition(b"/")[2] for ancestor in evidence.found.chain if ancestor.uid == 0]
    for name in names:
        if name in _SCHEDULERS:
            return _SCHEDULERS[name]
        if name in _SSH:
            return "ssh"
    unit = _UNITS.get((evidence.cgroup or b"").rpartition(b"/")[2])
    if unit is not None:
        return unit
    if evidence.login_uid is not None and evidence.login_session is not None:
        return "ssh"
    parent = evidence.found.chain[0].pid if evidence.found.chain else 1
    return "detached" if parent == 1 else None


def is_web(process: Process, found: Attribution, uids: Collection[int]) -> bool:
    """Whether it is, or was started by, a genuine worker of PHP-FPM or Apache. Can hang for ever."""
    with find_worker(process, found, uids) as (worker, master):
        if worker is not None and master is not None and is_genuine(worker, master):
            return True
    line = [(found.exe or b"", -1), *((ancestor.exe or b"", ancestor.uid) for ancestor in found.chain)]
    return any(
        exe == above and uid == 0 and exe.rpartition(b"/")[2] in _APACHE for (exe, _), (above, uid) in pairwise(line)
    )


def read_titles(chain: Collection[Ancestor], uids: Collection[int]) -> tuple[bytes, ...]:
    """Command lines of the ancestors that are root's or the user's own. Can hang for ever."""
    titles = []
    for ancestor in chain:
        title = b""
        if ancestor.uid == 0 or ancestor.uid in uids:
            try:
                with Process(ancestor.pid) as process:
                    title = process.cmdline()[:MAX_TITLE]
            except OSError:
                title = b""
        titles.append(title)
    return tuple(titles)


def read_named(process: Process, found: Attribution, uids: Collection[int]) -> tuple[NamedFile, ...]:
    """The files that script, stack, binary and arguments name, as far as they are there. Can hang for ever."""
    paths = [(found.script or b"").rpartition(b":")[0] or found.script, found.script]
    paths += [frame.partition(b" ")[2].rpartition(b":")[0] for frame in found.stack]
    paths += [(found.exe or b"").removesuffix(b" (deleted)")]
    words = (found.cmdline or b"").rstrip(b"\0").split(b"\0")[1:_MAX_WORDS]
    paths += [join_path(found.cwd, word) for word in words if b"/" in word or b"." in word]
    named: list[NamedFile] = []
    for path in dict.fromkeys(paths):
        if path and is_path(path) and len(named) < MAX_NAMED and (file := read_file(process, path, uids)) is not None:
            named.append(file)
    return tuple(named)


def _add_newest(process: Process, evidence: Evidence, uids: Collection[int]) -> Evidence:
    """The newest code below the folder where the site begins, or where the process is."""
    found = evidence.found
    starts = site_roots(found.script) if found.script else []
    if found.cwd and is_path(found.cwd):
        starts += site_roots(found.cwd + b"/")
    for root in dict.fromkeys(starts):
        walk = walk_code(process, root, uids)
        if walk is not None:
            return replace(evidence, root=root, newest=walk.newest, looked=walk.looked, complete=walk.complete)
    return evidence
