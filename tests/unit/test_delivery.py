"""What is sent when: retries by the clock, in order for each incident, nothing lost or sent twice, whatever answers."""

import hashlib
import hmac
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from smtpguard.notify import request as module
from smtpguard.notify.delivery import Delivery, DeliveryError
from smtpguard.notify.retry import next_pause
from smtpguard.notify.spool import MAX_MESSAGES, Letter, Spool
from smtpguard.notify.webhook import WebhookChannel
from smtpguard.settings.notify import KINDS, Webhook
from tests.support.local_server import LocalServer

SECRET = b"s" * 32


class FakeChannel:
    key = name = type = "fake"

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.tried: list[tuple[float, str]] = []
        self.down: set[str] = set()
        self.broken: set[str] = set()
        self.is_down = False
        self.now: Callable[[], float] = lambda: 0.0

    def wants(self, kind: str) -> bool:
        return bool(kind)

    def send(self, message: Letter) -> str:
        self.tried.append((self.now(), message.id))
        if self.is_down or message.thread in self.down:
            raise DeliveryError("refused")
        if message.thread in self.broken:
            raise ValueError("can't be made")
        self.sent.append(message.id)
        return "204"


class Bench:
    def __init__(self, path: str) -> None:
        self.now_s = 1000.0
        self.channel = FakeChannel()
        self.channel.now = lambda: self.now_s
        self.spool = Spool(path)
        self.totals: Counter[tuple[str, str, str]] = Counter()
        self.delivery = self.make()

    def make(self) -> Delivery:
        return Delivery(
            self.channel,
            self.spool,
            totals=self.totals,
            changed=lambda: None,
            clock=lambda: self.now_s,
            wall=lambda: self.now_s,
        )

    def add(self, name: str, thread: str = "i") -> None:
        message = Letter(
            id=name,
            channel="fake",
            thread=thread,
            kind="incident-begins",
            body=f'{{"id": "{name}"}}',
            made_s=self.now_s,
        )
        self.spool.add([message], now_s=self.now_s)

    def run(self, seconds: float) -> None:
        """Let time pass, without waiting."""
        end_s = self.now_s + seconds
        while True:
            due_s = self.delivery.step()
            if due_s is None or due_s > end_s:
                self.now_s = end_s
                return
            self.now_s = max(self.now_s, due_s)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(str(tmp_path / "notify.db"))


def test_pauses_double_to_half_a_minute_and_after_ten_minutes_to_an_hour(bench: Bench) -> None:
    bench.channel.is_down = True
    bench.add("a")
    bench.run(25 * 3600)
    times = [time_s - 1000 for time_s, _ in bench.channel.tried]
    pauses = [round(after - before) for before, after in pairwise(times)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 30, 30]
    early = [pause for pause, at in zip(pauses, times, strict=False) if at < 600]
    assert max(early) == 30
    assert pauses[len(early) :][:4] == [60, 120, 240, 480]
    assert max(pauses) == 3600
    assert 24 * 3600 <= times[-1] < 25 * 3600, "given up after a day"
    assert bench.spool.count_waiting() == 0
    assert bench.totals["incident-begins", "fake", "given-up"] == 1


def test_next_pause() -> None:
    assert [next_pause(None, 0), next_pause(1, 0), next_pause(16, 30), next_pause(30, 700)] == [1, 2, 30, 60]


def test_it_is_sent_once_when_the_other_side_is_back(bench: Bench) -> None:
    bench.channel.is_down = True
    bench.add("a")
    bench.run(60)
    assert "refused" in str(bench.delivery.trouble())
    bench.channel.is_down = False
    bench.run(30)
    bench.run(3600)
    assert bench.channel.sent == ["a"]
    assert bench.delivery.trouble() is None
    assert bench.delivery.report() == "fake 1 sent, 0 waiting, 0 given up"


def test_an_incident_keeps_its_order_and_holds_up_no_other(bench: Bench) -> None:
    bench.channel.down = {"bad"}
    for name, thread in (("b1", "bad"), ("b2", "bad"), ("g1", "good"), ("g2", "good")):
        bench.add(name, thread)
    bench.run(10)
    assert bench.channel.sent == ["g1", "g2"]
    assert {name for _, name in bench.channel.tried} == {"b1", "g1", "g2"}
    bench.channel.down = set()
    bench.run(30)
    assert bench.channel.sent == ["g1", "g2", "b1", "b2"]


def test_one_that_can_not_be_made_is_told_given_up_and_holds_up_no_other(bench: Bench) -> None:
    bench.channel.broken = {"bad"}
    for name, thread in (("b1", "bad"), ("g1", "good")):
        bench.add(name, thread)
    bench.run(10)
    assert bench.channel.sent == ["g1"]
    assert bench.delivery.trouble() == "fake: ValueError: can't be made; tried again"
    assert len(bench.channel.tried) < 10, "with pauses"
    bench.run(25 * 3600)
    assert bench.spool.count_waiting() == 0
    assert bench.totals["incident-begins", "fake", "given-up"] == 1


def test_whoever_comes_after_a_sigkill_goes_on_with_the_same_ids(bench: Bench, tmp_path: Path) -> None:
    bench.channel.is_down = True
    bench.add("a")
    bench.add("b", "j")
    bench.run(100)
    bench.spool.close()
    bench.spool = Spool(str(tmp_path / "notify.db"))
    bench.channel.is_down = False
    bench.delivery = bench.make()
    bench.run(1)
    assert bench.channel.sent == ["a", "b"]


