"""What survives what: counting over a restart, passes, the panic switch, reloads; and what a refused sender is told."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from tests.support.host import CLIENT, INNOCENT, OTHER, SPAMMER, Host, wait_for
from tests.support.past import count_kept

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 30, "window": "10m", "action": "block", "block": "30m"}
CALM = {"blocks": 100, "per": "10m"}


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(rules=[RULE], breaker=CALM) as made:
        made.start()
        yield made


def refused(host: Host) -> bool:
    return host.connect(SPAMMER).refused == 1


def test_sigkill_loses_no_more_than_a_second_of_counting(host: Host) -> None:
    assert host.connect(SPAMMER, 20).ok == 20
    wait_for(lambda: count_kept(host.lab.directory / "state.db", SPAMMER[1]) == 20, 3)  # saved once a second
    host.stop(signal.SIGKILL)
    host.start()
    again = host.connect(SPAMMER, 30)
    assert (again.ok, again.refused) == (10, 20), "20 of 30 were counted before"


def test_a_clean_stop_loses_no_counting(host: Host) -> None:
    assert host.connect(SPAMMER, 20).ok == 20
    host.stop()
    host.start()
    again = host.connect(SPAMMER, 30)
    assert (again.ok, again.refused) == (10, 20), "20 of 30 were counted before"


def test_off_lifts_everything_survives_a_restart_and_on_puts_it_back(host: Host) -> None:
    assert host.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
    done = host.cli("off")
    assert done.returncode == 0, done.stderr
    assert host.nft("list", "ruleset") == ""
    assert not refused(host)
    assert host.connect(INNOCENT, 60).refused == 0, "no limit holds"
    shown = host.cli("status")
    assert "OFF" in shown.stdout.splitlines()[0]
    assert shown.returncode == 0
    host.stop(signal.SIGKILL)
    host.start()
    assert not refused(host)
    assert "OFF" in host.cli("status").stdout
    assert host.cli("on").returncode == 0
    assert refused(host)
    assert "OFF" not in host.cli("status").stdout


def test_off_for_a_time_ends_by_itself(host: Host) -> None:
    assert host.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
    begun = time.monotonic()
    assert host.cli("off", "--for", "2s").returncode == 0
    assert not refused(host) or time.monotonic() > begun + 2
    wait_for(lambda: refused(host), 6)


def test_a_pass_frees_survives_ends_and_shows(host: Host) -> None:
    host.connect(SPAMMER, 40)
    assert refused(host)
    done = host.cli("allow", SPAMMER[0], "--for", "1h", "--reason", "newsletter")
    assert done.returncode == 0, done.stderr
    assert host.connect(SPAMMER, 100).refused == 0
    rows = host.cli("blocks").stdout
    assert re.search(r"web01 +61101 +allow .*newsletter", rows)
    host.stop(signal.SIGKILL)
    host.start()
    assert host.connect(SPAMMER, 50).refused == 0
    assert host.cli("allow", SPAMMER[0], "--end").returncode == 0
    assert host.connect(SPAMMER, 60).refused >= 26
    assert any(row["BY"] == "admin" for row in host.events("ALLOW"))


def test_a_pass_ends_by_itself(host: Host) -> None:
    begun = time.monotonic()
    assert host.cli("allow", SPAMMER[0], "--for", "2s").returncode == 0
    assert host.connect(SPAMMER, 60).refused == 0 or time.monotonic() > begun + 2
    wait_for(lambda: "web01" not in host.cli("blocks").stdout, 6)
    assert host.connect(SPAMMER, 60).refused >= 26


def test_a_bad_reload_changes_nothing_and_says_so(host: Host) -> None:
    host.expect_errors("unknown key 'nonsense'.*The old configuration stays active")
    good = Path(host.config).read_text()
    Path(host.config).write_text(good + "nonsense: 1\n")
    done = host.cli("reload")
    assert done.returncode == 78
    assert "nonsense" in done.stderr
    host.stop_signal(signal.SIGHUP)
    wait_for(lambda: "The old configuration stays active" in host.stderr())
    assert host.cli("blocks").returncode == 0


def test_a_reload_that_exempts_frees_and_windows_go_on(host: Host) -> None:
    host.connect(SPAMMER, 40)
    assert host.connect(INNOCENT, 20).refused == 0
    assert refused(host)
    host.configure(exempt={"users": [SPAMMER[0]]})
    done = host.cli("reload")
    assert done.returncode == 0, done.stderr
    assert not refused(host)
    assert host.connect(SPAMMER, 40).refused == 0
    assert host.connect(INNOCENT, 30).ok == 10, "the 20 are still counted"


def test_a_reload_guards_other_ports() -> None:
    with Host(rules=[RULE], ports=[25], sources=["bpf"]) as host:
        host.start()
        for ports in ([25], [25, 587], [25]):
            host.configure(ports=ports)
            done = host.cli("reload")
            assert done.returncode == 0, done.stderr
            host.connect(INNOCENT, port=587)
        host.connect(INNOCENT)
        wait_for(lambda: any(row["PORT"] == "25" for row in host.events("CONNECT")))
        assert [row["PORT"] for row in host.events("CONNECT")] == ["587", "25"], "while it is guarded, and then only"


def test_a_reload_into_dry_run_lets_go(host: Host) -> None:
    host.connect(SPAMMER, 40)
    assert refused(host)
    host.configure(dry_run=True)
    assert host.cli("reload").returncode == 0
    assert not refused(host)
    wait_for(lambda: host.nft("list", "ruleset") == "")


def let_through(host: Host, children: Sequence[subprocess.Popen[str]], each: int) -> int:
    """How many connect() calls of some processes the program in the kernel let through: all others fail with EPERM.

    The verdict that follows refuses packets too, and ends what is open: also the connection of a process that was
    preempted between its connect() and its first packet, however long the guard waits (SETTLE_NS).
    """
    outcomes = [host.outcome(child) for child in children]
    through = sum(each - outcome.errors.get("EPERM", 0) for outcome in outcomes)
    assert sum(outcome.ok for outcome in outcomes) <= through
    return through


def test_six_processes_on_all_cpus_get_exactly_the_limit(host: Host) -> None:
    children = [host.begin(SPAMMER, 1000) for _ in range(6)]
    assert let_through(host, children, 1000) == 30
    wait_for(lambda: host.events("EXCEEDED"))
    wait_for(lambda: count_allowed(host) >= 30)  # a line may wait 50 ms for its process
    assert count_allowed(host) == 30, "the log says the same"


def count_allowed(host: Host) -> int:
    rows = [row for row in host.events("CONNECT") if row["USER"] == SPAMMER[0]]
    return sum(row["RESULT"] == "allowed" for row in rows)


def test_exact_again_after_the_window_has_slid() -> None:
    rule = {"name": "slow", "count": "connections", "limit": 30, "window": "3s", "action": "throttle"}
    with Host(rules=[rule]) as host:
        host.start()
        for again in (False, True):
            if again:
                time.sleep(3)
                wait_for(lambda: not ask(f"{host.lab.directory}/control.sock", "blocks")["items"])
            begun = time.monotonic()
            children = [host.begin(SPAMMER, 300) for _ in range(3)]
            passed = let_through(host, children, 300)
            if time.monotonic() - begun < 2.5:
                assert passed == 30


def test_a_stopped_daemon_refuses_nobody_after_two_seconds(host: Host) -> None:
    assert host.daemon is not None
    host.stop_signal(signal.SIGSTOP)
    try:
        time.sleep(2.5)
        assert host.connect(OTHER, 100).refused == 0
    finally:
        host.stop_signal(signal.SIGCONT)


def test_block_by_number_and_sources_apart(host: Host) -> None:
    now = str(int(time.time()))
    words = ["block", "--source", "fail2ban:a", "--uid", str(SPAMMER[1]), "--at", now, "--for", "60", "--", SPAMMER[0]]
    assert host.cli(*words).returncode == 0
    assert host.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
    unban = ["unblock", "--source", "fail2ban:a", "--uid", str(SPAMMER[1]), "--", SPAMMER[0]]
    assert host.cli(*unban).returncode == 0
    assert refused(host), "the person's block stands"
    assert host.cli(*unban).returncode == 0, "nothing to end is fine"
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    assert not refused(host)
    wrong = ["block", "--source", "fail2ban:a", "--uid", str(SPAMMER[1]), "--at", now, "--for", "60", "--", INNOCENT[0]]
    assert host.cli(*wrong).returncode == 1, "the number is somebody else's"


def test_root_is_never_blocked_and_exempt_needs_force() -> None:
    with Host(rules=[RULE], exempt={"users": [OTHER[0]]}) as host:
        host.start()
        assert host.cli("block", "root").returncode == 1
        assert host.cli("block", "root", "--force").returncode == 1
        assert host.cli("block", OTHER[0]).returncode == 1
        assert host.cli("block", OTHER[0], "--force").returncode == 0
        assert host.connect(OTHER).refused == 1
        assert host.cli("block", "nobody-of-that-name").returncode == 1


def test_unblock_works_without_a_daemon(host: Host) -> None:
    assert host.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
    host.stop(signal.SIGKILL)
    assert refused(host)
    done = host.cli("unblock", SPAMMER[0])
    assert done.returncode == 0, done.stderr
    assert not refused(host)
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    host.start()
    assert not refused(host), "it is not restored"


def test_tell_says_why_to_the_sender() -> None:
    with Host(rules=[RULE], block={"verdict": "tell"}) as host:
        host.start()
        assert host.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
        program = (
            "import os, smtplib, sys\n"
            "import encodings.idna\n"
            f"os.setgid({SPAMMER[1]}); os.setuid({SPAMMER[1]})\n"
            "try:\n"
            f"    smtplib.SMTP('{PEER4}', 25, local_hostname='x', timeout=5)\n"
            "except smtplib.SMTPConnectError as error:\n"
            "    print(error.smtp_code, error.smtp_error)\n"
        )
        done = host.lab.run([sys.executable, "-c", program], inside=True)
        assert done.stdout.startswith("421 "), done.stderr
        assert "web01" in done.stdout
        assert "refused until" in done.stdout
        assert host.connect(SPAMMER, port=465).refused == 1, "a client of 465 would not understand"


def test_several_sources_count_one_connection_once() -> None:
    with Host(rules=[RULE], breaker=CALM, sources=["bpf", "nflog", "proc"]) as host:
        host.start()
        assert host.connect(SPAMMER, 20, 100).ok == 20
        time.sleep(1.5)
        assert host.connect(SPAMMER, 5, 100).ok == 5, "20 were 20, not 60"
        wait_for(lambda: len(host.events("CONNECT")) >= 25)  # a line may wait 50 ms for its process
        rows = [row for row in host.events("CONNECT") if row["USER"] == SPAMMER[0]]
        assert len(rows) == 25
        assert {row["SENSOR"] for row in rows} == {"bpf"}
        shown = host.cli("status", "-v").stdout
        assert "source bpf leads: 25 seen" in shown
        assert re.search(r"source nflog beside: 2[5-9] seen", shown), "its self-test may be among them"


def test_what_only_the_second_source_sees_counts_and_is_labelled() -> None:
    with Host(rules=[RULE], breaker=CALM, sources=["bpf", "nflog"]) as host:
        host.start()
        # Outside the guarded cgroup bpf sees nothing; nflog sees the packets all the same.
        words = [*CLIENT, "connect", "--uid", str(SPAMMER[1]), "--count", "40", "--rate", "100", PEER4]
        host.lab.run(words, inside=False)
        verdict = wait_for(lambda: host.events("EXCEEDED"))[0]
        assert (verdict["SENSOR"], verdict["COUNT"]) == ("nflog", "31")
