"""The control socket with real sockets: who may ask what, and what hostile clients can't do."""

import contextlib
import json
import os
import select
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from unittest.mock import Mock

import pytest

from smtpguard.control import admission, client
from smtpguard.control import connection as control_client
from smtpguard.control import listener as control_bind
from smtpguard.control import server as control
from smtpguard.control.answer import Answer, Later, Pages, Stream
from smtpguard.control.client import ask, subscribe
from smtpguard.control.connection import Peer
from smtpguard.control.protocol import MAX_REQUEST_BYTES, Json, parse_error, render_error
from smtpguard.control.server import ControlServer
from smtpguard.errors import (
    BusyError,
    ConfigError,
    DecodeError,
    EnforceError,
    GuardError,
    LogError,
    NoDaemonError,
    PrivilegeError,
    SourceError,
    StateError,
)
from tests.fakes.clock import FakeClock


def handle(peer: Peer, verb: str, args: Json) -> Answer:
    if verb == "who":
        return {"uid": peer.uid, "pid": peer.pid, "name": peer.name, "args": args}
    if verb == "fail":
        raise EnforceError("it can't be", where="table x", fix="do y")
    if verb == "many":
        return Pages(head={"total": args["n"]}, items=[{"n": n, "pad": "x" * 100} for n in range(args["n"])])
    if verb == "watch":
        return Stream(topic="watch", head={"since": 1})
    raise DecodeError(f"an unknown verb, {verb}")


