"""What daemon and workers say to each other: one packet a question, one or two packets an answer. Pure.

JSON with bytes as latin-1, because a worker has touched hostile memory and its answer is checked like any input:
`parse_*` raise DecodeError on whatever is not exactly an answer. The first packet of an answer holds what can be read
without touching the process's memory or its file systems, so that a process which hangs its reader still gives
away its name and binary.
"""

import json
from dataclasses import dataclass
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
    why: Why = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a worker is asked.

    Attributes:
        pid: Process that connected.
        uids: Uids the event named; the process must have one of them.
        time_ns: When it connected, CLOCK_BOOTTIME.
        deep: Whether the process's memory and file systems may be touched.
        php: Whether PHP's own memory may be read.
    """

    pid: int
    uids: tuple[int, ...]
    time_ns: int
    deep: bool = True
    php: bool = True


def render_question(question: Question) -> bytes:
    """A question as one packet."""
    return json.dumps([question.pid, question.uids, question.time_ns, question.deep, question.php]).encode("ascii")


def parse_question(packet: bytes) -> Question:
    """One packet as a question; raises DecodeError, which only a bug of the daemon's can cause."""
    match _load(packet):
        case [int(pid), [*uids], int(time_ns), bool(deep), bool(php)]:
            return Question(pid=pid, uids=tuple(_number(uid) for uid in uids), time_ns=time_ns, deep=deep, php=php)
    raise DecodeError("not a question")


def render_answer(answer: Attribution, *, final: bool) -> bytes:
    """An answer as one packet.

    Args:
        answer: What was found; ancestors, stack and command line are left out if it would be too long.
        final: False if a further packet follows that replaces this one.
    """
    packet = _render(answer, final=final)
    if len(packet) > MAX_PACKET:
        packet = _render(
            Attribution(
                attr=answer.attr,
                proc=answer.proc,
                exe=answer.exe,
                cwd=answer.cwd,
                script=answer.script,
                start_ns=answer.start_ns,
                session=answer.session,
                why=answer.why,
            ),
            final=final,
        )
    return packet


def _render(answer: Attribution, *, final: bool) -> bytes:
    fields = [
        final,
        answer.attr,
        *map(_text, (answer.proc, answer.exe, answer.cwd, answer.script, answer.cmdline)),
        answer.start_ns,
        answer.session,
        [[a.pid, a.uid, a.start_ns, _text(a.comm), _text(a.exe)] for a in answer.chain],
        [_text(frame) for frame in answer.stack],
        _text(answer.request),
        _text(answer.client),
        answer.why,
    ]
    # ensure_ascii would turn each byte above 0x7f into six.
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("latin-1")


def parse_answer(packet: bytes) -> tuple[Attribution, bool]:
    """One packet as an answer and whether it is the last one; raises DecodeError on anything else."""
    match _load(packet):
        case [
            bool(final),
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
            str(why),
        ] if (attr is None or attr in _ATTRS) and why in _WHYS and len(chain) <= MAX_CHAIN and len(stack) <= MAX_STACK:
            return Attribution(
                attr=attr,  # type: ignore[arg-type]  # it is one of _ATTRS
                proc=_bytes(proc),
                exe=_bytes(exe),
                cwd=_bytes(cwd),
                script=_bytes(script),
                cmdline=_bytes(cmdline),
                start_ns=None if start_ns is None else _number(start_ns),
                session=None if session is None else _number(session),
                chain=tuple(map(_ancestor, chain)),
                stack=tuple(_bytes(frame) or b"" for frame in stack),
                request=_bytes(request),
                client=_bytes(client),
                why=why,  # type: ignore[arg-type]  # it is one of _WHYS
            ), final
    raise DecodeError("not an answer")


def _ancestor(raw: object) -> Ancestor:
    match raw:
        case [pid, uid, start_ns, str(comm), exe]:
            return Ancestor(
                pid=_number(pid),
                uid=_number(uid),
                start_ns=_number(start_ns),
                comm=_bytes(comm) or b"",
                exe=_bytes(exe),
            )
    raise DecodeError("not an ancestor")


def _load(packet: bytes) -> object:
    try:
        value: object = json.loads(packet.decode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise DecodeError("not JSON") from error
    return value


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _bytes(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise DecodeError("not a text")
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise DecodeError("a text with more than bytes in it") from error


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise DecodeError("not a number")
    return value
