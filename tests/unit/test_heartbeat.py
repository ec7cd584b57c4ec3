"""A heartbeat is sent while all is well, and never otherwise."""

import threading

import pytest

from smtpguard.daemon.outlet.frames import HelperSettings
from smtpguard.model import NS
from smtpguard.notify import heartbeat as module
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.heartbeat import HOLDS_S, HeartbeatDuty
from smtpguard.settings.notify import Heartbeat, NotifySettings


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.sent: list[float] = []
        self.is_down = False
        self.woken = threading.Event()
        monkeypatch.setattr(module, "send_heartbeat", self.send)
        self.duty = HeartbeatDuty(self.woken.set, clock=lambda: self.now_s)
        self.configure(Heartbeat(url="https://example.org/", every_ns=60 * NS))

    def configure(self, heartbeat: Heartbeat | None) -> None:
        notify = NotifySettings(heartbeat=heartbeat)
        self.duty.configure(HelperSettings(state_path="/x", control_socket="/x", values={"notify": notify}))

    def send(self, url: str) -> str:
        assert url == "https://example.org/"
        if self.is_down:
            raise DeliveryError("refused")
        self.sent.append(self.now_s)
        return "204"

    def say(self, *, is_well: bool) -> None:
        self.duty.take("health", {"well": is_well, "why": "blind"})

    def turn(self) -> None:
        self.woken.clear()
        self.duty.on_time(self.now_s)
        if self.duty._is_busy:
            assert self.woken.wait(10)

    def pass_time(self, seconds: int, *, is_well: bool | None = True) -> None:
        for _ in range(seconds // 10):
            if is_well is not None:
                self.say(is_well=is_well)
            self.turn()
            self.now_s += 10


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_none_before_it_is_said_that_all_is_well(bench: Bench) -> None:
    bench.pass_time(600, is_well=None)
    assert bench.sent == []
    assert bench.duty.next_due_s() is None
    bench.pass_time(600)
    assert len(bench.sent) == 10


def test_none_while_it_is_not_well_and_at_once_when_it_is(bench: Bench) -> None:
    bench.pass_time(60)
    bench.pass_time(600, is_well=False)
    assert len(bench.sent) == 1
    assert bench.duty.report()["text"] == "1 sent, none now: blind"
    bench.say(is_well=True)
    bench.turn()
    assert len(bench.sent) == 2


def test_none_from_a_daemon_that_says_nothing_any_more(bench: Bench) -> None:
    bench.pass_time(60)
    count = len(bench.sent)
    bench.now_s += HOLDS_S
    assert HOLDS_S == 30
    bench.pass_time(600, is_well=None)
    assert len(bench.sent) == count


def test_one_that_is_not_taken_is_a_trouble_until_the_next(bench: Bench) -> None:
    bench.is_down = True
    bench.pass_time(60)
    assert bench.duty.report()["troubles"] == ["the heartbeat was not taken: refused"]
    bench.is_down = False
    bench.pass_time(60)
    assert bench.duty.report()["troubles"] == []


def test_a_reload_takes_it_away(bench: Bench) -> None:
    bench.pass_time(60)
    bench.configure(None)
    bench.pass_time(600)
    assert len(bench.sent) == 1
    assert bench.duty.report() == {}