@pytest.fixture
def path() -> Iterator[str]:
    """Short: a socket's path has 107 bytes at most, and tmp_path names user, run and test."""
    with tempfile.TemporaryDirectory(prefix="sg-") as directory:
        yield f"{directory}/run/control.sock"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def make(path: str, **changes: object) -> ControlServer:
    fields: dict[str, object] = {
        "group": None, "verbs": ["who"], "handler": handle, "names": {0: "root", 61001: "web"}.get,
    }  # fmt: skip
    return ControlServer(path, **(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def server(path: str) -> Iterator[ControlServer]:
    server = make(path)
    server.open()
    yield server
    server.close()


@pytest.fixture
def running(server: ControlServer, clock: FakeClock) -> Iterator[ControlServer]:
    """The server in a loop of its own, as in the daemon: one descriptor in somebody else's selector."""
    stopping = threading.Event()

    def loop() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            while not stopping.is_set():
                if selector.select(0.02):
                    server.serve(clock.boot)

    thread = threading.Thread(target=loop)
    thread.start()
    yield server
    stopping.set()
    thread.join()


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(30)
    connection.connect(path)
    return connection


def turns(server: ControlServer, clock: FakeClock, count: int = 10) -> None:
    for _ in range(count):
        server.serve(clock.boot)


def received(connection: socket.socket) -> list[Json]:
    """All whole lines that are there."""
    connection.settimeout(0)
    data = b""
    try:
        while chunk := connection.recv(1 << 20):
            data += chunk
    except (BlockingIOError, ConnectionResetError):
        pass
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def is_cut(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        while connection.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_asks_and_is_answered_with_who_it_is(running: ControlServer, path: str) -> None:
    answer = ask(path, "who", x=1, reason="a\udcff\n")
    assert answer == {
        "uid": os.geteuid(), "pid": os.getpid(), "name": "root" if os.geteuid() == 0 else None,
        "args": {"x": 1, "reason": "a\udcff\n"},
    }  # fmt: skip
    assert running.stats.requests == 1


def test_modes_and_directory(server: ControlServer, path: str) -> None:
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert Path(path).parent.stat().st_mode & 0o777 == 0o755
    assert [p.name for p in Path(path).parent.iterdir()] == ["control.sock"]
    server.close()
    assert not Path(path).exists()


@pytest.mark.usefixtures("running")
def test_errors_keep_their_class_and_advice(path: str) -> None:
    with pytest.raises(EnforceError) as caught:
        ask(path, "fail")
    assert (caught.value.what, caught.value.where, caught.value.fix) == ("it can't be", "table x", "do y")
    with pytest.raises(DecodeError, match="unknown verb"):
        ask(path, "nonsense")


@pytest.mark.parametrize(
    "error",
    [GuardError, ConfigError, DecodeError, SourceError, EnforceError, StateError, LogError, PrivilegeError,
     NoDaemonError, BusyError],
)  # fmt: skip
def test_every_error_goes_over_the_wire(error: type[GuardError]) -> None:
    back = parse_error(render_error(error("a", where="b", fix=None)))
    assert (type(back), back.what, back.where, back.fix) == (error, "a", "b", None)


def test_an_error_of_a_subclass_arrives_as_its_base() -> None:
    class OddError(StateError):
        pass

    assert type(parse_error(render_error(OddError("x")))) is StateError
    assert type(parse_error({"ok": False, "error": {"code": "from the future", "what": "x"}})) is GuardError
    assert type(parse_error({"ok": False})) is GuardError


@pytest.mark.parametrize("count", [0, 1, 200, 201, 60_000])
@pytest.mark.usefixtures("running")
def test_a_long_answer_is_whole_again(path: str, count: int) -> None:
    answer = ask(path, "many", timeout_s=60, n=count)
    assert answer["total"] == count
    assert [item["n"] for item in answer["items"]] == list(range(count))


def test_a_long_answer_waits_for_its_reader_without_being_rendered(
    server: ControlServer, path: str, clock: FakeClock
) -> None:
    connection = connect(path)
    connection.send(b'{"verb":"many","n":100000}\n')
    turns(server, clock)
    (client,) = server._clients.values()
    assert client._waiting_bytes < 100_000


def test_several_requests_on_one_connection_even_at_once(server: ControlServer, path: str, clock: FakeClock) -> None:
    connection = connect(path)
    connection.send(b'{"verb":"who"}\n{"verb":"fail"}\n{"verb"')
    turns(server, clock)
    connection.send(b':"who"}\n')
    turns(server, clock)
    assert [answer["ok"] for answer in received(connection)] == [True, False, True]


def test_one_request_a_turn(server: ControlServer, path: str, clock: FakeClock) -> None:
    connection = connect(path)
    connection.send(b'{"verb":"who"}\n' * 1000)
    turns(server, clock, 5)
    assert 1 <= server.stats.requests <= 5
    answers: list[Json] = []
    while len(answers) < 1000:
        turns(server, clock, 10)
        answers += received(connection)
    assert server.stats.requests == 1000


def test_a_half_closed_client_is_answered(server: ControlServer, path: str, clock: FakeClock) -> None:
    connection = connect(path)
    connection.send(b'{"verb":"many","n":5000}\n')
    connection.shutdown(socket.SHUT_WR)
    answers: list[Json] = []
    data = b""
    for _ in range(1000):
        server.serve(clock.boot)
        connection.settimeout(0)
        try:
            data += connection.recv(1 << 20)
        except BlockingIOError:
            continue
    answers = [json.loads(line) for line in data.split(b"\n")[:-1]]
    assert sum(len(answer["items"]) for answer in answers) == 5000
    assert server._clients == {}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"verb":1}\n',
        b'{"verb":"who","x":NaN}\n',
        b'{"verb":"who","x":' + b"[" * 30_000 + b"\n",
        b'{"verb":"who","x":' + b"9" * 10_000 + b"}\n",
        b"\xff\xfe\x00\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"verb":"who"' + b" " * MAX_REQUEST_BYTES + b"}\n",
        b"x" * (MAX_REQUEST_BYTES + 1),
    ],
)
def test_garbage_is_answered_with_an_error_and_cut(
    server: ControlServer, path: str, clock: FakeClock, garbage: bytes
) -> None:
    connection = connect(path)
    connection.send(garbage)
    turns(server, clock)
    (answer,) = received(connection)
    assert answer["error"]["code"] == "request"
    assert is_cut(connection)
    assert (server.stats.garbled, server.stats.requests) == (1, 0)


def test_the_longest_request_passes(server: ControlServer, path: str, clock: FakeClock) -> None:
    connection = connect(path)
    frame = b'{"verb":"who","x":"' + b"x" * (MAX_REQUEST_BYTES - 21) + b'"}\n'
    connection.settimeout(0)
    sent = 0
    while sent < len(frame):
        sent += connection.send(frame[sent:])
        turns(server, clock)
    assert received(connection)[0]["ok"] is True


def test_silent_and_slow_clients_are_cut_after_five_seconds(server: ControlServer, path: str, clock: FakeClock) -> None:
    silent, dripping, deaf, idle = (connect(path) for _ in range(4))
    deaf.send(b'{"verb":"many","n":100000}\n')
    idle.send(b'{"verb":"who"}\n')
    turns(server, clock)
    for _ in range(6):
        clock.advance(1)
        dripping.send(b"x")
        turns(server, clock)
        server.tick(clock.boot)
    assert [is_cut(connection) for connection in (silent, dripping, deaf, idle)] == [True] * 4
    assert server.stats.cut == 4
    assert server._clients == {}


