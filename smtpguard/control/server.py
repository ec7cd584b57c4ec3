"""The control socket: how commands, people of a group and other programs talk to the daemon.

An epoll set of its own, so that the daemon's loop waits on one descriptor; nothing here waits for a client. Root may
do everything, members of `control.group` what `control.verbs` lists; the kernel says who it is (SO_PEERCRED and
SO_PEERGROUPS, unix(7)). Every number is bounded: connections in all and of one uid, bytes asked, bytes that wait to be
read, seconds without progress. A flood of clients of the group leaves room for root.
"""

import contextlib
import logging
import os
import selectors
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from smtpguard.control.admission import is_crowded
from smtpguard.control.answer import Answer, Later, Pages, Stream, render_pages
from smtpguard.control.connection import Client, Peer, is_owner, read_peer
from smtpguard.control.listener import bind_listener, check_free, read_gid, read_identity, set_access
from smtpguard.control.protocol import Json, parse_request, render_error, render_line
from smtpguard.errors import BusyError, ConfigError, DecodeError, GuardError, PrivilegeError
from smtpguard.hooks import NameOf
from smtpguard.model import NS
from smtpguard.safe_files import make_directory

if TYPE_CHECKING:
    import socket

ACCEPT_AT_ONCE = 64
"""Connections accepted in one turn of the daemon's loop."""
CHECK_PATH_NS = 10 * NS

_log = logging.getLogger("smtpguard.control")


class Handler(Protocol):
    """Answers requests."""

    def __call__(self, peer: Peer, verb: str, args: Json) -> Answer:
        """Answer who asks; it logs each change, and for whom. Raises GuardError to refuse."""
        ...


@dataclass(slots=True, kw_only=True)
class ControlStats:
    """Running totals.

    Attributes:
        requests: Requests handed to the handler.
        garbled: What was no request.
        refused: Requests that the peer had no right to.
        busy: Connections refused for want of room.
        cut: Clients cut because they were too slow.
        dropped: Lines of streams dropped because their reader was too slow.
    """

    requests: int = 0
    garbled: int = 0
    refused: int = 0
    busy: int = 0
    cut: int = 0
    dropped: int = 0


