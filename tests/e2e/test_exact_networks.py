"""Networks and destinations rules of the assembled daemon: exact, whatever the daemon is busy with."""

import random
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4, PEER6
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for
from tests.support.past import count_kept

pytestmark = pytest.mark.kernel

LIMIT = 10
FAN = [f"198.18.{number}.1" for number in range(250)]
PROCESSES = 6
WIDE6 = "2001:db8:100::/40"
MIXED = [address for n in range(125) for address in (f"198.18.{n}.1", f"2001:db8:1{n:02x}::1")]
FAN6 = MIXED[1::2]


def fanout(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML values
    rule = {"name": "fanout", "count": "networks", "limit": LIMIT, "window": "1h", "action": "block", "block": "1h"}
    return rule | changes


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(sources=["bpf"], rules=[fanout()]) as host:
        host.start()
        yield host


def reach(
    host: Host, user: tuple[str, int], each: int = 60, rate: float = 0, to: Sequence[str] = FAN
) -> tuple[set[str], int]:
    """Six processes to many networks in an order of their own: what was let through, and how many were refused.

    Let through is what the kernel says: nft may refuse the first packet of a process that was preempted meanwhile.
    """
    before = len(let_through(host, user))
    works = [random.sample(to, each) for _ in range(PROCESSES)]
    children = [host.begin(user, each, rate, to=work) for work in works]
    outcomes = [host.outcome(child) for child in children]
    reached = {work[number] for work, outcome in zip(works, outcomes, strict=True) for number in outcome.passed}
    wait_for(lambda: reached <= set(let_through(host, user)[before:]), 20)
    time.sleep(0.3)
    return set(let_through(host, user)[before:]), sum(outcome.refused for outcome in outcomes)


def let_through(host: Host, user: tuple[str, int]) -> list[str]:
    return [row["DST"] for row in host.events("CONNECT") if row["USER"] == user[0] and row["RESULT"] == "allowed"]


def told(host: Host, user: tuple[str, int], event: str = "EXCEEDED") -> list[tuple[str, str, str]]:
    rows = [row for row in host.events(event) if row.get("USER") == user[0]]
    return [(row["RULE"], row["COUNT"], row["LIMIT"]) for row in rows]


def test_six_processes_reach_exactly_n_networks_and_are_blocked(host: Host) -> None:
    reached, refused = reach(host, SPAMMER)
    assert len(reached) == LIMIT
    assert refused > 0
    wait_for(lambda: told(host, SPAMMER))
    assert told(host, SPAMMER) == [("fanout", "11", "10")]
    assert host.connect(SPAMMER, 3, to=sorted(reached)[:3]).ok == 0
    assert host.connect(SPAMMER, 3, port=587, to=sorted(reached)[:3]).ok == 0
    assert host.connect(INNOCENT, LIMIT, to=FAN[:LIMIT]).ok == LIMIT


@pytest.mark.parametrize("count", ["networks", "destinations"])
def test_both_families_count_together(count: str) -> None:
    rules = [fanout(count=count), {"name": "burst", "count": "connections", "limit": 5000, "window": "1h"}]
    with Host(sources=["bpf"], rules=[rules[0], rules[1] | {"action": "throttle"}]) as host:
        host.lab.ip(host.lab.host, "route", "add", WIDE6, "via", PEER6)
        host.lab.ip(host.lab.peer, "route", "add", "local", WIDE6, "dev", "lo")
        host.start()
        for user, to in ((SPAMMER, MIXED), (INNOCENT, FAN6)):
            reached, _ = reach(host, user, to=to)
            assert len(reached) == LIMIT
            wait_for(partial(told, host, user))
            assert told(host, user) == [("fanout", "11", "10")]
            assert host.connect(user, 3, to=sorted(reached)[:3]).ok == 0


def test_again_after_the_window_has_slid_and_with_other_rules_beside_it() -> None:
    rules = [
        fanout(window="3s", block="3s"),
        {"name": "burst", "count": "connections", "limit": 40, "window": "3s", "action": "throttle"},
        fanout(name="wide", count="destinations", window="3s", limit=12, block="3s"),
    ]
    with Host(sources=["bpf"], rules=rules, escalation={"factor": 1, "still_trying": "end"}) as host:
        host.start()
        reached, _ = reach(host, SPAMMER, 15)
        assert len(reached) == LIMIT
        time.sleep(4)
        wait_for(lambda: not ask(f"{host.lab.directory}/control.sock", "blocks")["items"])
        assert host.connect(SPAMMER, 15, to=FAN[40:55]).passed == list(range(LIMIT))


def test_while_a_second_tenant_floods_the_ring(host: Host) -> None:
    flood = [host.begin(OTHER, 30_000, to=[PEER4]) for _ in range(2)]
    time.sleep(0.3)
    reached, _ = reach(host, SPAMMER)
    assert len(reached) == LIMIT
    wait_for(lambda: told(host, SPAMMER), 20)
    assert told(host, SPAMMER) == [("fanout", "11", "10")]
    for child in flood:
        child.kill()
        child.communicate()


def test_while_the_daemon_is_stopped_for_a_second(host: Host) -> None:
    for user in (SPAMMER, INNOCENT, OTHER):  # limits hold for two seconds then: what takes longer shows nothing
        session = host.session(user, 20, to=FAN[0])
        host.wait_for_beat()
        beat_s = int(time.clock_gettime(time.CLOCK_BOOTTIME))
        host.stop_signal(signal.SIGSTOP)
        begun = time.monotonic()
        works = [FAN[:LIMIT] + random.sample(FAN[LIMIT:], 30) + FAN[:LIMIT] for _ in range(PROCESSES)]
        children = [host.begin(user, len(work), to=work) for work in works]
        outcomes = [host.outcome(child) for child in children]
        is_in_time = time.clock_gettime(time.CLOCK_BOOTTIME) < beat_s + 2
        time.sleep(max(0.0, begun + 1 - time.monotonic()))
        host.stop_signal(signal.SIGCONT)
        if is_in_time:
            break
    reached = {work[number] for work, outcome in zip(works, outcomes, strict=True) for number in outcome.passed}
    assert len(reached) == LIMIT
    assert all(max(outcome.passed, default=0) < LIMIT + 30 for outcome in outcomes), "known ones after the verdict"
    text, _ = session.communicate(timeout=30)
    assert text.startswith("reset")
    wait_for(lambda: told(host, user))
    assert told(host, user) == [("fanout", "11", "10")]
    assert host.connect(user, 1, to=[FAN[0]]).ok == 0


def test_after_a_restart_the_kernel_begins_with_what_was_reached(host: Host) -> None:
    assert host.connect(SPAMMER, 7, to=FAN[:7]).ok == 7
    wait_for(lambda: count_kept(host.lab.directory / "state.db", SPAMMER[1]) == 7)  # saved once a second
    host.stop(signal.SIGKILL)
    host.start()
    reached, _ = reach(host, SPAMMER)
    assert len(reached | set(FAN[:7])) == LIMIT
    # What was not saved yet is one window's worth at most; a verdict is, and the kernel goes on refusing.
    assert host.connect(INNOCENT, 7, to=FAN[:7]).ok == 7
    wait_for(lambda: str(SPAMMER[1]) in host.nft("list", "set", "inet", "smtpguard", "blocked"))
    host.stop(signal.SIGKILL)
    assert host.connect(SPAMMER, 3, to=sorted(reached)[:3]).ok == 0
    host.start()
    again, _ = reach(host, INNOCENT)
    assert LIMIT <= len(again | set(FAN[:7])) <= LIMIT + 7
    assert host.connect(SPAMMER, 3, to=sorted(reached)[:3]).ok == 0


@pytest.mark.parametrize("order", ["unblock", "allow"])
def test_after_a_persons_word_the_window_is_empty(host: Host, order: str) -> None:
    def fan(first: int) -> Sequence[str]:
        return FAN[first : first + LIMIT + 1]

    assert host.connect(SPAMMER, LIMIT + 1, to=fan(0)).ok == LIMIT
    if order == "allow":
        assert host.cli("allow", SPAMMER[0], "--for", "1h", "--everything").returncode == 0
        assert host.connect(SPAMMER, 50, to=FAN[:50]).ok == 50
        assert host.cli("allow", SPAMMER[0], "--end").returncode == 0
    else:
        assert host.cli("unblock", SPAMMER[0]).returncode == 0
    assert host.connect(SPAMMER, LIMIT + 1, to=fan(100)).ok == LIMIT
