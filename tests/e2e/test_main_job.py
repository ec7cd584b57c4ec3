"""The main job, end to end: the real daemon, kernel, nftables and BPF; tenants' real connections."""

import re
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import HOST4, HOST6, PEER4, PEER6
from tests.support import many_uids
from tests.support.host import INNOCENT, OTHER, PATIENCE, POSTFIX, ROOT, SHARED, SMTPGUARD, SPAMMER, Host, wait_for
from tests.support.past import count_blocks
from tests.support.standstill import Standstill
from tests.support.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 30, "window": "10m", "action": "block", "block": "30m"}
LEAK = 4
EXEMPT = "198.18.77.7"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(rules=[RULE], exempt={"destinations": [EXEMPT]}, breaker={"blocks": 100, "per": "10m"}) as made:
        made.start()
        yield made


@pytest.fixture
def freed(host: Host) -> Host:
    for user in (SPAMMER, INNOCENT, OTHER, SHARED):
        assert host.cli("unblock", user[0]).returncode == 0
    return host


def blocked(host: Host) -> bool:
    return "61101" in host.nft("list", "set", "inet", "smtpguard", "blocked")


def test_the_offender_is_stopped_and_nobody_else(freed: Host) -> None:
    session = freed.session(SPAMMER)
    others = [freed.begin(user, 25, 40) for user in (INNOCENT, OTHER)]
    unstoppable = [freed.begin(user, 60, 100) for user in (ROOT, POSTFIX, SHARED)]
    spam = freed.connect(SPAMMER, 200, 1000)
    passed = spam.ok + 1  # the open session counts
    assert 30 <= passed <= 30 + LEAK
    assert spam.refused == 200 - spam.ok
    assert spam.first_refused is not None
    assert spam.first_refused <= 30 + LEAK
    assert session.communicate(timeout=5)[0].startswith("reset ECONN")
    for child in (*others, *unstoppable):
        assert freed.outcome(child).refused == 0
    verdicts = wait_for(lambda: [row for row in freed.events("EXCEEDED") if row["USER"] == SPAMMER[0]])
    assert verdicts[-1]["COUNT"] == "31"
    assert (verdicts[-1]["ACTION"], verdicts[-1]["MODE"], verdicts[-1]["LIMIT"]) == ("block", "enforce", "30")
    assert {row["USER"] for row in freed.events("BLOCK") if row["MODE"] == "enforce"} == {SPAMMER[0]}
    shared = wait_for(lambda: [row for row in freed.events("EXCEEDED") if row["USER"] == SHARED[0]])
    assert [row["MODE"] for row in shared] == ["dry-run"], "a shared user is told about, not refused"


def test_at_full_speed(freed: Host) -> None:
    spam = freed.connect(SPAMMER, 3000)
    print(f"at full speed {spam.ok} of 3000 came through a limit of 30")
    assert spam.ok >= 30
    assert spam.refused >= 2000, "stopped while it ran"


@pytest.mark.parametrize("to", [PEER4, PEER6, f"::ffff:{PEER4}"])
def test_every_family_is_refused(freed: Host, to: str) -> None:
    assert freed.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
    outcome = freed.connect(SPAMMER, 3, to=(to,))
    assert (outcome.ok, outcome.refused) == (0, 3)
    assert freed.connect(INNOCENT, 3, to=(to,)).refused == 0


def test_exempt_own_and_loopback_pass_for_the_blocked_too(freed: Host) -> None:
    assert freed.cli("block", SPAMMER[0]).returncode == 0
    sink = freed.lab.start([sys.executable, "-m", "smtpguard.demo.sink", "25"])
    assert sink.stdout is not None
    sink.stdout.readline()
    outcome = freed.connect(SPAMMER, 10, to=(EXEMPT, HOST4, HOST6, "127.0.0.1", "::1"))
    sink.terminate()
    assert (outcome.ok, outcome.refused) == (10, 0)
    assert freed.connect(SPAMMER, 2, to=(PEER4,)).refused == 2


def test_other_ports_are_nobodys_business(freed: Host) -> None:
    assert freed.cli("block", SPAMMER[0]).returncode == 0
    assert freed.connect(SPAMMER, 5, port=80).ok == 5


def test_a_block_ends_by_itself(freed: Host) -> None:
    begun = time.monotonic()
    assert freed.cli("block", SPAMMER[0], "--for", "2s").returncode == 0
    assert freed.connect(SPAMMER).refused == 1 or time.monotonic() > begun + 2
    wait_for(lambda: freed.connect(SPAMMER).ok == 1)
    assert not blocked(freed)
    wait_for(lambda: any(r["USER"] == SPAMMER[0] and r["BY"] == "time" for r in freed.events("UNBLOCK")))


