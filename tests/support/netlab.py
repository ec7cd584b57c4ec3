"""Two network namespaces joined by a veth pair, a sink in one, users' sockets in the other. For kernel tests.

A socket carries the uid of its creator: `Lab.user_socket` makes one in a child that has become the user inside the
client namespace, and hands it over. So a test drives many users' connections from one process, with no sleep.
"""

import contextlib
import ctypes
import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from smtpguard.decode.netlink.nft_numbers import Kind, NftChange
from smtpguard.kernel.nft.access import NetlinkNft
from smtpguard.kernel.nft.compiler import Compiler
from smtpguard.kernel.nft.text import LibraryNft

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=20)


def enter(netns: str) -> None:
    """This thread goes there for good: only in a child."""
    with Path(f"/run/netns/{netns}").open("rb") as there:
        if _libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """This thread, and what it opens, is in the namespace for a while."""
    with Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").open("rb") as before:
        enter(netns)
        try:
            yield
        finally:
            if _libc.setns(before.fileno(), CLONE_NEWNET):
                os.abort()  # never go on in the wrong namespace


def become(uid: int) -> None:
    """For good: only in a child."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def call_as(uid: int, netns: str, work: Callable[[], bytes]) -> bytes:
    """What a function returns in a child that has become the user inside the namespace; `work` must not import."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            enter(netns)
            become(uid)
            os.write(writing, work())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        result = answer.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child of uid {uid} failed"
    return result


class NetnsNft(NetlinkNft):
    """The way to nftables of a namespace, and `run` for what others do there, in nft's language by libnftables.

    Each call enters the namespace, whatever libnftables opens again.
    """

    def __init__(self, netns: str, compiler: Compiler | None = None) -> None:
        super().__init__(compiler or COMPILER)
        self._netns = netns
        with inside(netns):
            self._text = LibraryNft()

    def transact(self, changes: Sequence[NftChange]) -> None:
        with inside(self._netns):
            super().transact(changes)

    def get(self, kind: Kind, body: bytes, *, dump: bool) -> list[memoryview]:
        with inside(self._netns):
            return super().get(kind, body, dump=dump)

    def run(self, text: str) -> str:
        with inside(self._netns):
            return self._text.run(text)


COMPILER = Compiler()
"""One child for all tests of a process."""


class Sink:
    """Accepts on some ports and keeps what came; sends back every byte."""

    def __init__(self, netns: str, ports: tuple[int, ...]) -> None:
        self.received: dict[int, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._stop, stopped = socket.socketpair()
        self._selector.register(stopped, selectors.EVENT_READ, None)
        with inside(netns):
            for port in ports:
                listener = socket.socket(socket.AF_INET6)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                listener.bind(("::", port))
                listener.listen(1024)
                listener.settimeout(0)
                self._selector.register(listener, selectors.EVENT_READ, "listener")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                peer = key.fileobj
                assert isinstance(peer, socket.socket)
                if key.data is None:
                    return
                if key.data == "listener":
                    with contextlib.suppress(OSError):
                        self._selector.register(peer.accept()[0], selectors.EVENT_READ, "session")
                    continue
                try:
                    data = peer.recv(65536)
                    if data:
                        peer.send(data)
                except OSError:
                    data = b""
                if not data:
                    self._selector.unregister(peer)
                    peer.close()

    def close(self) -> None:
        self._stop.send(b"x")
        self._thread.join(10)
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._stop.close()


class Lab:
    """`client` and `server` are names of namespaces; the server has several addresses of both families."""

    ADDRESSES4 = ("10.66.0.2", "10.66.0.3")
    ADDRESSES6 = ("fd66::2", "fd66::3")
    OWN4 = "10.66.0.1"

    def __init__(self) -> None:
        tag = os.urandom(3).hex()
        self.client, self.server = f"sgc-{tag}", f"sgs-{tag}"
        self._sinks: list[Sink] = []
        self._sockets: list[socket.socket] = []

    def open(self) -> None:
        for name in (self.client, self.server):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", "v0", "netns", self.client, "type", "veth", "peer", "name", "v0", "netns", self.server)
        for name, addresses in (
            (self.client, (f"{self.OWN4}/24", "fd66::1/64")),
            (self.server, (*(f"{a}/24" for a in self.ADDRESSES4), *(f"{a}/64" for a in self.ADDRESSES6))),
        ):
            for address in addresses:
                run("ip", "-n", name, "address", "add", address, "dev", "v0", *(["nodad"] if ":" in address else []))
            run("ip", "-n", name, "link", "set", "v0", "up")

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        for sink in self._sinks:
            sink.close()
        for name in (self.client, self.server):
            if Path(f"/run/netns/{name}").exists():
                run("ip", "netns", "delete", name)

    def sink(self, *ports: int, netns: str | None = None) -> Sink:
        sink = Sink(netns or self.server, ports)
        self._sinks.append(sink)
        return sink

    def user_socket(self, uid: int, family: int = socket.AF_INET, netns: str | None = None) -> socket.socket:
        """A TCP socket that the user made inside the client namespace."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                enter(netns or self.client)
                if uid:
                    become(uid)
                made = socket.socket(family, socket.SOCK_STREAM)
                socket.send_fds(theirs, [b"x"], [made.fileno()])
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        ours.close()
        os.waitpid(pid, 0)
        assert descriptors, f"no socket from uid {uid}"
        sock = socket.socket(fileno=descriptors[0])
        sock.settimeout(10)
        self._sockets.append(sock)
        return sock

    def connect(self, uid: int, address: str, port: int = 25, *, timeout_s: float = 10) -> socket.socket:
        """A connection of the user; raises what connect() raises."""
        sock = self.user_socket(uid, socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.settimeout(timeout_s)
        sock.connect((address, port))
        return sock

    def echoes(self, sock: socket.socket) -> bool:
        """Whether a session still carries a byte there and back; raises what the socket raises."""
        sock.send(b"x")
        return sock.recv(1) == b"x"
