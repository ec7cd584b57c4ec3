"""One connection to the control socket: who it is, what it asked, what waits to be read by it. Never blocks."""

import os
import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from smtpguard.control.answer import Later, Pages
from smtpguard.control.protocol import MAX_REQUEST_BYTES, Json, render_line
from smtpguard.errors import DecodeError, GuardError
from smtpguard.hooks import NameOf
from smtpguard.model import NS

IDLE_NS = 5 * NS
"""A client that neither asks nor reads for so long is cut."""
WHOLE_NS = 60 * NS
"""Longest time for one answer, however steadily it is read."""
MAX_STREAM_BYTES = 262_144
"""What waits for one reader of a stream; more is dropped and counted."""
_SO_PEERGROUPS = 59  # asm-generic/socket.h
_MAX_GROUP_BYTES = 1024  # the most that socket.getsockopt takes: 256 groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, as the kernel says.

    Attributes:
        uid: Of the process when it connected.
        pid: Of that process.
        name: Account name of the uid; None if not known.
        groups: Its groups, supplementary ones included; of more than 256 only the primary one.
    """

    uid: int
    pid: int
    name: str | None
    groups: frozenset[int]


def read_peer(connection: socket.socket, names: NameOf) -> Peer:
    """Ask the kernel who connected.

    Args:
        connection: An accepted connection.
        names: Account name of a uid, from memory.
    """
    pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUP_BYTES)
    except OSError:
        raw = b""
    groups = struct.unpack(f"{len(raw) // 4}I", raw)
    return Peer(uid=uid, pid=pid, name=names(uid), groups=frozenset((gid, *groups)))


def is_owner(peer: Peer) -> bool:
    """Root, or whoever runs this daemon."""
    return peer.uid in (0, os.geteuid())


class Client:
    """A connection's buffers and deadlines.

    Args:
        connection: Non-blocking.
        peer: Who it is.
        now_ns: Now, monotonic.

    Attributes:
        topic: The stream it reads; None if it asks and is answered.
        later: The answer it waits for; nothing is read from it meanwhile.
        dropped: Lines of its stream that it was too slow for.
    """

    def __init__(self, connection: socket.socket, peer: Peer, now_ns: int) -> None:
        self.connection = connection
        self.peer = peer
        self.topic: str | None = None
        self.later: Later | None = None
        self.dropped = 0
        self._untold = 0
        self._request = bytearray()
        self._is_ending = False
        self._lines: Iterator[bytes] = iter(())
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._progress_ns = self._begun_ns = now_ns

    @property
    def wants_write(self) -> bool:
        """Whether something waits to be read by the client; nothing is read from it meanwhile."""
        return bool(self._waiting)

    @property
    def has_request(self) -> bool:
        """Whether another request is there already."""
        return self.topic is None and b"\n" in self._request

    @property
    def is_answered(self) -> bool:
        """Whether the answer that it waited for is there."""
        return self.later is not None and self.later.answer is not None

    def take_later(self) -> Json | Pages | GuardError:
        """That answer."""
        answer = None if self.later is None else self.later.answer
        self.later = None
        return GuardError("there is no answer") if answer is None else answer

    def is_overdue(self, now_ns: int) -> bool:
        """Whether it is to be cut. A stream's reader may be idle, and may be slow."""
        if self.topic is not None:
            return False
        return now_ns - self._progress_ns > IDLE_NS or (self.wants_write and now_ns - self._begun_ns > WHOLE_NS)

    def receive(self) -> bool:
        """Take what it sent; False when it has gone."""
        try:
            chunk = self.connection.recv(MAX_REQUEST_BYTES + 1 - len(self._request))
        except BlockingIOError:
            return True
        except OSError:
            return False
        if self.topic is None:
            self._request += chunk
        return bool(chunk)

    def take_request(self) -> bytes | None:
        """The next whole request; None if there is none yet.

        Raises:
            DecodeError: It is too long.
        """
        end = self._request.find(b"\n")
        if end < 0:
            if len(self._request) > MAX_REQUEST_BYTES:
                raise DecodeError(f"a request of more than {MAX_REQUEST_BYTES} bytes")
            return None
        line = bytes(self._request[:end])
        del self._request[: end + 1]
        return line

    def answer(self, lines: Iterable[bytes], now_ns: int, *, is_last: bool = False) -> None:
        """Begin an answer; with `is_last` the connection ends after it."""
        self._lines = iter(lines)
        self._is_ending = is_last
        self._progress_ns = self._begun_ns = now_ns
        self._fill()

    def push(self, line: bytes) -> None:
        """Add to its stream, or drop and count when it reads too slowly; told before the next line, or at the end."""
        if self._waiting_bytes + len(line) > MAX_STREAM_BYTES:
            self.dropped += 1
            self._untold += 1
            return
        self._tell_dropped()
        self._append(line)

    def send(self, now_ns: int) -> bool:
        """Send what it takes now; False when it has gone, or was to end after this."""
        while self._waiting:
            line = self._waiting[0]
            try:
                count = self.connection.send(line)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self._progress_ns = now_ns
            self._waiting_bytes -= count
            if count < len(line):
                self._waiting[0] = line[count:]
                return True
            self._waiting.popleft()
            if not self._waiting:
                self._fill()
                self._tell_dropped()  # it has read all there is, and nothing more may come for long
        return not self._is_ending

    def _tell_dropped(self) -> None:
        if self._untold:
            self._append(render_line({"dropped": self._untold}))
            self._untold = 0

    def _fill(self) -> None:
        line = next(self._lines, None)
        if line is not None:
            self._append(line)

    def _append(self, line: bytes) -> None:
        self._waiting.append(line)
        self._waiting_bytes += len(line)
