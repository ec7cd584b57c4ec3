"""The notifying process's loop: packets reach the duties, one that fails keeps no other from its work."""

import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from smtpguard.daemon.outlet.frames import HelperSettings, parse_frame, pick_settings, render_frame
from smtpguard.hooks import Task
from smtpguard.notify.helper import NotifyHelper, SayUp
from smtpguard.settings import Settings


class FakeDuty:
    """Notes what it is told."""

    def __init__(self, name: str, say: SayUp) -> None:
        self.name = name
        self.say = say
        self.got: list[str] = []
        self.is_broken = name == "broken"

    def configure(self, settings: HelperSettings) -> None:
        self.got.append(settings.state_path)

    def take(self, kind: str, content: Any) -> None:  # noqa: ANN401 - JSON values
        if self.is_broken:
            raise ValueError("a mistake")
        self.got.append(f"{kind} {content['id']}")
        self.say("took", {"id": content["id"]})

    def next_due_s(self) -> float | None:
        return None

    def on_time(self, now_s: float) -> None:
        pass

    def report(self) -> Mapping[str, Any]:
        return {"text": f"{len(self.got)} taken"}

    def close(self) -> None:
        self.got.append("closed")


def test_packets_reach_all_duties_and_a_broken_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    duties: list[FakeDuty] = []

    def make(say: SayUp, wake: Task) -> Sequence[FakeDuty]:
        del wake
        duties.extend(FakeDuty(name, say) for name in ("broken", "sound"))
        return duties

    helper = NotifyHelper(theirs, make=make)
    thread = threading.Thread(target=helper.run)
    with caplog.at_level(logging.CRITICAL):
        thread.start()
        ours.send(render_frame("reload", pick_settings(Settings())))
        ours.send(render_frame("occasion", {"id": "a"}))
        said: list[tuple[str, Any]] = []
        while not (said and said[-1][0] == "report" and said[-1][1]["broken"]["troubles"]):
            said.append(parse_frame(ours.recv(100_000), from_daemon=False))
        ours.send(render_frame("stop"))
        thread.join(20)
    assert not thread.is_alive()
    assert [kind for kind, _ in said].count("seen") == 2
    assert ("took", {"id": "a"}) in said
    assert said[-1][1]["broken"]["troubles"] == ["broken has failed at occasion: ValueError: a mistake"]
    assert duties[1].got == [Settings().state_path, "occasion a", "closed"]
    ours.close()
    theirs.close()


def test_what_was_taken_is_said_again_until_there_is_room() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper = NotifyHelper(theirs, make=lambda say, wake: ())  # noqa: ARG005
    for number in range(3_000):
        helper.say("seen" if number < 2_000 else "took", {"id": str(number)})
    ours.settimeout(0)  # what was sent is there at once
    found: list[Any] = []
    for _ in range(100):
        try:
            while True:
                found.append(parse_frame(ours.recv(100_000), from_daemon=False))
        except BlockingIOError:
            helper._say_again()
    assert sorted(int(content["id"]) for kind, content in found if kind == "took") == list(range(2_000, 3_000))
    ours.close()
    theirs.close()