class ControlServer:
    """The socket and its clients.

    Args:
        path: Absolute path of the socket.
        group: Name of the group that may use it too; None for root alone.
        verbs: What that group may do.
        handler: What answers.
        names: Account name of a uid, from memory: a look-up here could wait for ever.
    """

    def __init__(
        self,
        path: str,
        *,
        group: str | None,
        verbs: Iterable[str],
        handler: Handler,
        names: NameOf,
    ) -> None:
        self.path = path
        self.stats = ControlStats()
        self._handler = handler
        self._names = names
        self._verbs = frozenset(verbs)
        self._gid = None if group is None else read_gid(group)
        self._selector = selectors.EpollSelector()
        self._clients: dict[int, Client] = {}
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._checked_ns = 0
        self._wake_lock = threading.Lock()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)

    def open(self) -> None:
        """Bind the socket; a stale one is replaced, one that answers is not.

        Raises:
            BusyError: Another daemon answers there.
            ConfigError: The path is not safe, or something else is in its place.
        """
        make_directory(str(Path(self.path).parent), 0o755, error=ConfigError)
        check_free(self.path)
        self._bind()

    def configure(self, *, group: str | None, verbs: Iterable[str]) -> None:
        """Take over a changed configuration; open connections are judged by it too.

        Raises:
            ConfigError: There is no such group.
        """
        gid = None if group is None else read_gid(group)
        self._gid, self._verbs = gid, frozenset(verbs)
        if self._listener is not None:
            set_access(self.path, gid)

    def fileno(self) -> int:
        """The descriptor that becomes readable when `serve` has something to do."""
        return self._selector.fileno()

    def serve(self, now_ns: int) -> None:
        """Accept, read, answer, send: whatever is possible without waiting.

        Args:
            now_ns: Now, monotonic.
        """
        for key, events in self._selector.select(0):
            client = self._clients.get(key.fd)
            if key.fileobj is self._listener:
                self._accept(now_ns)
            elif key.fd == self._wake_fd:
                self._take_answers(now_ns)
            elif client is None:
                continue  # dropped a moment ago
            elif events & selectors.EVENT_WRITE:
                self._settle(client, now_ns, is_there=client.send(now_ns))
            elif events & selectors.EVENT_READ:
                self._settle(client, now_ns, is_there=client.receive())

    def tick(self, now_ns: int) -> None:
        """Cut who is too slow; bind again if somebody removed the socket. Once a second is enough."""
        for client in [client for client in self._clients.values() if client.is_overdue(now_ns)]:
            self.stats.cut += 1
            self._drop(client)
        if self._listener is not None and now_ns - self._checked_ns >= CHECK_PATH_NS:
            self._checked_ns = now_ns
            if read_identity(self.path) is None:
                self._bind_again()

    def has_readers(self, topic: str) -> bool:
        """Whether anybody reads the stream."""
        return any(client.topic == topic for client in self._clients.values())

    def publish(self, topic: str, item: Json, now_ns: int) -> None:
        """Send an item to the readers of a stream; it is dropped for those that are too slow."""
        readers = [client for client in self._clients.values() if client.topic == topic]
        if not readers:
            return
        line = render_line(item)
        for client in readers:
            before = client.dropped
            client.push(line)
            self.stats.dropped += client.dropped - before
            self._settle(client, now_ns, is_there=client.send(now_ns))

    def close(self) -> None:
        """Cut all clients and remove the socket, if it is still ours."""
        for client in list(self._clients.values()):
            self._drop(client)
        if self._listener is not None:
            if read_identity(self.path) == self._identity:
                Path(self.path).unlink(missing_ok=True)
            self._listener.close()
            self._listener = None
        self._selector.close()
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
            self._wake_fd = -1

    def _bind(self) -> None:
        self._listener, self._identity = bind_listener(self.path, self._gid)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _bind_again(self) -> None:
        """Something that tidies up removed the socket: nobody would reach us any more."""
        old = self._listener
        try:
            self._bind()
        except ConfigError as failure:
            _log.error("%s", failure)
            return
        _log.warning("%s was removed by somebody: made again", self.path)
        if old is not None:
            self._selector.unregister(old)
            old.close()

    def _accept(self, now_ns: int) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, _ = self._listener.accept()  # type: ignore[union-attr]
            except OSError:
                return  # nobody more, or gone already, or no descriptor left: the next turn tries again
            connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
            try:
                peer = read_peer(connection, self._names)
            except OSError:
                connection.close()
                continue
            if is_crowded(peer, [client.peer for client in self._clients.values()]):
                self.stats.busy += 1
                with contextlib.suppress(OSError):
                    connection.send(render_line(render_error(BusyError("too many connections", fix="try again"))))
                connection.close()
                continue
            self._clients[connection.fileno()] = Client(connection, peer, now_ns)
            self._selector.register(connection, selectors.EVENT_READ)

    def _settle(self, client: Client, now_ns: int, *, is_there: bool) -> None:
        """After reading or sending: answer one request if it is there, and wait for what comes next."""
        if is_there and not client.wants_write and client.topic is None:
            self._answer(client, now_ns)
            is_there = client.send(now_ns)
        if not is_there:
            self._drop(client)
            return
        if client.later is not None:
            self._selector.unregister(client.connection)  # what it sends meanwhile stays in the kernel
            client.later.notify(self._wake)
            return
        wanted = selectors.EVENT_READ
        if client.wants_write or client.has_request:
            wanted = selectors.EVENT_WRITE | (selectors.EVENT_READ if client.topic else 0)
        if self._selector.get_key(client.connection).events != wanted:
            self._selector.modify(client.connection, wanted)

    def _answer(self, client: Client, now_ns: int) -> None:
        try:
            line = client.take_request()
            if line is None:
                return
            verb, args = parse_request(line)
        except DecodeError as error:
            self.stats.garbled += 1
            client.answer([render_line(render_error(error))], now_ns, is_last=True)
            return
        try:
            self._begin(client, self._ask(client.peer, verb, args), now_ns)
        except GuardError as error:
            client.answer([render_line(render_error(error))], now_ns)

    def _begin(self, client: Client, answer: Answer, now_ns: int) -> None:
        if isinstance(answer, Later):
            client.later = answer
        elif isinstance(answer, Pages):
            client.answer(render_pages(answer), now_ns)
        elif isinstance(answer, Stream):
            client.answer([render_line({"ok": True, "stream": True, **answer.head})], now_ns)
            client.topic = answer.topic
        else:
            client.answer([render_line({"ok": True, **answer})], now_ns)

    def _wake(self) -> None:
        """From any thread: an answer that was waited for is there."""
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _take_answers(self, now_ns: int) -> None:
        os.eventfd_read(self._wake_fd)
        for client in [client for client in self._clients.values() if client.is_answered]:
            answer = client.take_later()
            self._selector.register(client.connection, selectors.EVENT_READ)
            if isinstance(answer, GuardError):
                client.answer([render_line(render_error(answer))], now_ns)
            else:
                self._begin(client, answer, now_ns)
            self._settle(client, now_ns, is_there=client.send(now_ns))

    def _ask(self, peer: Peer, verb: str, args: Json) -> Answer:
        if not is_owner(peer) and not (self._gid in peer.groups and verb in self._verbs):
            self.stats.refused += 1
            raise PrivilegeError("this is for root", fix="run as root, or add the verb to control.verbs")
        self.stats.requests += 1
        return self._handler(peer, verb, args)

    def _drop(self, client: Client) -> None:
        if client.later is None:
            self._selector.unregister(client.connection)
        del self._clients[client.connection.fileno()]
        client.connection.close()