def test_unblock_frees_at_once_and_from_empty_windows(freed: Host) -> None:
    freed.connect(SPAMMER, 40)
    wait_for(lambda: blocked(freed))
    done = freed.cli("unblock", SPAMMER[0])
    assert done.returncode == 0, done.stderr
    assert not blocked(freed)
    assert freed.connect(SPAMMER, 30).refused == 0
    assert freed.connect(SPAMMER, 10).refused >= 10 - LEAK
    assert freed.cli("unblock", INNOCENT[0]).returncode == 0, "nobody to unblock is fine"


def test_a_thousand_subordinate_uids_count_as_one(freed: Host) -> None:
    words = [sys.executable, many_uids.__file__, "700000", "1000", PEER4, "25"]
    done = freed.lab.run(words, inside=True)
    assert done.returncode == 0, done.stderr
    assert 30 <= int(done.stdout) <= 30 + LEAK
    wait_for(lambda: blocked(freed))
    assert freed.connect(SPAMMER).refused == 1, "the owner is covered"
    assert freed.connect(("sub", 712345)).refused == 1, "the whole range is covered"


def test_a_throttle_passes_the_limit_and_leaves_open_sessions() -> None:
    rule = {"name": "slow", "count": "connections", "limit": 30, "window": "4s", "action": "throttle"}
    with Host(rules=[rule]) as host:
        host.start()
        session = host.session(SPAMMER, 3)
        spam = host.connect(SPAMMER, 200, 400)
        ended = time.monotonic()
        assert 30 <= spam.ok + 1 <= 30 + LEAK
        assert session.communicate(timeout=10)[0].strip() == "alive"
        time.sleep(max(0, ended + 4 - time.monotonic()))
        wait_for(lambda: not ask(f"{host.lab.directory}/control.sock", "blocks")["items"])
        again = host.connect(SPAMMER, 60, 400)
        assert 25 <= again.ok <= 30 + LEAK, "the window has slid"


def test_dry_run_changes_nothing_and_says_the_same() -> None:
    def verdicts(host: Host) -> list[tuple[str, ...]]:
        host.connect(SPAMMER, 80, 800)
        host.connect(INNOCENT, 20, 800, port=587)
        host.connect(SPAMMER, 10, 800, port=465)
        wait_for(lambda: len(host.events("EXCEEDED")) >= 3)
        fields = ("USER", "RULE", "COUNT", "LIMIT", "WINDOW", "ACTION", "BLOCK")
        return [tuple(row[name] for name in fields) for row in host.events("EXCEEDED")]

    rules = [RULE, {"name": "told", "count": "connections", "limit": 5, "window": "1h", "action": "warn"}]
    with Host(rules=rules) as host:
        host.start()
        enforced = verdicts(host)
    with Host(rules=rules) as host:
        before = host.nft("list", "ruleset")
        host.start("--dry-run")
        during = host.nft("list", "ruleset")
        spam = host.connect(INNOCENT, 100, 2000)
        assert spam.refused == 0
        host.stop()
        after = host.nft("list", "ruleset")
        assert before == during == after == ""
    with Host(rules=rules) as host:
        host.start("--dry-run")
        told = verdicts(host)
        assert host.nft("list", "ruleset") == ""
        assert {row["MODE"] for row in host.events("EXCEEDED")} == {"dry-run"}
        assert all(row["RESULT"] == "allowed" for row in host.events("CONNECT"))
    assert told == enforced
    assert len(told) >= 3


def test_sigkill_leaves_the_block_to_its_own_end_and_nothing_else() -> None:
    with Host(rules=[RULE]) as host:
        host.start()
        assert host.cli("block", SPAMMER[0], "--for", "4s").returncode == 0
        host.stop(signal.SIGKILL)
        assert host.connect(SPAMMER).refused == 1, "nft holds without us"
        assert host.cli("status").returncode == 3
        wait_for(lambda: host.connect(SPAMMER).ok == 1)
        host.start()
        assert host.connect(SPAMMER).ok == 1


def test_a_restart_keeps_blocks_and_their_end() -> None:
    with Host(rules=[RULE]) as host:
        host.start()
        host.connect(SPAMMER, 50)
        before = host.cli("blocks").stdout
        until = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", before)
        assert until is not None
        wait_for(lambda: count_blocks(host.lab.directory / "state.db") == 1)
        host.stop(signal.SIGKILL)
        host.nft("delete", "table", "inet", "smtpguard")
        assert host.connect(SPAMMER).ok == 1
        host.start()
        assert host.connect(SPAMMER).refused == 1
        assert until[0] in host.cli("blocks").stdout


