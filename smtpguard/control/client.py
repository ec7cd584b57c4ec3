"""Asking the daemon over its control socket. Imports little: `status` answers within 0.15 s.

The other end must be root (or us): the kernel tells whose socket it is (SO_PEERCRED, unix(7)), so that nobody can
stand in for a daemon that is down.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

from smtpguard.control.protocol import MAX_ANSWER_BYTES, Json, parse_error, parse_line, render_line
from smtpguard.errors import DecodeError, GuardError, NoDaemonError, PrivilegeError
from smtpguard.hooks import Task

TIMEOUT_S = 5.0
_RETRY_S = 0.02
_START = "start it: systemctl start smtpguard, or smtpguard run"


def ask(socket_path: str, verb: str, timeout_s: float = TIMEOUT_S, **args: Any) -> Json:  # noqa: ANN401 - any JSON
    """Ask the daemon for something and wait for the answer.

    Args:
        socket_path: The control socket.
        verb: What is asked for.
        timeout_s: For everything: connecting, asking, the whole answer.
        args: The verb's arguments, JSON values.

    Returns:
        The answer without "ok"; the "items" of a long one are put together.

    Raises:
        NoDaemonError: Nobody answers.
        PrivilegeError: The socket or the verb is not for this user.
        GuardError: What the daemon said, as the class its code stands for.
    """
    with _Line(socket_path, timeout_s) as line:
        line.send({**args, "verb": verb})
        answer = line.read_answer()
        part = answer
        while part.pop("more", False):
            part = line.read_answer()
            answer["items"] += part["items"]
    del answer["ok"]
    return answer


def subscribe(
    socket_path: str,
    verb: str,
    timeout_s: float = TIMEOUT_S,
    *,
    begun: Task | None = None,
    **args: Any,  # noqa: ANN401 - any JSON
) -> Generator[Json]:
    """Ask for a stream, and yield its items until the daemon ends it.

    Args:
        socket_path: The control socket.
        verb: A verb that streams.
        timeout_s: For the beginning; items are waited for without end.
        begun: Called when it has begun, be there items or not.
        args: The verb's arguments, JSON values.

    Yields:
        Items; {"dropped": N} stands for N items that came too fast.

    Raises:
        GuardError: As `ask`.
    """
    with _Line(socket_path, timeout_s) as line:
        line.send({**args, "verb": verb})
        line.read_answer()
        line.wait_forever()
        if begun is not None:
            begun()
        while (item := line.read()) is not None:
            yield item


class _Line:
    """A connection with a deadline."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._deadline: float | None = time.monotonic() + timeout_s
        self._buffer = bytearray()
        self._taken = 0
        self._socket = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, request: Json) -> None:
        """Send the request; a server that refuses us early may have closed already, its answer tells why."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._set_timeout()
            try:
                self._socket.sendall(render_line(request))
            except TimeoutError:
                raise self._silent() from None

    def read_answer(self) -> Json:
        """The next line of an answer; raises what the daemon said if it is an error."""
        answer = self.read()
        if answer is None:
            raise NoDaemonError("the daemon closed the connection without an answer", where=self._path)
        if answer.get("ok") is not True:
            raise parse_error(answer)
        return answer

    def read(self) -> Json | None:
        """The next line; None at the end."""
        begun = 0
        while (end := self._buffer.find(b"\n", begun)) < 0:
            begun = len(self._buffer)
            try:
                self._set_timeout()
                chunk = self._socket.recv(1 << 18)
            except TimeoutError:
                raise self._silent() from None
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return None
            self._buffer += chunk
            self._taken += len(chunk)
            if self._deadline is not None and self._taken > MAX_ANSWER_BYTES:
                raise GuardError(f"an answer of more than {MAX_ANSWER_BYTES} bytes", where=self._path)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return parse_line(line)
        except DecodeError as error:
            raise GuardError("what answers does not speak as smtpguard does", where=self._path) from error

    def wait_forever(self) -> None:
        """From here on there is no deadline and no bound of the whole."""
        self._deadline = None

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket = connection
        try:
            while True:
                self._set_timeout()
                try:
                    connection.connect(self._path)
                    break
                except BlockingIOError:  # its backlog is full: it is there, and busy
                    time.sleep(_RETRY_S)
            _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except BaseException as error:
            connection.close()
            raise self._refused(error) from error
        if uid not in (0, os.geteuid()):
            connection.close()
            raise PrivilegeError(f"the control socket belongs to uid {uid}, not to root", where=self._path)
        return connection

    def _refused(self, error: BaseException) -> BaseException:
        if isinstance(error, PermissionError):
            return PrivilegeError(
                "the control socket is not for this user", where=self._path, fix="run as root, or set control.group"
            )
        if isinstance(error, TimeoutError):
            return self._silent()
        if isinstance(error, OSError):
            return NoDaemonError("no daemon answers", where=self._path, fix=_START)
        return error

    def _silent(self) -> NoDaemonError:
        return NoDaemonError(f"the daemon does not answer within {self._timeout_s:g} s", where=self._path)

    def _set_timeout(self) -> None:
        if self._deadline is None:
            self._socket.settimeout(None)
            return
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)