def test_a_reader_that_makes_progress_is_cut_after_a_minute(server: ControlServer, path: str, clock: FakeClock) -> None:
    connection = connect(path)
    connection.send(b'{"verb":"many","n":1000000}\n')
    for _ in range(61):
        turns(server, clock, 2)
        connection.recv(4096)
        clock.advance(1)
        server.tick(clock.boot)
    assert server.stats.cut == 1


THOUSAND = """
import socket, sys

waiting = []
for _ in range(1000):
    waiting.append(socket.socket(socket.AF_UNIX))
    waiting[-1].connect(sys.argv[1])  # waits while the backlog is full
print("connected", flush=True)
last = waiting[-1].makefile("rb")
print(last.readline().decode().strip(), flush=True)
print(last.read(), flush=True)
sys.stdin.readline()
waiting[0].send(b'{"verb":"who"}\\n')
print(waiting[0].makefile("rb").readline().decode().strip(), flush=True)
sys.stdin.readline()
"""
"""A process of its own: with ours, and the server's ends of them, they would be more descriptors than 1024."""


def test_a_thousand_at_once_are_harmless(server: ControlServer, path: str, clock: FakeClock) -> None:
    argv = [sys.executable, "-c", THOUSAND, path]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdin is not None
        assert clients.stdout is not None

        def serve_until(line_is_there: IO[str]) -> str:
            deadline = time.monotonic() + 60
            while not select.select([line_is_there], [], [], 0)[0]:
                server.serve(clock.boot)
                assert time.monotonic() < deadline
            return line_is_there.readline().strip()

        assert serve_until(clients.stdout) == "connected"
        while len(server._clients) + server.stats.busy < 1000:
            server.serve(clock.boot)
        assert len(server._clients) == admission.MAX_CLIENTS
        assert server.stats.busy == 1000 - admission.MAX_CLIENTS
        assert json.loads(clients.stdout.readline())["error"]["code"] == "busy"
        assert clients.stdout.readline() == "b''\n", "cut after the answer"
        clients.stdin.write("go on\n")
        clients.stdin.flush()
        assert json.loads(serve_until(clients.stdout))["ok"] is True
    turns(server, clock)
    assert server._clients == {}
    assert len(server._selector.get_map()) == 2  # the listener, and what wakes it for answers


class Desk:
    """A handler whose answers come from elsewhere."""

    def __init__(self) -> None:
        self.waiting: list[Later] = []

    def handle(self, peer: Peer, verb: str, args: Json) -> Answer:
        if verb != "later":
            return handle(peer, verb, args)
        later = Later()
        self.waiting.append(later)
        return later


@pytest.fixture
def desk(path: str) -> Iterator[tuple[Desk, ControlServer]]:
    desk = Desk()
    server = make(path, handler=desk.handle)
    server.open()
    yield desk, server
    server.close()


def test_answers_that_come_later_hold_up_nobody(desk: tuple[Desk, ControlServer], path: str, clock: FakeClock) -> None:
    handler, server = desk
    first, second, other = connect(path), connect(path), connect(path)
    first.send(b'{"verb":"later"}\n{"verb":"who"}\n')
    second.send(b'{"verb":"later"}\n')
    turns(server, clock)
    first.send(b'{"verb":"who"}\n' * 5)
    other.send(b'{"verb":"who"}\n')
    turns(server, clock)
    assert server.stats.requests == 3
    assert received(other)[0]["ok"] is True
    threading.Thread(target=handler.waiting[1].resolve, args=(StateError("no", fix="do"),)).start()
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        assert selector.select(30)
    turns(server, clock)
    assert received(second)[0]["error"]["code"] == "state"
    handler.waiting[0].resolve(Pages(head={"n": 1}, items=[{"x": 1}]))
    turns(server, clock)
    assert [answer.get("items") for answer in received(first)] == [[{"x": 1}]] + [None] * 6


def test_an_answer_that_is_there_at_once(desk: tuple[Desk, ControlServer], path: str, clock: FakeClock) -> None:
    handler, server = desk
    connection = connect(path)
    connection.send(b'{"verb":"later"}\n')
    real = handler.handle

    def handle_at_once(peer: Peer, verb: str, args: Json) -> Answer:
        answer = real(peer, verb, args)
        handler.waiting[0].resolve({"x": 1})
        return answer

    server._handler = handle_at_once
    turns(server, clock)
    assert received(connection) == [{"ok": True, "x": 1}]