def test_what_was_sent_and_can_not_be_taken_out_of_the_file_is_not_sent_again(bench: Bench) -> None:
    sound, bench.spool.remove = bench.spool.remove, _raise_full  # type: ignore[method-assign]
    bench.add("a")
    for _ in range(3):
        with pytest.raises(OSError, match="full"):
            bench.delivery.step()
    bench.spool.remove = sound  # type: ignore[method-assign]
    bench.run(5)
    assert bench.channel.sent == ["a"]
    assert bench.spool.count_waiting() == 0


def _raise_full(seq: int) -> None:
    del seq
    raise OSError("full")


def test_the_spool_is_bounded(bench: Bench) -> None:
    messages = [
        Letter(id=str(number), channel="fake", thread="", kind="test", body="{}", made_s=0)
        for number in range(MAX_MESSAGES + 10)
    ]
    bench.spool.add(messages)
    assert (bench.spool.count_waiting(), bench.spool.dropped) == (MAX_MESSAGES, 10)
    bench.spool.add([Letter(id="x", channel="sound", thread="", kind="test", body="{}", made_s=0)])
    assert len(bench.spool.list_waiting("sound")) == 1, "one that can't be told keeps no other from being told"


# -- the POST --------------------------------------------------------------------------------------------------------

Answer = Callable[[socket.socket], None]


class Server(LocalServer):
    """Answers each connection in the way of a test."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[bytes] = []
        super().__init__()

    def handle(self, peer: socket.socket) -> None:
        with peer, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < _length(data):
                part = peer.recv(65536)
                if not part:
                    return
                data += part
            self.requests.append(data)
            self._answer(peer)


def _length(data: bytes) -> int:
    head = data.partition(b"\r\n\r\n")[0].lower()
    return int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


def post(url: str, secret: Path) -> str:
    channel = WebhookChannel(Webhook(url=url, secret_file=str(secret), kinds=KINDS), wall=lambda: 1_795_000_000.5)
    return channel.send(Letter(id="a", channel="", thread="", kind="test", body='{"id": "a"}', made_s=0))


def drip(peer: socket.socket) -> None:
    while True:
        peer.send(b"H")
        time.sleep(0.05)


def drip_headers(peer: socket.socket) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        peer.send(b"X: y\r\n")
        time.sleep(0.05)


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    servers: list[Server] = []

    def make(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def test_the_signature_is_over_time_and_body(serve: Callable[[Answer], Server], secret: Path) -> None:
    server = serve(lambda peer: peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert post(f"http://127.0.0.1:{server.port}/a/b?c=d", secret) == "it answered 204"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a/b?c=d HTTP/1.1\r\n")
    expected = hmac.new(SECRET, b"1795000000." + body, hashlib.sha256).hexdigest()
    assert f"Smtpguard-Signature: t=1795000000,v1={expected}".encode() in head
    assert json.loads(body) == {"id": "a"}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda peer: peer.sendall(b"HTTP/1.1 500 No\r\n\r\n"), "it answered 500"),
        (lambda peer: peer.sendall(b"HTTP/1.1 302 No\r\nLocation: http://127.0.0.1:1/\r\n\r\n"), "it answered 302"),
        (lambda peer: peer.close(), "closed"),
        (lambda peer: peer.sendall(b"nonsense\r\n\r\n"), "nonsense"),
        (lambda peer: peer.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200), "100 headers"),
        (lambda peer: peer.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000), "more than 65536 bytes"),
        (drip, "no answer within"),
        (drip_headers, "headers|no answer within"),
        (lambda peer: peer.recv(1), "no answer"),
    ],
)
def test_whatever_answers_it_is_bounded_and_said(
    serve: Callable[[Answer], Server],
    secret: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
    told: str,
) -> None:
    if "no answer" in told:  # else it comes when the machine gets round to it
        monkeypatch.setattr(module, "TOTAL_S", 0.4)
    begun = time.monotonic()
    with pytest.raises(DeliveryError, match=told):
        post(f"http://127.0.0.1:{serve(answer).port}/", secret)
    assert time.monotonic() - begun < 10


def test_a_body_that_never_ends_is_not_read(serve: Callable[[Answer], Server], secret: Path) -> None:
    def endless(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    assert post(f"http://127.0.0.1:{serve(endless).port}/", secret) == "it answered 200"


def test_where_nobody_listens(secret: Path) -> None:
    with socket.socket() as taken:  # by a port of our own that nobody listens at
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DeliveryError, match="Connection refused"):
            post(f"http://127.0.0.1:{taken.getsockname()[1]}/", secret)


def test_a_server_without_a_certificate_that_is_trusted_gets_nothing(
    serve: Callable[[Answer], Server], secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CONNECT_S", 0.3)
    server = serve(lambda _: None)
    with pytest.raises(DeliveryError):
        post(f"https://127.0.0.1:{server.port}/", secret)


def test_a_secret_that_others_may_write_or_that_is_too_short(secret: Path) -> None:
    secret.chmod(0o666)
    with pytest.raises(DeliveryError, match="secret can't be used"):
        post("http://127.0.0.1:1/", secret)
    secret.chmod(0o600)
    secret.write_bytes(b"short")
    with pytest.raises(DeliveryError, match="shorter than 16 bytes"):
        post("http://127.0.0.1:1/", secret)


def test_the_name_of_a_webhook_tells_no_token() -> None:
    channel = WebhookChannel(Webhook(url="https://u:p@example.org/T0KEN?x=T0KEN", secret_file="/x", kinds=("digest",)))  # noqa: S106
    assert channel.name == "webhook example.org"
    assert "T0KEN" not in channel.key
    assert channel.wants("test")
    assert not channel.wants("breaker")
