"""A part of the running guard that raises: the daemon goes on, says so, and takes it up again."""

import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.broken_host import broken_host, status
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for


@pytest.fixture
def host() -> Iterator[Host]:
    with broken_host() as made:
        yield made


def failures(host: Host, part: str) -> int:
    count = status(host)["part_failures"].get(part, 0)
    assert isinstance(count, int)
    return count


def test_a_part_that_raises_is_told_and_taken_up_again_and_everything_else_goes_on(host: Host) -> None:
    host.expect_errors("^the part journal has failed .* RuntimeError: journal is broken")
    broken = host.lab.directory / "journal"
    broken.touch()
    wait_for(lambda: failures(host, "journal") >= 3)
    found = status(host)
    assert found["ready"], "it is not on the way of a verdict"
    assert any("the part journal fails: RuntimeError: journal is broken" in text for text in found["troubles"])
    assert host.connect(SPAMMER, 8).refused == 3
    shown = host.cli("status")
    assert shown.returncode == 0
    assert "the part journal fails" in shown.stdout
    broken.unlink()
    wait_for(lambda: not status(host)["troubles"], 30)  # it rests for as long as it was broken, and is well after that
    assert failures(host, "journal") >= 3
    wait_for(lambda: [row for row in host.events("EXCEEDED") if row["USER"] == SPAMMER[0]])
    assert host.stderr().count("Traceback (most recent call last)") == 1, "the same error is traced once"


def test_while_attempts_cannot_be_judged_status_says_so_and_nobody_is_refused_for_ever(host: Host) -> None:
    host.expect_errors("^the part sources has failed .* RuntimeError: feed is broken")
    assert host.connect(OTHER, 8).refused == 3
    broken = host.lab.directory / "feed"
    broken.touch()

    def knock() -> bool:  # a part that was not asked for a second is well again
        host.connect(INNOCENT, 1)
        if failures(host, "sources") < 3 or host.cli("status").returncode != 3:
            return False
        host.connect(INNOCENT, 1)
        return any("the part sources fails" in text for text in status(host)["troubles"])

    wait_for(knock)
    assert host.connect(INNOCENT, 8).refused == 0, "credits that nobody gives back"
    assert host.connect(OTHER, 3).refused == 3, "who is blocked stays blocked"
    broken.unlink()
    wait_for(host.is_ready)
    assert host.is_ready()  # limits are in force anew by the end of the turn that said so first
    passed = host.connect(SPAMMER, 20)
    assert (passed.ok, passed.refused) == (5, 15), "exact again"


def test_a_thread_that_ends_by_a_mistake_is_told_and_counted(host: Host) -> None:
    host.expect_errors("^the part thread errand has failed .* RuntimeError: errand is broken")
    (host.lab.directory / "errand").touch()
    wait_for(lambda: failures(host, "thread errand"))
    assert host.is_ready()


def test_a_request_that_meets_a_mistake_is_answered(host: Host) -> None:
    host.expect_errors("^the part control has failed .* RuntimeError: blocks is broken")
    (host.lab.directory / "blocks").touch()
    shown = host.cli("blocks")
    assert shown.returncode == 1
    assert "blocks failed by a mistake of smtpguard's own: RuntimeError: blocks is broken" in shown.stderr
    assert failures(host, "control") == 1
    assert host.cli("status").returncode == 0


@pytest.mark.parametrize("end", ["cannot go on", "SIGKILL"])
def test_however_it_ends_no_refusal_without_an_end_is_left(host: Host, end: str) -> None:
    host.expect_errors("^the part engine has failed .* RuntimeError: tick is broken")
    host.expect_end()
    begun, span_s = time.monotonic(), 6 if end == "cannot go on" else 3
    assert host.cli("block", str(SPAMMER[1]), "--for", f"{span_s}s").returncode == 0
    assert host.connect(INNOCENT, 8).refused == 3, "refused by credits and a block"
    if end == "SIGKILL":
        # nftables hears of a verdict 20 ms after BPF; a kill before that leaves the block to the next start.
        wait_for(lambda: str(INNOCENT[1]) in host.nft("list", "set", "inet", "smtpguard", "blocked"))
        host.stop(signal.SIGKILL)
    else:
        (host.lab.directory / "tick").touch()
        assert host.daemon is not None
        assert host.daemon.wait(20) == 1
        assert re.search("the part engine fails since [0-9]+ s: RuntimeError: tick is broken", host.stderr())
    refused = host.connect(SPAMMER, 1).refused
    assert refused or time.monotonic() > begun + span_s, "by the set, whose elements have their time"
    wait_for(lambda: host.connect(SPAMMER, 1).ok == 1, 20)
    assert "expires" in host.nft("list", "set", "inet", "smtpguard", "blocked"), "the block of 30 min"
    assert host.connect(OTHER, 8).refused == 0, "no credits without a daemon"
