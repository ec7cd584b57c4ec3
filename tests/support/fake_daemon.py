"""The control socket without a guard behind it: whatever a test wants to be answered, and a stream at any rate."""

import selectors
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from smtpguard.control.answer import Answer, Pages, Stream
from smtpguard.control.connection import Peer
from smtpguard.control.protocol import Json
from smtpguard.control.server import ControlServer
from smtpguard.control.watch_item import TOPIC, render_item
from smtpguard.errors import GuardError
from smtpguard.model import Account, Connect

CONNECT = Connect(
    time_ns=0,
    uid=1000,
    pid=4711,
    port=25,
    address=bytes([192, 0, 2, 1]),
    sensor="bpf",
    result="allowed",
    attr="live",
    proc=b"php-fpm",
    exe=b"/usr/sbin/php-fpm8.2",
    cwd=b"/home/web/htdocs",
    script=b"/home/web/htdocs/wp-content/plugins/x/send.php:41",
)
STATUS = {
    "mode": "dry-run",
    "troubles": [],
    "ports": [25, 465, 587, 2525],
    "sources": [{"name": "bpf", "state": "leads"}],
}


class FakeDaemon:
    """Answers, and publishes.

    Args:
        folder: For the socket.

    Attributes:
        path: The socket.
        published: Items that were given to the stream.
    """

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "control.sock")
        self.published = 0
        self._rate = 0.0
        self._flood = 0
        self._stopping = threading.Event()
        self._server = ControlServer(self.path, group=None, verbs=[], handler=self._answer, names=lambda _: "root")
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._server.open()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._server.close()

    @property
    def dropped(self) -> int:
        """Items that a reader was too slow for."""
        return self._server.stats.dropped

    def publish_at(self, rate: float) -> None:
        """So many attempts a second from now on."""
        self._rate = rate

    def flood(self, dropped: int) -> None:
        """As fast as it can, until so many were dropped."""
        self._flood = dropped

    def _answer(self, peer: Peer, verb: str, args: Json) -> Answer:
        del peer, args
        answers: dict[str, Answer] = {
            "status": {"status": STATUS},
            "blocks": Pages(head={"off": None}, items=[]),
            "incidents": Pages(head={}, items=[]),
            "why": Pages(head={}, items=[]),
            TOPIC: Stream(topic=TOPIC, head={}),
        }
        if verb not in answers:
            raise GuardError(f"{verb} is not for this test")
        return answers[verb]

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            owed, last = 0.0, time.monotonic()
            while not self._stopping.is_set():
                if selector.select(0.005):
                    self._server.serve(time.monotonic_ns())
                now = time.monotonic()
                owed, last = owed + (now - last) * self._rate, now
                if self._server.has_readers(TOPIC):
                    for _ in range(int(owed)):
                        self._server.publish(TOPIC, self._make_item(), time.monotonic_ns())
                        self.published += 1
                owed -= int(owed)
                item = self._make_item() if self.dropped < self._flood else {}
                while self.dropped < self._flood:
                    self._server.publish(TOPIC, item, time.monotonic_ns())
                    self.published += 1

    def _make_item(self) -> dict[str, Any]:
        user = self.published % 500
        connect = replace(
            CONNECT,
            uid=1000 + user,
            pid=self.published % 30_000 + 2,
            port=(25, 465, 587, 2525)[user % 4],
            address=bytes([198, 18, self.published // 256 % 256, self.published % 256]),
            script=b"/home/web%d/htdocs/wp-content/plugins/x/send.php:%d" % (user, self.published % 20),
        )
        return render_item(connect, Account(uid=1000 + user, name=f"web{user}", standing="tenant"), time.time_ns())