def test_who_waits_too_long_or_leaves_is_forgotten(
    desk: tuple[Desk, ControlServer], path: str, clock: FakeClock
) -> None:
    handler, server = desk
    patient, gone = connect(path), connect(path)
    for connection in (patient, gone):
        connection.send(b'{"verb":"later"}\n')
    turns(server, clock)
    gone.close()
    handler.waiting[1].resolve({"x": 1})
    turns(server, clock)
    assert len(server._clients) == 1
    clock.advance(6)
    server.tick(clock.boot)
    assert is_cut(patient)
    assert server._clients == {}
    handler.waiting[0].resolve({"x": 1})
    turns(server, clock)
    server.close()
    handler.waiting[0].resolve({"x": 2})


def test_streams(server: ControlServer, path: str, clock: FakeClock) -> None:
    reader, other = connect(path), connect(path)
    assert not server.has_readers("watch")
    reader.send(b'{"verb":"watch"}\n')
    other.send(b'{"verb":"who"}\n')
    turns(server, clock)
    assert server.has_readers("watch")
    server.publish("watch", {"n": 1}, clock.boot)
    server.publish("else", {"n": 2}, clock.boot)
    clock.advance(3600)
    server.tick(clock.boot)
    server.publish("watch", {"n": 3}, clock.boot)
    assert received(reader) == [{"ok": True, "stream": True, "since": 1}, {"n": 1}, {"n": 3}]
    reader.close()
    turns(server, clock)
    assert not server.has_readers("watch")


def test_a_stream_that_is_not_read_drops_and_says_so(server: ControlServer, path: str, clock: FakeClock) -> None:
    reader = connect(path)
    reader.send(b'{"verb":"watch"}\n')
    turns(server, clock)
    for n in range(20_000):
        server.publish("watch", {"n": n, "pad": "x" * 100}, clock.boot)
    (client,) = server._clients.values()
    assert client._waiting_bytes <= control_client.MAX_STREAM_BYTES
    assert server.stats.dropped > 0
    got = []
    for _ in range(200):
        got += received_some(reader)
        turns(server, clock, 2)
    told = [json.loads(line) for line in b"".join(got).split(b"\n")[:-1]]
    assert sum(line.get("dropped", 0) for line in told) == server.stats.dropped, "without anything that comes after it"
    server.publish("watch", {"n": "last"}, clock.boot)
    got += received_some(reader)
    lines = [json.loads(line) for line in b"".join(got).split(b"\n")[:-1]]
    seen = [line["n"] for line in lines if "n" in line]
    dropped = [line["dropped"] for line in lines if "dropped" in line]
    assert seen[-1] == "last"
    assert len(seen) - 1 + sum(dropped) == 20_000
    assert sum(dropped) == server.stats.dropped


def received_some(connection: socket.socket) -> list[bytes]:
    connection.settimeout(0)
    try:
        return [connection.recv(1 << 16)]
    except BlockingIOError:
        return []


def test_the_client_reads_a_stream_until_the_daemon_ends(server: ControlServer, path: str, clock: FakeClock) -> None:
    got: list[Json] = []
    thread = threading.Thread(target=lambda: got.extend(subscribe(path, "watch")))
    thread.start()
    while not server.has_readers("watch"):
        server.serve(clock.boot)
    server.publish("watch", {"n": 1}, clock.boot)
    server.close()
    thread.join()
    assert got == [{"n": 1}]


