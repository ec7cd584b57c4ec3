"""The real daemon tells a real receiver in another namespace."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for
from tests.support.processes import find_child, wait_for_child
from tests.support.standstill import Standstill
from tests.support.webhook import SCHEMA, Receiver

pytestmark = pytest.mark.kernel

RULES = [
    {
        "name": "mx",
        "ports": [25],
        "count": "connections",
        "limit": 5,
        "window": "10m",
        "action": "block",
        "block": "5m",
    },
    {"name": "talk", "ports": [587], "count": "connections", "limit": 5, "window": "10m", "action": "warn"},
]


HELPER = "sg-notify"


def find_helper(host: Host) -> int | None:
    """The notifying process, if there is one."""
    assert host.daemon is not None
    return find_child(host.daemon.pid, HELPER)


def wait_for_helper(host: Host) -> int:
    """The same, once it is there."""
    assert host.daemon is not None
    return wait_for_child(host.daemon.pid, HELPER)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(rules=RULES, sources=["bpf"], breaker={"blocks": 100}) as host:
        yield host


def begin(host: Host, receiver: Receiver, **notify: Any) -> None:  # noqa: ANN401 - YAML values
    host.configure(notify={"webhooks": [receiver.webhook], "digest": "none", **notify})  # it may be 7 in the morning
    host.start()


def test_a_block_is_told_once_within_ten_seconds_and_nothing_else_is(host: Host) -> None:
    receiver = Receiver(host)
    receiver.start()
    begin(host, receiver, share=["user", "domain", "script", "destinations"])
    assert host.connect(OTHER, 8, port=587).ok == 8, "a warning is not told at once"
    blocked = time.monotonic()
    assert host.connect(SPAMMER, 20).ok == 5
    (told,) = wait_for(receiver.taken)
    assert time.monotonic() - blocked < 10
    assert told["kind"] == "incident-begins"
    assert told["text"].startswith("web01 BLOCKED on port 25 until ")
    assert "6 connections in 10 min, limit 5 (rule mx)" in told["text"]
    assert told["incident"]["user"] == SPAMMER[0]
    assert told["incident"]["verdict"]["action"] == "block"
    assert told["why"]["verdict_for_customer"] == "us"
    assert told["why"]["verdict"].startswith("US: port 25 refused since ")
    host.connect(SPAMMER, 20)
    # The receiver has it before it answers; what is not answered is sent again.
    wait_for(lambda: "1 sent, 0 waiting" in host.cli("status", "-v").stdout)
    assert host.stop() == 0
    host.start()
    host.connect(SPAMMER, 5)
    assert host.connect(INNOCENT, 6).ok == 5
    assert [message["incident"]["user"] for message in wait_for(lambda: receiver.taken()[1:])] == [INNOCENT[0]]
    assert len(receiver.tried()) == 2, "nothing is told again at a restart, nor at a start that goes well"
    wait_for(lambda: "1 sent, 0 waiting" in host.cli("status", "-v").stdout)


def test_a_receiver_that_is_away_gets_it_when_it_is_back_whoever_is_killed(host: Host) -> None:
    receiver = Receiver(host)
    begin(host, receiver)
    assert host.connect(SPAMMER, 20).ok == 5
    wait_for(lambda: "1 waiting" in host.cli("status", "-v").stdout)
    helper = wait_for_helper(host)
    os.kill(helper, signal.SIGKILL)
    assert host.connect(INNOCENT, 6).ok == 5, "while nobody is there to take it"
    wait_for(lambda: find_helper(host) not in (None, helper))
    wait_for(lambda: "2 waiting" in host.cli("status", "-v").stdout)
    host.expect_end()
    assert host.daemon is not None
    os.kill(host.daemon.pid, signal.SIGKILL)
    host.daemon.wait()
    host.start()
    receiver.start()
    told = wait_for(lambda: found if len(found := receiver.taken()) == 2 else None, 40)
    assert sorted(message["incident"]["user"] for message in told) == [SPAMMER[0], INNOCENT[0]]
    assert len({message["id"] for message in told}) == 2
    wait_for(lambda: "0 waiting" in host.cli("status", "-v").stdout)
    host.connect(SPAMMER, 2)
    assert len(receiver.taken()) == 2


def test_a_reload_changes_whom_of_what_and_how_much(host: Host) -> None:
    receiver = Receiver(host)
    receiver.start()
    host.start()
    assert not find_helper(host), "nobody is told: there is no process for it"
    notify: dict[str, Any] = {"webhooks": [receiver.webhook], "at_once": ["warn"], "share": [], "digest": "none"}
    host.configure(notify=notify)
    done = host.cli("reload")
    assert "notify.webhooks (0 -> 1 entries)" in done.stdout, done
    wait_for_helper(host)
    assert host.connect(OTHER, 8, port=587).ok == 8
    (told,) = wait_for(receiver.taken)
    assert told["text"].startswith("a user over a limit on port 587, nothing refused: 6 connections")
    assert told["incident"]["user"] is None
    host.connect(SPAMMER, 8)
    wait_for(lambda: host.events("BLOCK"))
    host.configure(notify={"webhooks": []})
    assert host.cli("reload").returncode == 0
    wait_for(lambda: not find_helper(host))
    assert len(receiver.tried()) == 1


@pytest.mark.long
def test_a_hook_and_a_mail(host: Host) -> None:
    host.start()
    hook = Path(host.lab.directory) / "hook"
    hook.write_text(f"#!/bin/sh\ngrep '^Cap' /proc/self/status >{hook}.caps\ncat >>{hook}.got\n")
    hook.chmod(0o755)
    host.configure(notify={"hook": str(hook), "mail": "root", "smtp": f"{PEER4}:25"})
    assert host.cli("reload").returncode == 0
    assert host.connect(SPAMMER, 20).ok == 5
    wait_for(lambda: "hook hook 1 sent, 0 waiting" in host.cli("status", "-v").stdout)
    wait_for(lambda: "mail to root 1 sent, 0 waiting" in host.cli("status", "-v").stdout)
    (line,) = Path(f"{hook}.got").read_text().splitlines()
    message = json.loads(line)
    SCHEMA.validate(message)
    assert message["incident"]["user"] == SPAMMER[0]
    rights = dict(line.split(":\t") for line in Path(f"{hook}.caps").read_text().splitlines())
    assert {int(rights[which], 16) for which in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}


@pytest.mark.long
def test_a_heartbeat_only_while_all_is_well(host: Host) -> None:
    receiver = Receiver(host)
    receiver.start()
    host.start()
    host.configure(notify={"heartbeat": {"url": receiver.url + "?alive", "every": "1s"}})
    assert host.cli("reload").returncode == 0
    wait_for(lambda: len(receiver.beats()) > 2, 20)
    assert host.cli("off").returncode == 0
    wait_for(lambda: "none now" in host.cli("status", "-v").stdout)
    count = len(receiver.beats())
    time.sleep(3)
    assert len(receiver.beats()) == count
    assert host.cli("on").returncode == 0
    wait_for(lambda: len(receiver.beats()) > count, 20)
    assert not receiver.messages_tried()


def test_one_of_each_is_tried_for_real_without_a_daemon(host: Host) -> None:
    done = host.cli("notify", "test")
    assert done.returncode == 1
    assert "nobody is notified" in done.stderr
    receiver = Receiver(host)
    receiver.start()
    host.configure(notify={"webhooks": [receiver.webhook | {"kinds": ["digest", "breaker"]}]})
    done = host.cli("notify", "test")
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == [
        f"ok      {kind}: webhook {PEER4}: it answered 204" for kind in ("breaker", "digest", "test")
    ]
    receiver.answer("500")
    host.configure(notify={"webhooks": [receiver.webhook]})
    done = host.cli("notify", "test", "--kind", "incident-begins")
    assert (done.returncode, done.stdout) == (1, f"FAILED  incident-begins: webhook {PEER4}: it answered 500\n")
    assert all(message["text"].startswith("TEST, nothing has happened: ") for message in receiver.tried())
    assert host.cli("notify", "test", "--kind", "x").returncode == 2


@pytest.mark.long
def test_the_brake_and_the_panic_switch_are_told(host: Host) -> None:
    receiver = Receiver(host)
    receiver.start()
    host.configure(breaker={"blocks": 1})
    begin(host, receiver)
    for user in (SPAMMER, INNOCENT, OTHER):
        host.connect(user, 8)
    (brake,) = wait_for(lambda: receiver.taken("breaker"))
    assert brake["breaker"]["tripped"]
    assert host.cli("off").returncode == 0
    (off,) = wait_for(lambda: receiver.taken("blind"), 20)
    assert off["condition"] | {"status": ""} == {"name": "off", "holds": True, "status": ""}
    assert host.stop() == 0
    host.start(ready=False)
    time.sleep(8)
    assert len(receiver.taken("blind")) == 1, "not again at a restart"
    assert host.cli("on").returncode == 0
    wait_for(lambda: len(receiver.taken("blind")) == 2, 20)
    assert receiver.taken("blind")[1]["text"] == "Switched on again."


@pytest.mark.parametrize("mode", ["500", "slow", "close", "redirect"])
@pytest.mark.long
def test_whatever_the_receiver_does_nobody_waits_and_it_comes_when_all_is_well(host: Host, mode: str) -> None:
    receiver = Receiver(host)
    receiver.start()
    receiver.answer(mode)
    begin(host, receiver)
    assert host.connect(SPAMMER, 20).ok == 5
    wait_for(receiver.tried)
    assert host.connect(INNOCENT, 200, rate=1000).ok == 5, "judged as fast as ever"
    time.sleep(60 if mode == "500" else 12)
    assert not receiver.taken()
    receiver.answer("ok")
    wait_for(lambda: len(receiver.taken()) == 2, 60)
    assert len({message["id"] for message in receiver.taken()}) == 2


@pytest.mark.long
def test_twenty_users_blocked_in_a_minute_and_verdicts_in_a_loop() -> None:
    users = {f"shop{number}": 61_200 + number for number in range(20)}
    rule = RULES[0] | {"block": "1s"}
    with Host(users, rules=[rule], sources=["bpf"], breaker={"blocks": 1000}, escalation={"factor": 1}) as host:
        receiver = Receiver(host)
        receiver.start()
        begin(host, receiver)
        for user in users.items():
            assert host.connect(user, 8).ok == 5
        wait_for(lambda: len(receiver.taken()) == 20, 20)
        host.connect(next(iter(users.items())), 600, rate=50)
        assert len(host.events("EXCEEDED")) > 25
        assert len(receiver.taken()) == 20, "once an incident"


@pytest.mark.parametrize("mode", [pytest.param("slow", marks=pytest.mark.long), "stopped"])
def test_a_block_is_as_fast_as_ever_whoever_hangs(standstill: Standstill, host: Host, mode: str) -> None:
    """The receiver drips for ever, or the process itself stands still: nothing of that is felt where verdicts are."""
    receiver = Receiver(host)
    receiver.start()
    receiver.answer("slow")
    begin(host, receiver)
    if mode == "stopped":
        os.kill(wait_for_helper(host), signal.SIGSTOP)
    assert host.connect(SPAMMER, 50).ok == 5
    assert host.connect(INNOCENT, 50).ok == 5
    status = ask(f"{host.lab.directory}/control.sock", "status")["status"]
    assert status["worst_stall_ms"] - standstill.worst_s() * 1000 < 150, status["worst_stall_in"]
    assert status["part_failures"] == {}
