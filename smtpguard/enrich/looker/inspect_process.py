"""What a worker finds out about one process: identity first, which can't hang; then what may.

The identity is told before anything hostile is touched: the process may make us hang for ever, and whoever waits for
the answer has its name and binary by then.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Protocol

from smtpguard.enrich.looker.command_line import is_cgi, parse_environment, parse_script
from smtpguard.enrich.looker.php_binary import is_roots_alone
from smtpguard.enrich.looker.php_fpm import FpmReader, PhpScript, is_fpm, is_genuine
from smtpguard.enrich.looker.procfs import Process, Stat
from smtpguard.enrich.looker.protocol import (
    MAX_CHAIN,
    Ancestor,
    Attribution,
    Question,
)
from smtpguard.enrich.looker.rooted_files import exists, join_path
from smtpguard.enrich.looker.standpoint import Marks, is_foreign

SLACK_NS = 50_000_000
"""How far a process may seem to have been started after its event: audit's stamps are mapped from wall time. Far less
than any pid space takes to come round."""


class TellAttribution(Protocol):
    """Takes what is known so far."""

    def __call__(self, found: Attribution, /) -> None:
        """Take it."""


def look(question: Question, tell: TellAttribution, fpm: FpmReader) -> Attribution:
    """What can be said about the process of an event, its paths marked where they are not what they seem.

    Args:
        question: Which process, and when.
        tell: Is given the identity before the first read that may hang.
        fpm: Reads workers of PHP-FPM.
    """
    marks = Marks()
    return marks.on_attribution(look_unmarked(question, lambda known: tell(marks.on_attribution(known)), fpm, marks))


def look_unmarked(question: Question, tell: TellAttribution, fpm: FpmReader, marks: Marks) -> Attribution:
    """The same with paths as the process has them.

    Args:
        question: Which process, and when.
        tell: Is given the identity before the first read that may hang.
        fpm: Reads workers of PHP-FPM.
        marks: Learns how to mark them.
    """
    if question.pid is None:
        return Attribution(why="gone")
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
        marks.look(process)
        known = Attribution(
            proc=stat.comm,
            exe=process.link(b"exe"),
            cwd=process.link(b"cwd"),
            start_ns=stat.start_ns,
            session=stat.session,
            chain=read_chain(stat, marks),
            pid=question.pid if question.inode is not None else None,
        )
        if not question.deep:
            return replace(known, why="off")
        tell(replace(known, why="late"))
        found = look_deep(question, process, replace(known, attr="live", cmdline=process.cmdline()), fpm)
        marks.compare(process, found, question.uids)
        return found


def look_deep(question: Question, process: Process, known: Attribution, fpm: FpmReader) -> Attribution:
    """What is known, with the script. Can hang for ever."""
    if question.php and (php := read_php(question, process, known, fpm)) is not None:
        if php.script is None:
            return replace(known, cwd=None, why="gone")
        return replace(known, attr=php.attr, script=php.script, stack=php.stack, request=php.request, client=php.client)
    return read_script(process, known)


def read_php(question: Question, process: Process, known: Attribution, fpm: FpmReader) -> PhpScript | None:
    """The script of the PHP-FPM worker that the process is, or that it was started by. Can hang for ever."""
    with find_worker(process, known, question.uids) as (worker, master):
        if worker is None or master is None or not is_genuine(worker, master):
            return None
        exe = worker.link(b"exe")
        return fpm.read(worker, exe, question.time_ns) if exe is not None else None


@contextlib.contextmanager
def find_worker(
    process: Process, known: Attribution, uids: Collection[int]
) -> Iterator[tuple[Process | None, Process | None]]:
    """What calls itself a PHP-FPM worker, the process or the nearest ancestor of the same user, and its parent.

    Only the user's own: what another user runs is none of this event's business.
    """
    line = [known.exe, *(ancestor.exe for ancestor in known.chain)]
    place = next((number for number, exe in enumerate(line) if is_fpm(exe)), None)
    if place is None or place >= len(known.chain):  # a worker has a parent
        yield None, None
        return
    with contextlib.ExitStack() as held:
        worker = process
        master = None
        try:
            if place > 0:
                above = known.chain[place - 1]
                worker = held.enter_context(Process(above.pid))
                stat = worker.stat()
                same = stat is not None and stat.start_ns == above.start_ns and above.uid in uids
            else:
                same = True
            if same:
                master = held.enter_context(Process(known.chain[place].pid))
        except OSError:
            master = None
        yield (worker, master) if master is not None else (None, None)


def read_script(process: Process, known: Attribution) -> Attribution:
    """The script that the web server or the command line named, if there is such a file. Can hang for ever."""
    exe = known.exe or b""
    if is_cgi(exe):
        for name in parse_environment(process.environ()):
            path = join_path(None, name)
            if path is not None and path != exe and exists(process, path):
                file = process.file(b"exe")  # anybody may call theirs php-cgi, and say anything in its environment
                is_real = file is not None and is_roots_alone(file)
                return replace(known, attr="live" if is_real else "guess", script=path)
    named = parse_script(exe, known.cmdline or b"")
    path = join_path(known.cwd, named) if named is not None else None
    if path is not None and exists(process, path):
        return replace(known, attr="guess", script=path)
    return known


def read_chain(stat: Stat, marks: Marks) -> tuple[Ancestor, ...]:
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
            if is_foreign(process):
                marks.foreign_parents.add(process.pid)
            chain.append(
                Ancestor(
                    pid=process.pid, uid=uids[0], start_ns=parent.start_ns, comm=parent.comm, exe=process.link(b"exe")
                )
            )
            child = parent
    return tuple(chain)
