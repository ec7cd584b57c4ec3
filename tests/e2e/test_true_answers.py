"""What an answer says is so: where the kernel does not do what was asked for, it says that, and exits with 1."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bpf_links import detach_all
from tests.support.broken_host import broken_host, status
from tests.support.host import INNOCENT, SPAMMER, Host, wait_for
from tests.support.processes import wait_for_child

TRIED_AGAIN_S = 30
"""What fails is tried again after a pause that grows with the time for which it was broken: ten seconds at most."""


@pytest.fixture
def host() -> Iterator[Host]:
    with broken_host() as made:
        yield made


def break_it(host: Host, name: str) -> Path:
    path = host.lab.directory / name
    path.touch()
    return path


def find_part(host: Host, name: str) -> int:
    assert host.daemon is not None
    return wait_for_child(host.daemon.pid, name)


def test_a_configuration_that_check_calls_ok_starts() -> None:
    with Host() as host:
        control = {"socket": f"{host.lab.directory}/control.sock", "group": "no-such-group"}
        host.configure(control=control, log={"path": "/proc/nothing-here/events.log"})
        host.expect_errors("^only root may use the control socket", "^events are not logged, the guard goes on")
        assert host.cli("check").returncode == 0
        host.start()
        told = status(host)["troubles"]
        assert any(text.startswith("only root may use the control socket: control.group: there is no") for text in told)
        assert any("the event log can't be written: " in text for text in told)


def test_a_reload_that_the_kernel_does_not_carry_out_fails_and_says_so(host: Host) -> None:
    host.expect_errors("^nft: ensure is broken", "^Loaded.*does not carry it out: nft: ensure is broken")
    broken = break_it(host, "ensure")
    host.configure(ports=[25, 26])
    done = host.cli("reload")
    assert done.returncode == 1
    assert "Loaded. Changed: ports" in done.stderr
    assert "But the kernel does not carry it out: nft: ensure is broken" in done.stderr
    broken.unlink()
    wait_for(host.is_ready)
    assert "26" in host.nft("list", "set", "inet", "smtpguard", "ports")
    assert host.cli("reload").returncode == 0


def test_a_compiler_that_was_killed_has_a_successor_before_anybody_notices(host: Host) -> None:
    os.kill(find_part(host, "sg-nft-compile"), signal.SIGKILL)
    host.configure(ports=[25, 26])
    done = host.cli("reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert "26" in host.nft("list", "set", "inet", "smtpguard", "ports")


def test_a_compiler_that_stands_still_holds_up_nobody(host: Host) -> None:
    """SIGSTOP, by root alone: the answer is waited for beside the loop, for a second."""
    child = find_part(host, "sg-nft-compile")
    os.kill(child, signal.SIGSTOP)
    before = status(host)["worst_stall_ms"]
    host.configure(ports=[25, 26])
    done = host.cli("reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert "26" in host.nft("list", "set", "inet", "smtpguard", "ports")
    assert "the process that compiles rulesets is gone: timed out: another one takes its place" in host.stderr()
    wait_for(lambda: not Path(f"/proc/{child}").exists())
    assert status(host)["worst_stall_ms"] < max(before, 900)


def test_a_thread_that_fails_is_a_trouble_and_goes_on(host: Host) -> None:
    host.expect_errors("^the part thread event-log has failed .* RuntimeError: write is broken")
    broken = break_it(host, "write")
    host.connect(SPAMMER, 1)
    lost = "the thread event-log has failed: RuntimeError: write is broken: events may not have been written"
    wait_for(lambda: any(text.startswith(lost) for text in status(host)["troubles"]))
    assert lost in host.cli("status").stdout
    broken.unlink()
    host.connect(SPAMMER, 1)
    wait_for(lambda: host.events("CONNECT"))


def test_a_moment_without_threads_leaves_nothing_behind(host: Host) -> None:
    """As where a tenant has used up all processes: a source that dies in it is back, and the next reload is read."""
    assert host.lab.cgroup is not None
    host.expect_errors("^sessions does not do what it is told: no thread can be", "^source bpf has died: .*detached")
    rule = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "30m"}
    host.configure(rules=[rule])
    assert host.cli("reload").returncode == 0
    broken = break_it(host, "threads")
    assert detach_all(Path(host.lab.cgroup).stat().st_ino)
    wait_for(lambda: "source bpf is back" in host.stderr() and host.is_ready())
    host.is_ready()  # a second answer: limits are in force anew by the end of the turn that said so first
    assert host.connect(SPAMMER, 10).refused == 5
    for words in (("reload",), ("why", SPAMMER[0])):
        done = host.cli(*words)
        assert (done.returncode, "no thread can be started now" in done.stderr) == (1, True), done
    wait_for(lambda: any("no thread can be started now" in text for text in status(host)["troubles"]))
    broken.unlink()
    wait_for(lambda: not status(host)["troubles"], TRIED_AGAIN_S)
    for words in (("reload",), ("why", SPAMMER[0])):
        assert host.cli(*words).returncode == 0


def find_spare(server: int) -> int:
    return wait_for_child(server, "sg-look-spare")


def test_helpers_that_are_gone_have_successors_or_are_a_trouble(host: Host) -> None:
    assert host.daemon is not None
    server = find_part(host, "sg-look-server")
    spare = find_spare(server)
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: "the fork-server has ended: its spare has taken its place" in host.stderr())
    assert status(host)["troubles"] == []
    second = find_spare(spare)
    host.expect_errors("^processes are not looked at any more: the fork-server has ended")
    host.daemon.send_signal(signal.SIGSTOP)
    os.kill(second, signal.SIGKILL)
    os.kill(spare, signal.SIGKILL)
    host.daemon.send_signal(signal.SIGCONT)
    told = "processes are not looked at: the fork-server has ended; restart the guard"
    wait_for(lambda: told in status(host)["troubles"])
    assert host.is_ready(), "it is not on the way of a verdict"


def test_off_says_when_the_table_can_not_be_taken_away(host: Host) -> None:
    host.expect_errors("^nft: remove is broken")
    broken = break_it(host, "remove")
    done = host.cli("off")
    assert done.returncode == 1
    assert "But the nft table can't be removed, and may still refuse: remove is broken" in done.stderr
    assert any(text.startswith("MAY STILL REFUSE") for text in status(host)["troubles"])
    broken.unlink()
    wait_for(lambda: "smtpguard" not in host.nft("list", "tables"))
    wait_for(lambda: len(status(host)["troubles"]) == 1)


def test_unblock_says_when_the_kernel_does_not_let_go(host: Host) -> None:
    host.expect_errors("^nft does not do what it is told: release is broken")
    assert host.cli("block", SPAMMER[0]).returncode == 0
    broken = break_it(host, "release")
    done = host.cli("unblock", SPAMMER[0])
    assert done.returncode == 1
    assert "web01 may still be refused by the kernel: nft: " in done.stderr
    broken.unlink()
    wait_for(lambda: not status(host)["troubles"], TRIED_AGAIN_S)
    assert host.connect(SPAMMER, 1).ok == 1


def test_unblock_says_when_a_stranger_s_element_can_not_be_taken_out(host: Host) -> None:
    host.expect_errors("^nft: clear is broken")
    assert host.cli("block", INNOCENT[0]).returncode == 0  # so that the table is watched, and there
    broken = break_it(host, "clear")
    told = "may still be refused by the kernel: nft: who is not listed may be refused: clear is broken"
    for who in ([SPAMMER[0]], ["--all"]):
        done = host.cli("unblock", *who)
        assert done.returncode == 1
        assert told in done.stderr
    broken.unlink()
    wait_for(lambda: not status(host)["troubles"], TRIED_AGAIN_S)
    assert host.cli("unblock", SPAMMER[0]).returncode == 0


def test_allow_says_when_the_kernel_does_not_let_pass(host: Host) -> None:
    host.expect_errors("^nft does not do what it is told: passes is broken")
    assert host.cli("block", INNOCENT[0]).returncode == 0
    broken = break_it(host, "passes")
    done = host.cli("allow", SPAMMER[0], "--for", "1h")
    assert done.returncode == 1
    assert "web01 may open 10 times the connections that each rule allows" in done.stderr
    assert "But the kernel does not carry it out yet: nft: passes is broken" in done.stderr
    broken.unlink()
    wait_for(lambda: not status(host)["troubles"], TRIED_AGAIN_S)
    broken.touch()
    done = host.cli("allow", SPAMMER[0], "--end")
    assert done.returncode == 1
    assert (
        "Allowance of web01 removed. Normal limits apply now. But the kernel does not carry it out yet" in done.stderr
    )
    broken.unlink()
    wait_for(lambda: not status(host)["troubles"], TRIED_AGAIN_S)


def test_a_cap_that_is_not_kept_up_is_a_trouble(host: Host) -> None:
    host.expect_errors("^nft: the cap ends within ten seconds: beat is broken")
    broken = break_it(host, "beat")
    wait_for(lambda: "OUT OF SYNC: nft: the cap does not hold: beat is broken" in status(host)["troubles"])
    broken.unlink()
    wait_for(lambda: not status(host)["troubles"], TRIED_AGAIN_S)
