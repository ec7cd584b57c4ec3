"""What a worker finds out about one process: identity first, which can't hang; then what may.

The identity is told before anything hostile is touched: the process may make us hang for ever, and whoever waits for
the answer has its name and binary by then.
"""

from collections.abc import Callable
from dataclasses import replace

from smtpguard.enrich.looker.cli import parse_script
from smtpguard.enrich.looker.files import exists, join_path
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


def answer_packet(packet: bytes, tell: Callable[[bytes], None]) -> bytes:
    """A question's packet to its last answer's.

    Args:
        packet: As `render_question` made it.
        tell: Takes the packet of an answer that is not the last one.
    """
    answer = look(parse_question(packet), lambda known: tell(render_answer(known, final=False)))
    return render_answer(answer, final=True)


def look(question: Question, tell: Callable[[Attribution], None]) -> Attribution:
    """What can be said about the process of an event.

    Args:
        question: Which process, and when.
        tell: Is given the identity before the first read that may hang.
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
        cmdline = process.cmdline()
        script = guess_script(process, known, cmdline)
        return replace(known, attr="guess" if script else "live", script=script, cmdline=cmdline)


def guess_script(process: Process, known: Attribution, cmdline: bytes) -> bytes | None:
    """The script that an interpreter's arguments name, if there is such a file. Can hang for ever."""
    name = parse_script(known.exe or b"", cmdline)
    path = join_path(known.cwd, name) if name is not None else None
    return path if path is not None and exists(process, path) else None


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
