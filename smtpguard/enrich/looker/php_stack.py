"""What a PHP process is running, from its own globals: entry script, stack, request. Pure, over a Memory.

The layout is that of Zend/zend_globals.h, Zend/zend_compile.h, Zend/zend_types.h and main/SAPI.h, main/fastcgi.c on
64-bit little-endian machines. Memory is a moving target, and perhaps forged: every length, count and chain is
bounded, and every text that leaves here is printable.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from smtpguard.enrich.looker.php_memory import Memory, UnreadableError
from smtpguard.enrich.looker.rooted_files import MAX_PATH, is_path

MAX_FRAMES = 64
MAX_NAME = 128
MAX_VARIABLES = 256
_MAX_LINE = 10_000_000
_PLAIN = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_EVALUATED = re.compile(rb"(.+?)\((\d{1,8})\) : (?:eval\(\)'d code|runtime-created function|assert code)")
_USER_CODE = (2, 4)  # ZEND_USER_FUNCTION, also what include runs; ZEND_EVAL_CODE
_WANTED = (b"REQUEST_URI", b"REQUEST_METHOD", b"HTTP_HOST", b"REMOTE_ADDR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Offsets in bytes, for one version.

    Attributes:
        current: executor_globals.current_execute_data.
        filename: zend_op_array.filename.
        variables: Where fcgi_request may keep the list of its variables (it moved within 8.2).
    """

    current: int
    filename: int
    variables: tuple[int, ...]


LAYOUTS = {(8, 2): Layout(current=488, filename=152, variables=(9312, 9320))}
"""Versions that a test has proven against the real server; others are told by the next way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One call of user code.

    Attributes:
        function: `Class::name`, `name`, or `{main}`.
        path: File of the code.
        line: Line it is at.
    """

    function: bytes
    path: bytes
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What is running.

    Attributes:
        entry: The script that the server started; None if not told.
        frames: Calls of user code, innermost first.
        request: `METHOD HOST/PATH`, without the query string; None if not told.
        client: Visitor's address as the web server gave it.
    """

    entry: bytes | None
    frames: tuple[Frame, ...]
    request: bytes | None
    client: bytes | None


def read_running(memory: Memory, layout: Layout, sapi_globals: int, executor_globals: int) -> Running:
    """What the process is running at this moment.

    Args:
        memory: The process's.
        layout: Of its version.
        sapi_globals: Address of the server interface's globals.
        executor_globals: Address of the engine's.

    Raises:
        UnreadableError: The globals themselves can't be read.
    """
    context, entry = _pointers(memory, sapi_globals, 0, 40)
    frames = tuple(_read_frames(memory, layout, executor_globals))
    variables = _read_variables(memory, layout, context) if context else {}
    return Running(
        entry=_read_path(memory, entry),
        frames=frames,
        request=_render_request(variables),
        client=variables.get(b"REMOTE_ADDR"),
    )


def _pointers(memory: Memory, address: int, *offsets: int) -> list[int]:
    size = max(offsets) + 8
    data = memory.read(address, size)
    if len(data) < size:
        raise UnreadableError("cut short")
    return [struct.unpack_from("<Q", data, offset)[0] for offset in offsets]


def _read_frames(memory: Memory, layout: Layout, executor_globals: int) -> Iterator[Frame]:
    """Frames of user code; stops at whatever makes no sense."""
    (current,) = _pointers(memory, executor_globals, layout.current)
    seen: set[int] = set()
    try:
        while current and current not in seen and len(seen) < MAX_FRAMES:
            seen.add(current)
            opline, function, previous = _pointers(memory, current, 0, 24, 48)
            if function and (frame := _read_frame(memory, layout, function, opline)) is not None:
                yield frame
            current = previous
    except UnreadableError:
        return


def _read_frame(memory: Memory, layout: Layout, function: int, opline: int) -> Frame | None:
    size = layout.filename + 8
    data = memory.read(function, size)
    if len(data) < size or data[0] not in _USER_CODE or not opline:
        return None
    name, scope = struct.unpack_from("<QQ", data, 8)
    (filename,) = struct.unpack_from("<Q", data, layout.filename)
    path = _read_string(memory, filename, MAX_PATH)
    line = struct.unpack("<I", memory.read(opline + 24, 4).ljust(4, b"\0"))[0]
    while (evaluated := _EVALUATED.fullmatch(path)) is not None:  # eval() in eval(): the file is the outermost
        path, line = evaluated[1], int(evaluated[2])
    if not is_path(path) or not 0 < line < _MAX_LINE:
        return None
    return Frame(function=_read_function(memory, name, scope), path=path, line=line)


def _read_function(memory: Memory, name: int, scope: int) -> bytes:
    """`Class::name`; names that can't be read are left out, for the frame stands without them."""
    if not name:
        return b"{main}"
    try:
        own = _name(_read_string(memory, name, MAX_NAME))
        owner = _name(_read_string(memory, _pointers(memory, scope, 8)[0], MAX_NAME)) if scope else b""
    except UnreadableError:
        return b"?"
    return owner + b"::" + own if owner else own


def _name(text: bytes) -> bytes:
    text = text.partition(b"\0")[0]  # class@anonymous is followed by NUL and where it stands
    return text if _PLAIN.fullmatch(text) else b"?"


def _read_string(memory: Memory, address: int, max_bytes: int) -> bytes:
    """A zend_string, cut at max_bytes + 1 so that a longer one is seen to be too long."""
    head = memory.read(address, 24 + 232)  # nearly all are shorter: one read instead of two
    if len(head) < 24:
        raise UnreadableError("cut short")
    length = struct.unpack_from("<Q", head, 16)[0]
    if length == 0 or length > max_bytes:
        raise UnreadableError("an absurd length")
    text = head[24 : 24 + length]
    if len(text) < length:
        text += memory.read(address + 24 + len(text), length - len(text))
    if len(text) < length:
        raise UnreadableError("cut short")
    return text


def _read_path(memory: Memory, address: int) -> bytes | None:
    """A C string that is a path."""
    if not address:
        return None
    try:
        data = memory.read(address, MAX_PATH)
    except UnreadableError:
        return None
    text, end, _ = data.partition(b"\0")
    return text if end and is_path(text) else None


def _read_variables(memory: Memory, layout: Layout, context: int) -> dict[bytes, bytes]:
    """The FastCGI variables we tell; empty where the list is not found."""
    for offset in layout.variables:
        found: dict[bytes, bytes] = {}
        try:
            (bucket,) = _pointers(memory, context + offset, 0)
            for _ in range(MAX_VARIABLES):
                if not bucket:
                    break
                data = memory.read(bucket, 48)
                if len(data) < 48:
                    break
                name_length, name, length, value, following = struct.unpack("<4xIQI4xQ8xQ", data)
                if name_length <= MAX_NAME and length <= MAX_PATH:
                    key = memory.read(name, name_length) if name_length else b""
                    if key in _WANTED:
                        found[key] = memory.read(value, length) if length else b""
                bucket = following
        except UnreadableError:
            pass
        if found:
            return {key: text for key, text in found.items() if _PLAIN.fullmatch(text)}
    return {}


def _render_request(variables: dict[bytes, bytes]) -> bytes | None:
    uri = variables.get(b"REQUEST_URI", b"").partition(b"?")[0]
    if not uri:
        return None
    return variables.get(b"REQUEST_METHOD", b"?") + b" " + variables.get(b"HTTP_HOST", b"") + uri
