"""What daemon and workers say to each other: one packet a question, one or two packets an answer. Pure.

JSON with bytes as latin-1, because a worker has touched hostile memory and its answer is checked like any input:
`parse_*` raise DecodeError on whatever is not exactly an answer. The first packet of an answer holds what can be read
without touching the process's memory or its file systems, so that a process which hangs its reader still gives
away its name and binary.
"""

import json
from dataclasses import dataclass, replace
from typing import Literal, get_args

from smtpguard.errors import DecodeError
from smtpguard.model import Attr

MAX_PACKET = 131_072
"""Longest packet in bytes; a SOCK_SEQPACKET socket takes it whole with the default wmem of 208 KiB."""
MAX_CHAIN = 8
"""Most ancestors told."""
MAX_STACK = 16
"""Most frames of a script's stack told."""

Why = Literal["", "gone", "foreign", "late", "died", "off"]
_WHYS = frozenset(get_args(Why))
_ATTRS = frozenset(get_args(Attr))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """A process above the one that connected, nearest first.

    Attributes:
        pid: In the initial pid namespace.
        uid: Its real uid.
        start_ns: When it was started, CLOCK_BOOTTIME, to 10 ms.
        comm: Its name, untrusted.
        exe: Its binary as the kernel names it, untrusted; None if not readable (kernel threads).
    """

    pid: int
    uid: int
    start_ns: int
    comm: bytes
    exe: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """What was found out about the process behind a Connect.

    Attributes:
        attr: How sure the script (without one: the process) is; None if the look was not completed or found nothing.
        proc, exe, cwd: Name, binary and directory, untrusted. They may be known where attr is None.
        script: Path of the script, with `:LINE` where the stack told it; untrusted.
        cmdline: Arguments with their NULs, cut; untrusted.
        start_ns: When the process was started, CLOCK_BOOTTIME, to 10 ms.
        session: Session id of the process.
        chain: Its ancestors.
        stack: Frames of the script, innermost first, `FUNCTION PATH:LINE`; untrusted.
        request: What the script was asked for, without the query string; untrusted.
        client: Address of the visitor whose request it was; untrusted.
        pid: The process that was found to hold the socket, where the event named a socket and no process.
        why: Why nothing or not all was found: "gone" (process over, or the PHP request), "foreign" (the pid is somebody
            else's now), "late" (no answer in time), "died" (the worker did), "off" (this user's processes made
            helpers hang).
    """

    attr: Attr | None = None
    proc: bytes | None = None
    exe: bytes | None = None
    cwd: bytes | None = None
    script: bytes | None = None
    cmdline: bytes | None = None
    start_ns: int | None = None
    session: int | None = None
    chain: tuple[Ancestor, ...] = ()
    stack: tuple[bytes, ...] = ()
    request: bytes | None = None
    client: bytes | None = None
    pid: int | None = None
    why: Why = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a worker is asked.

    Attributes:
        pid: Process that connected; None if only its socket is known.
        inode: The socket, if its holder is to be looked for.
        uids: Uids the event named; the process must have one of them.
        time_ns: When it connected, CLOCK_BOOTTIME.
        deep: Whether the process's memory and file systems may be touched.
        php: Whether PHP's own memory may be read.
        evidence: Whether an Evidence is wanted, which takes longer.
    """

    pid: int | None
    uids: tuple[int, ...]
    time_ns: int
    inode: int | None = None
    deep: bool = True
    php: bool = True
    evidence: bool = False


def render_question(question: Question) -> bytes:
    """A question as one packet."""
    q = question
    return json.dumps([q.pid, q.inode, q.uids, q.time_ns, q.deep, q.php, q.evidence]).encode("ascii")


def parse_question(packet: bytes) -> Question:
    """One packet as a question; raises DecodeError, which only a bug of the daemon's can cause."""
    match load(packet):
        case [
            None | int() as pid,
            None | int() as inode,
            [*uids],
            int(time_ns),
            bool(deep),
            bool(php),
            bool(evidence),
        ]:
            return Question(
                pid=pid,
                inode=inode,
                uids=tuple(number(uid) for uid in uids),
                time_ns=time_ns,
                deep=deep,
                php=php,
                evidence=evidence,
            )
    raise DecodeError("not a question")