def test_nft_remove_is_not_healed_and_ensure_puts_it_back(freed: Host) -> None:
    assert freed.cli("block", SPAMMER[0]).returncode == 0
    removed = freed.lab.run([*SMTPGUARD, "nft", "remove", "--config", freed.config])
    assert removed.returncode == 0, removed.stderr
    time.sleep(1.2)
    assert freed.nft("list", "ruleset") == ""
    shown = freed.cli("status")
    assert "nft remove" in shown.stdout
    assert freed.connect(SPAMMER).ok == 1, "nothing refuses any more, BPF neither"
    assert freed.lab.run([*SMTPGUARD, "nft", "ensure", "--config", freed.config]).returncode == 0
    wait_for(lambda: blocked(freed))
    assert freed.connect(SPAMMER).refused == 1


def test_a_second_daemon_on_the_same_table_is_refused(freed: Host) -> None:
    second = freed.lab.run([*SMTPGUARD, "run", "--config", freed.config])
    assert second.returncode == 1
    assert "another smtpguard" in second.stderr


HOLD_A_TERMINAL = """
import os, pty, sys, time
master, slave = pty.openpty()
if os.fork() == 0:
    os.close(slave)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.02)
    os.close(master)
    os.unlink(sys.argv[1])
    os._exit(0)
os.close(master)
os.dup2(slave, 0)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Its standard input is a terminal that goes when a file comes."""


def test_hang_up_reloads_and_ends_a_guard_whose_terminal_is_gone() -> None:
    with Host() as host:
        gone = host.lab.directory / "gone"
        daemon = host.start(command=[sys.executable, "-c", HOLD_A_TERMINAL, str(gone), *SMTPGUARD, "run"])
        host.stop_signal(signal.SIGHUP)
        wait_for(lambda: "Loaded." in host.stderr() or "othing has changed" in host.stderr())
        gone.touch()
        wait_for(lambda: not gone.exists())
        host.expect_end()
        host.stop_signal(signal.SIGHUP)
        assert daemon.wait(10 * PATIENCE) == 0


@pytest.mark.parametrize(
    "how",
    [["flush", "ruleset"], ["delete", "table", "inet", "smtpguard"], ["flush", "chain", "inet", "smtpguard", "output"]],
)
def test_a_lost_table_is_put_back_with_what_is_left_of_the_time(
    standstill: Standstill, freed: Host, how: list[str]
) -> None:
    def is_back() -> bool:
        ruleset = freed.nft("list", "ruleset")
        return "reject" in ruleset and "61101 timeout" in ruleset

    assert freed.cli("block", SPAMMER[0], "--for", "10m").returncode == 0

    def list_told() -> list[str]:
        return [line for line in freed.stderr()[before:].splitlines() if "It is back" in line]

    before = len(freed.stderr())
    freed.nft(*how)
    begun_s, stopwatch = time.time(), Stopwatch()
    wait_for(is_back)
    took = stopwatch.seconds()
    left = re.search(r"61101 timeout \S+ expires (\d+)m", freed.nft("list", "set", "inet", "smtpguard", "blocked"))
    assert left is not None
    assert int(left[1]) == 9
    (told,) = wait_for(list_told)
    assert "nft (pid" in told
    # Looking takes its time, too; the guard says when it was done.
    done_s = time.mktime(time.strptime(told[:19], "%Y-%m-%d %H:%M:%S")) + int(told[20:23]) / 1000
    assert min(took, done_s - begun_s) < 0.3 + standstill.worst_s()


def test_an_element_deleted_by_hand_is_a_wish_to_unblock(freed: Host) -> None:
    assert freed.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
    freed.nft("delete", "element", "inet", "smtpguard", "blocked", "{ 61101 }")
    wait_for(lambda: freed.connect(SPAMMER).ok == 1)
    assert "web01" not in freed.cli("blocks").stdout
    wait_for(lambda: any("nft" in row["REASON"] for row in freed.events("UNBLOCK") if row["USER"] == SPAMMER[0]))


def test_ready_within_two_seconds() -> None:
    with Host(rules=[RULE]) as host:
        began = time.monotonic()
        host.start()
        took = time.monotonic() - began
        print(f"ready after {took:.2f} s, Python's start included")
        assert took < 3 * 2
        assert host.cli("status").returncode == 0
