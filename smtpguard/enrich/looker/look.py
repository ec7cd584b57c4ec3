"""What a worker finds out about one process: identity first, which can't hang; then what may.

The identity is told before anything hostile is touched: the process may make us hang for ever, and whoever waits for
the answer has its name and binary by then.
"""

from collections.abc import Callable
from dataclasses import replace

from smtpguard.enrich.looker.cli import is_cgi, parse_environment, parse_script
from smtpguard.enrich.looker.files import exists, join_path
from smtpguard.enrich.looker.php_fpm import FpmReader, PhpScript, is_fpm, is_genuine
from smtpguard.enrich.looker.procfs import Process, Stat
from smtpguard.enrich.looker.protocol import (
    MAX_CHAIN,
    Ancestor,
    Attribution,
    Question,
    parse_question,
    render_answer,
)

SLACK_NS = 50_000_000
"""How far a process may seem to have been started after its event: audit's stamps are mapped from wall time. Far less
than any pid space takes to come round."""


class Answerer:
    """Answers questions about processes; what it learns about binaries it keeps."""

    def __init__(self) -> None:
        self._fpm = FpmReader()

    def __call__(self, packet: bytes, tell: Callable[[bytes], None]) -> bytes:
        """A question's packet to its last answer's.

        Args:
            packet: As `render_question` made it.
            tell: Takes the packet of an answer that is not the last one.
        """
        answer = look(parse_question(packet), lambda known: tell(render_answer(known, final=False)), self._fpm)
        return render_answer(answer, final=True)


def look(question: Question, tell: Callable[[Attribution], None], fpm: FpmReader) -> Attribution:
    """What can be said about the process of an event.

    Args:
        question: Which process, and when.
        tell: Is given the identity before the first read that may hang.
        fpm: Reads workers of PHP-FPM.
    """
    try:
        process = Process(question.pid)
    except OSError:
        return Attribution(why="gone")
    with process:
        stat, uids = process.stat(), process.uids()
        if stat is None or uids is None:
            return Attribution(why="gone")
        if stat.start_ns > question.time_ns + SLACK_NS or not set(uids) & set(question.uids):
            return Attribution(why="foreign")
        known = Attribution(
            proc=stat.comm,
            exe=process.link(b"exe"),
            cwd=process.link(b"cwd"),
            start_ns=stat.start_ns,
            session=stat.session,
            chain=read_chain(stat),
        )
        if not question.deep:
            return replace(known, why="off")
        tell(replace(known, why="late"))
        known = replace(known, attr="live", cmdline=process.cmdline())
        if question.php and (php := read_php(question, process, known, fpm)) is not None:
            if php.script is None:
                return replace(known, cwd=None, why="gone")
            return replace(
                known, attr=php.attr, script=php.script, stack=php.stack, request=php.request, client=php.client
            )
        return read_script(process, known)


def read_php(question: Question, process: Process, known: Attribution, fpm: FpmReader) -> PhpScript | None:
    """The script of the PHP-FPM worker that the process is, or that it was started by. Can hang for ever.

    Only a worker of the same user's: what another user runs is none of this event's business.
    """
    line = [known.exe, *(ancestor.exe for ancestor in known.chain)]
    place = next((number for number, exe in enumerate(line) if is_fpm(exe)), None)
    if place is None or place >= len(known.chain):  # a worker has a parent
        return None
    if place == 0:
        return _read_worker(process, known.exe or b"", known.chain[0], question.time_ns, fpm)
    above = known.chain[place - 1]
    if above.uid not in question.uids:
        return None
    try:
        worker = Process(above.pid)
    except OSError:
        return None
    with worker:
        stat = worker.stat()
        if stat is None or stat.start_ns != above.start_ns:
            return None
        return _read_worker(worker, above.exe or b"", known.chain[place], question.time_ns, fpm)


def _read_worker(worker: Process, exe: bytes, master: Ancestor, event_ns: int, fpm: FpmReader) -> PhpScript | None:
    try:
        parent = Process(master.pid)
    except OSError:
        return None
    with parent:
        return fpm.read(worker, exe, event_ns) if is_genuine(worker, parent) else None


def read_script(process: Process, known: Attribution) -> Attribution:
    """The script that the web server or the command line named, if there is such a file. Can hang for ever."""
    exe = known.exe or b""
    if is_cgi(exe):
        for name in parse_environment(process.environ()):
            path = join_path(None, name)
            if path is not None and path != exe and exists(process, path):
                return replace(known, script=path)
    named = parse_script(exe, known.cmdline or b"")
    path = join_path(known.cwd, named) if named is not None else None
    if path is not None and exists(process, path):
        return replace(known, attr="guess", script=path)
    return known


def read_chain(stat: Stat) -> tuple[Ancestor, ...]:
    """The ancestors of a process, nearest first; ends at init, at what is gone, and after MAX_CHAIN.

    A parent that was started after its child is another process under a used pid.
    """
    chain: list[Ancestor] = []
    child = stat
    while len(chain) < MAX_CHAIN and child.ppid > 0:
        try:
            process = Process(child.ppid)
        except OSError:
            break
        with process:
            parent, uids = process.stat(), process.uids()
            if parent is None or uids is None or parent.start_ns > child.start_ns:
                break
            chain.append(
                Ancestor(
                    pid=process.pid, uid=uids[0], start_ns=parent.start_ns, comm=parent.comm, exe=process.link(b"exe")
                )
            )
            child = parent
    return tuple(chain)