def render_answer(answer: Attribution, *, final: bool) -> bytes:
    """An answer as one packet.

    Args:
        answer: What was found; ancestors, stack and command line are left out if it would be too long.
        final: False if a further packet follows that replaces this one.
    """
    packet = dump([final, *attribution_fields(answer)])
    if len(packet) > MAX_PACKET:
        packet = dump([final, *attribution_fields(replace(answer, cmdline=None, chain=(), stack=()))])
    return packet


def parse_answer(packet: bytes) -> tuple[Attribution, bool]:
    """One packet as an answer and whether it is the last one; raises DecodeError on anything else."""
    match load(packet):
        case [bool(final), *fields]:
            return parse_attribution(fields), final
    raise DecodeError("not an answer")


def attribution_fields(answer: Attribution) -> list[object]:
    """An Attribution as JSON has it."""
    return [
        answer.attr,
        *map(text, (answer.proc, answer.exe, answer.cwd, answer.script, answer.cmdline)),
        answer.start_ns,
        answer.session,
        [[a.pid, a.uid, a.start_ns, text(a.comm), text(a.exe)] for a in answer.chain],
        [text(frame) for frame in answer.stack],
        text(answer.request),
        text(answer.client),
        answer.pid,
        answer.why,
    ]


def parse_attribution(fields: object) -> Attribution:
    """What `attribution_fields` made; raises DecodeError on anything else."""
    match fields:
        case [
            None | str() as attr,
            proc,
            exe,
            cwd,
            script,
            cmdline,
            start_ns,
            session,
            [*chain],
            [*stack],
            request,
            client,
            pid,
            str(why),
        ] if (attr is None or attr in _ATTRS) and why in _WHYS and len(chain) <= MAX_CHAIN and len(stack) <= MAX_STACK:
            return Attribution(
                attr=attr,  # type: ignore[arg-type]  # it is one of _ATTRS
                proc=raw(proc),
                exe=raw(exe),
                cwd=raw(cwd),
                script=raw(script),
                cmdline=raw(cmdline),
                start_ns=None if start_ns is None else number(start_ns),
                session=None if session is None else number(session),
                chain=tuple(map(_ancestor, chain)),
                stack=tuple(raw(frame) or b"" for frame in stack),
                request=raw(request),
                client=raw(client),
                pid=None if pid is None else number(pid),
                why=why,  # type: ignore[arg-type]  # it is one of _WHYS
            )
    raise DecodeError("not an attribution")


def _ancestor(fields: object) -> Ancestor:
    match fields:
        case [pid, uid, start_ns, str(comm), exe]:
            return Ancestor(
                pid=number(pid),
                uid=number(uid),
                start_ns=number(start_ns),
                comm=raw(comm) or b"",
                exe=raw(exe),
            )
    raise DecodeError("not an ancestor")


def dump(fields: object) -> bytes:
    """JSON as a packet."""
    # ensure_ascii would turn each byte above 0x7f into six.
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("latin-1")


def load(packet: bytes) -> object:
    """A packet as JSON; raises DecodeError."""
    try:
        value: object = json.loads(packet.decode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise DecodeError("not JSON") from error
    return value


def text(value: bytes | None) -> str | None:
    """Bytes as JSON has them."""
    return None if value is None else value.decode("latin-1")


def raw(value: object) -> bytes | None:
    """What `text` made; raises DecodeError on anything else."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise DecodeError("not a text")
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise DecodeError("a text with more than bytes in it") from error


def number(value: object) -> int:
    """A number that is not negative and fits into 63 bits; raises DecodeError on anything else."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise DecodeError("not a number")
    return value
