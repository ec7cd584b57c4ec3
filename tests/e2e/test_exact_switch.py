"""Limits of the assembled daemon begin with all that was attempted before: at a reload, and when an allowance ends.

Each time more waits in the ring than one look at it takes: two floods, and behind them what the user did.
"""

import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

LIMIT = 10
BEFORE = 6
BOTH = ["networks", pytest.param("connections", marks=pytest.mark.long)]
FAN = [f"198.18.{number}.1" for number in range(40)]


def rules(count: str, **changes: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - YAML values
    rule = {"name": "fanout", "count": count, "limit": LIMIT, "window": "1h", "action": "block", "block": "1h"}
    return [{**rule, "ports": [25], **changes}]


def fill_the_ring(host: Host) -> None:
    """Attempts of two others that nobody reads: to another port, and more than the daemon takes in one go."""
    floods = [host.begin(user, 1900, port=587, to=[PEER4]) for user in (OTHER, INNOCENT)]
    assert [host.outcome(flood).ok for flood in floods] == [1900, 1900]


class Reloading(threading.Thread):
    """Asks for a reload, more patiently than the command: how long the daemon is stopped is the machine's business."""

    def __init__(self, host: Host) -> None:
        super().__init__(daemon=True)
        self._socket = f"{host.lab.directory}/control.sock"
        self.said: Any = None

    def run(self) -> None:
        self.said = ask(self._socket, "reload", timeout_s=60)


def begin_reload(host: Host, before: Mapping[str, Any], after: Mapping[str, Any]) -> Reloading:
    """Ask for a reload, and stop the daemon while the file is read; if it was quicker than we are, once more."""
    while True:
        host.configure(**after)
        asked = host.stderr().count("reload asked")
        reloading = Reloading(host)
        reloading.start()
        wait_for(lambda asked=asked: host.stderr().count("reload asked") > asked)  # type: ignore[misc]
        host.stop_signal(signal.SIGSTOP)
        reloading.join(0.1)
        if reloading.said is None:
            return reloading
        host.stop_signal(signal.SIGCONT)
        host.configure(**before)
        assert host.cli("reload").returncode == 0


def end_reload(host: Host, reloading: Reloading) -> None:
    time.sleep(1)  # it is read meanwhile
    host.stop_signal(signal.SIGCONT)
    reloading.join(60)
    assert reloading.said["text"].startswith("Loaded. "), reloading.said


def passed(host: Host, to: Sequence[str]) -> int:
    return host.connect(SPAMMER, len(to), to=to).ok


def count_ended(host: Host) -> int:
    """Allowances that are over."""
    return [row["REASON"] for row in host.events("ALLOW")].count("ended")


def pass_while_allowed(host: Host) -> tuple[float, int]:
    """Give an allowance of two seconds, and use it; from when on it is over, by the monotonic clock.

    And how many were over before it: it may be over itself before the test goes on.
    """
    while True:
        before, begun = count_ended(host), time.monotonic()
        assert host.cli("allow", SPAMMER[0], "--for", "2s", "--everything").returncode == 0
        over = time.monotonic() + 2.2
        let_through = passed(host, FAN[:20])
        if time.monotonic() < begun + 1.9:
            assert let_through == 20
            return over, before
        wait_for(lambda before=before: count_ended(host) > before)  # type: ignore[misc]
        assert host.cli("unblock", SPAMMER[0]).returncode == 0


def expect_unread_to_count(host: Host, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """What the user attempts while a reload waits counts once it is carried out."""
    reloading = begin_reload(host, before, after)
    fill_the_ring(host)
    assert passed(host, FAN[:BEFORE]) == BEFORE
    end_reload(host, reloading)
    assert passed(host, FAN[BEFORE : BEFORE + LIMIT]) == LIMIT - BEFORE
    wait_for(lambda: host.events("BLOCK"))


@pytest.mark.parametrize("count", BOTH)
def test_what_a_dry_run_has_not_read_yet_counts_when_it_ends(count: str) -> None:
    with Host(sources=["bpf"], rules=rules(count), dry_run=True) as host:
        host.start()
        expect_unread_to_count(host, {"dry_run": True}, {"dry_run": False})


@pytest.mark.long
@pytest.mark.parametrize("count", ["networks", "connections"])
def test_what_other_rules_have_not_read_yet_counts_for_the_new_ones(count: str) -> None:
    before = rules(count, limit=LIMIT * 3)
    with Host(sources=["bpf"], rules=before) as host:
        host.start()
        expect_unread_to_count(host, {"rules": before}, {"rules": rules(count)})


@pytest.mark.parametrize("count", BOTH)
def test_what_was_done_under_an_allowance_and_is_not_read_yet_does_not_count(count: str) -> None:
    with Host(sources=["bpf"], rules=rules(count)) as host:
        host.start()
        assert host.cli("allow", SPAMMER[0], "--for", "1h", "--everything").returncode == 0
        host.stop_signal(signal.SIGSTOP)
        fill_the_ring(host)
        assert passed(host, FAN[:20]) == 20
        child = host.begin_cli("allow", SPAMMER[0], "--end")
        time.sleep(0.5)  # it is asked for
        host.stop_signal(signal.SIGCONT)
        text, _ = child.communicate(timeout=60)
        assert child.returncode == 0, text
        assert passed(host, FAN[20:32]) == LIMIT
        wait_for(lambda: host.events("BLOCK"))


@pytest.mark.parametrize("count", BOTH)
def test_what_is_done_after_the_end_of_an_allowance_counts_though_nobody_has_heard_of_it(count: str) -> None:
    with Host(sources=["bpf"], rules=rules(count)) as host:
        host.start()
        over, before = pass_while_allowed(host)
        host.stop_signal(signal.SIGSTOP)
        fill_the_ring(host)
        time.sleep(max(0, over - time.monotonic()))
        assert passed(host, FAN[20 : 20 + BEFORE]) == BEFORE
        host.stop_signal(signal.SIGCONT)
        wait_for(lambda: count_ended(host) > before)
        assert passed(host, FAN[20 + BEFORE : 40]) == LIMIT - BEFORE
        wait_for(lambda: host.events("BLOCK"))