@pytest.mark.usefixtures("running")
def test_a_second_daemon_is_refused_a_stale_socket_is_replaced(path: str) -> None:
    with pytest.raises(BusyError):
        make(path).open()
    assert ask(path, "who")["uid"] == os.geteuid()
    stale = str(Path(path).with_name("stale.sock"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(stale)
    replacing = make(stale)
    replacing.open()
    replacing.close()


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_is_no_socket_is_left_alone(path: str, kind: str) -> None:
    Path(path).parent.mkdir()
    target = Path(path).with_name("target")
    target.write_bytes(b"precious")
    if kind == "file":
        Path(path).write_bytes(b"precious")
    elif kind == "link":
        Path(path).symlink_to(target)
    else:
        Path(path).mkdir()
    with pytest.raises(ConfigError, match="not a socket"):
        make(path).open()
    assert target.read_bytes() == b"precious"
    assert os.path.lexists(path)


def test_a_socket_of_somebody_else_is_not_removed_at_the_end(server: ControlServer, path: str) -> None:
    Path(path).unlink()
    Path(path).write_bytes(b"")
    server.close()
    assert Path(path).exists()


def test_a_socket_that_was_tidied_away_comes_back(running: ControlServer, path: str, clock: FakeClock) -> None:
    Path(path).unlink()
    with pytest.raises(NoDaemonError):
        ask(path, "who")
    clock.advance(11)
    running.tick(clock.boot)
    assert ask(path, "who")["uid"] == os.geteuid()


def test_a_group_that_is_not_there(path: str) -> None:
    with pytest.raises(ConfigError, match="there is no group"):
        make(path, group="no-such-group-here")


def test_nobody_answers(path: str, tmp_path: Path) -> None:
    with pytest.raises(NoDaemonError, match="smtpguard run"):
        ask(path, "status")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    with pytest.raises(NoDaemonError):
        ask(str(plain), "status")
    with pytest.raises(NoDaemonError):
        ask("/" + "x" * 200, "status")


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        (b"", NoDaemonError, "without an answer"),
        (b"hello\n", GuardError, "does not speak"),
        (b'{"ok":tr', NoDaemonError, "without an answer"),
        (b"[]\n", GuardError, "does not speak"),
    ],
)
def test_a_daemon_that_talks_nonsense(tmp_path: Path, said: bytes, error: type[GuardError], text: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(1 << 16)
            connection.sendall(said)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(error, match=text):
            ask(str(tmp_path / "sock"), "status")
        thread.join()


def test_a_daemon_that_hangs_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        with pytest.raises(NoDaemonError, match=r"does not answer within 0\.05 s"):
            ask(str(tmp_path / "sock"), "status", timeout_s=0.05)


@pytest.mark.usefixtures("running")
def test_an_endless_answer_is_bounded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.control.client.MAX_ANSWER_BYTES", 1_000_000)
    with pytest.raises(GuardError, match="more than 1000000 bytes"):
        ask(path, "many", timeout_s=60, n=100_000)


def test_a_reader_who_went_while_somebody_was_answered_is_forgotten(path: str, clock: FakeClock) -> None:
    """Both are ready in the same turn; by the time that the second has its own, it is gone."""

    def answer(peer: Peer, verb: str, args: Json) -> Answer:
        if verb != "tell":
            return handle(peer, verb, args)
        own.publish("watch", {"n": 1}, clock.boot)
        return {}

    own = make(path, handler=answer)
    own.open()
    reader, other = connect(path), connect(path)
    reader.sendall(b'{"verb": "watch"}\n')
    turns(own, clock)
    other.sendall(b'{"verb": "tell"}\n')
    reader.close()
    turns(own, clock)
    assert received(other) == [{"ok": True}]
    assert not own.has_readers("watch")
    other.close()
    own.close()


def test_a_socket_that_can_not_be_made_again_is_tried_again(
    server: ControlServer,
    path: str,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path(path).unlink()
    with monkeypatch.context() as broken:
        broken.setattr(control, "bind_listener", Mock(side_effect=ConfigError("no room", where=path)))
        clock.boot += control.CHECK_PATH_NS
        server.tick(clock.boot)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    clock.boot += control.CHECK_PATH_NS
    server.tick(clock.boot)
    assert Path(path).is_socket()


def test_a_client_of_whom_the_kernel_says_nothing_is_cut_and_the_next_is_served(
    server: ControlServer, path: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(control, "read_peer", Mock(side_effect=OSError))
        first = connect(path)
        turns(server, clock)
        assert is_cut(first)
    second = connect(path)
    second.sendall(b'{"verb": "who"}\n')
    turns(server, clock)
    assert received(second)[0]["ok"]


def test_a_kernel_that_tells_no_groups_leaves_the_primary_one() -> None:
    connection = Mock()
    connection.getsockopt.side_effect = [struct.pack("iII", 7, 61001, 500), OSError]
    peer = control_client.read_peer(connection, {61001: "web"}.get)
    assert peer == Peer(uid=61001, pid=7, name="web", groups=frozenset({500}))


def test_a_client_that_is_reset_or_has_nothing_to_say() -> None:
    client = control_client.Client(Mock(), Peer(uid=0, pid=1, name="root", groups=frozenset()), 0)
    client.connection.recv.side_effect = [BlockingIOError, ConnectionResetError]  # type: ignore[attr-defined]
    assert client.receive()
    assert not client.receive()


def test_a_line_that_goes_in_pieces_arrives_whole() -> None:
    sent: list[bytes] = []

    def send(line: bytes) -> int:
        sent.append(line[:3])
        return len(line[:3])

    client = control_client.Client(Mock(send=send), Peer(uid=0, pid=1, name="root", groups=frozenset()), 0)
    client.answer([b"12345678\n"], 0)
    for _ in range(3):
        assert client.send(1)
    assert b"".join(sent) == b"12345678\n"
    assert not client.wants_write


def test_who_hangs_at_the_socket_is_somebody(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_bind, "_ANSWER_S", 0.05)
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hanging, contextlib.ExitStack() as stack:
        hanging.bind(path)
        hanging.listen(0)
        for _ in range(2):  # as many as wait to be accepted
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            waiting.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(path)
        with pytest.raises(BusyError):
            control_bind.check_free(path)


def test_a_socket_that_can_not_be_bound_leaves_nothing(path: str) -> None:
    with pytest.raises(ConfigError, match="the control socket can't be made: "):
        control_bind.bind_listener(path, None)  # there is no such directory
    long = f"{Path(path).parent.parent}/{'x' * 100}"
    with pytest.raises(ConfigError, match="too long"):
        control_bind.bind_listener(long, None)
    assert list(Path(long).parent.iterdir()) == []


def test_a_member_may_do_what_is_listed_and_a_crowd_leaves_room_for_root(path: str, clock: FakeClock) -> None:
    member = Peer(uid=61001, pid=5, name="web", groups=frozenset({os.getegid()}))
    server = make(path, verbs=["who"])
    server._gid = os.getegid()
    server.open()
    assert server._ask(member, "who", {}) == {"uid": 61001, "pid": 5, "name": "web", "args": {}}
    with pytest.raises(PrivilegeError, match="this is for root"):
        server._ask(member, "many", {"n": 1})
    with pytest.raises(PrivilegeError, match="this is for root"):
        server._ask(Peer(uid=61001, pid=5, name="web", groups=frozenset()), "who", {})
    assert not admission.is_crowded(member, [])
    others = [member] * admission.MAX_CLIENTS_OF_UID
    assert admission.is_crowded(member, others)
    assert not admission.is_crowded(Peer(uid=0, pid=1, name="root", groups=frozenset()), others)
    server.configure(group=None, verbs=["many"])
    assert Path(path).stat().st_mode & 0o777 == 0o600
    with pytest.raises(PrivilegeError):
        server._ask(member, "many", {"n": 1})
    turns(server, clock)
    server.close()


# -- what a command hears ----------------------------------------------------------------------------------------------


def test_a_daemon_that_takes_no_request_or_is_reset_is_none(path: str) -> None:
    line = client._Line.__new__(client._Line)
    line._path, line._timeout_s, line._deadline, line._buffer, line._taken = path, 5, None, bytearray(), 0
    line._socket = Mock(sendall=Mock(side_effect=TimeoutError), recv=Mock(side_effect=ConnectionResetError))
    with pytest.raises(NoDaemonError, match="does not answer within 5 s"):
        line.send({"verb": "status"})
    assert line.read() is None
    with pytest.raises(NoDaemonError, match="closed the connection without an answer"):
        line.read_answer()
    line._deadline = 0
    with pytest.raises(NoDaemonError, match="does not answer within 5 s"):
        line.read()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(), "the control socket is not for this user"),
        (FileNotFoundError(), "no daemon answers"),
        (TimeoutError(), "does not answer within 5 s"),
    ],
)
def test_why_nobody_could_be_reached(error: OSError, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", Mock(side_effect=error))
    with pytest.raises(GuardError, match=told):
        client._Line("/run/nobody.sock", 5)


def test_an_interrupt_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        client._Line("/run/nobody.sock", 5)


@pytest.mark.usefixtures("running")
def test_a_busy_daemon_is_asked_again_and_a_tenant_s_socket_is_not_believed(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, busy = socket.socket.connect, [BlockingIOError(), BlockingIOError()]

    def reach(connection: socket.socket, where: str) -> None:
        if busy:
            raise busy.pop()
        sound(connection, where)

    with monkeypatch.context() as crowded:
        crowded.setattr(socket.socket, "connect", reach)
        assert ask(path, "who")["pid"] == os.getpid()
    uid = os.geteuid()
    told = Mock(unpack=lambda *_: (1, 61001 if uid != 61001 else 61002, 1))
    monkeypatch.setattr("smtpguard.control.client.struct", told)
    with pytest.raises(PrivilegeError, match="belongs to uid 6100"):
        client._Line(path, 5)
