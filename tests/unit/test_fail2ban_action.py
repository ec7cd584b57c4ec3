"""Telling fail2ban: real programs in its place, driven as the daemon's loop drives it, with a clock of our own."""

import logging
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpguard.actions.fail2ban import TIMEOUT_NS, Unbanner, apply_unban, build_argv, is_installed, parse_jail
from smtpguard.errors import EnforceError
from smtpguard.model import NS
from tests.support.fail2ban import recording_stub

Make = Callable[[str], str]


class Clock:
    """CLOCK_BOOTTIME that stands still."""

    def __init__(self) -> None:
        self.now_ns = 5 * NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a program and returns its path."""

    def write(script: str) -> str:
        program = tmp_path / "client"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return str(program)

    return write


def drive(unbanner: Unbanner, clock: Clock) -> None:
    """What the loop does, until nothing is waiting or running."""
    until = time.monotonic() + 20
    while unbanner.stats()["waiting"]:
        assert time.monotonic() < until, "it does not end"
        ready, _, _ = select.select(unbanner.filenos(), [], [], 0.02)
        for fileno in ready:
            unbanner.on_ready(fileno)
        unbanner.on_time(clock())


@pytest.mark.parametrize(
    ("source", "jail"),
    [
        ("fail2ban:smtpguard", "smtpguard"),
        ("fail2ban:a.b_c-1", "a.b_c-1"),
        ("guard", None),
        ("admin", None),
        ("fleet", None),
        ("fail2ban:", None),
        ("fail2ban:a b", None),
        ("fail2ban:a\n", None),
        ("xfail2ban:a", None),
    ],
)
def test_jail_of_a_source(source: str, jail: str | None) -> None:
    assert parse_jail(source) == jail


def test_argv_is_fail2bans_own_command() -> None:
    assert build_argv("smtpguard", "web%20one") == ["fail2ban-client", "set", "smtpguard", "unbanip", "web%20one"]


@pytest.mark.parametrize(
    "user", ["", "-x", "--report-absent", "a b", "a/8", "10.0.0.0/8", "::1", "uid:", "uid:x", "a\n"]
)
def test_what_is_no_written_name_is_refused(user: str) -> None:
    """A network as a name would unban everybody in it."""
    with pytest.raises(EnforceError, match="can't be unbanned"):
        build_argv("smtpguard", user)


def test_one_call_for_each_jail_and_only_for_jails(tmp_path: Path) -> None:
    calls = recording_stub(tmp_path, "client")
    clock = Clock()
    unbanner = Unbanner(clock, program=str(tmp_path / "client"))
    accepted = unbanner.tell(["guard", "fail2ban:smtpguard", "admin", "fail2ban:smtpguard-connect"], "web01")
    assert accepted == 2
    assert unbanner.tell(["guard", "admin"], "web02") == 0
    drive(unbanner, clock)
    assert calls() == [
        ("set", "smtpguard", "unbanip", "web01"),
        ("set", "smtpguard-connect", "unbanip", "web01"),
    ]
    assert unbanner.stats() == {"told": 2, "failed": 0, "dropped": 0, "waiting": 0}
    assert unbanner.next_deadline() is None
    assert unbanner.filenos() == ()


def test_it_never_waits_for_the_client(make: Make) -> None:
    unbanner = Unbanner(Clock(), program=make("exec sleep 60"))
    began = time.monotonic()
    unbanner.tell(["fail2ban:smtpguard"], "web01")
    unbanner.on_time(0)
    assert time.monotonic() - began < 5
    assert unbanner.stats()["waiting"] == 1
    unbanner.close()


def test_client_that_hangs_is_ended_and_the_next_one_has_its_turn(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    program = make(f'echo $$ > {tmp_path}/pid; [ "$4" = web02 ] || exec sleep 60')
    unbanner = Unbanner(clock, program=program)
    unbanner.tell(["fail2ban:smtpguard"], "web01")
    unbanner.tell(["fail2ban:smtpguard"], "web02")
    assert unbanner.next_deadline() == 5 * NS + TIMEOUT_NS
    running = unbanner._running
    assert running is not None
    clock.now_ns += TIMEOUT_NS
    unbanner.on_time(clock())
    assert "still lists web01 as banned in smtpguard: no answer within" in (unbanner.trouble() or "")
    clock.now_ns += 3600 * NS
    assert unbanner.trouble() is None
    clock.now_ns -= 3600 * NS
    assert running.process.returncode == -9
    drive(unbanner, clock)
    assert unbanner.stats() == {"told": 1, "failed": 1, "dropped": 0, "waiting": 0}
    assert "still lists web01 as banned in smtpguard: no answer within 20 s" in caplog.text
    assert "fail2ban-client set smtpguard unbanip web01" in caplog.text


def test_client_that_closes_its_output_and_stays_is_ended_too(make: Make) -> None:
    clock = Clock()
    unbanner = Unbanner(clock, program=make("exec sleep 60 >&- 2>&-"))
    unbanner.tell(["fail2ban:smtpguard"], "web01")
    (fileno,) = unbanner.filenos()
    assert select.select([fileno], [], [], 10)[0]
    unbanner.on_ready(fileno)
    unbanner.on_time(clock())
    deadline = unbanner.next_deadline()
    assert deadline is not None
    assert deadline < clock() + NS
    assert unbanner.filenos() == ()
    clock.now_ns += TIMEOUT_NS
    unbanner.on_time(clock())
    assert unbanner.stats() == {"told": 0, "failed": 1, "dropped": 0, "waiting": 0}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'ERROR  Failed to access socket path: /x.  Is fail2ban running?' >&2; exit 255", "Is fail2ban running?"),
        ("exit 3", "exit code 3"),
        ("printf 'a\\033[31m\\342\\200\\250b\\n'; exit 1", r"a\x1b[31m\xe2\x80\xa8b"),
        ("head -c 100000 /dev/zero | tr '\\0' x; exit 1", "..."),
    ],
)
def test_failure_is_counted_and_said_in_safe_words(
    make: Make, caplog: pytest.LogCaptureFixture, script: str, said: str
) -> None:
    clock = Clock()
    unbanner = Unbanner(clock, program=make(script))
    unbanner.tell(["fail2ban:smtpguard"], "web01")
    drive(unbanner, clock)
    assert unbanner.stats()["failed"] == 1
    assert said in caplog.text
    assert len(caplog.text) < 1000
    with pytest.raises(EnforceError) as raised:
        apply_unban("smtpguard", "web01", program=make(script))
    assert said in str(raised.value)


def test_who_is_not_banned_any_more_is_no_failure(make: Make) -> None:
    clock = Clock()
    program = make("echo 'ERROR  NOK: (\"web01 is not banned\",)'; exit 255")
    unbanner = Unbanner(clock, program=program)
    unbanner.tell(["fail2ban:smtpguard"], "web01")
    drive(unbanner, clock)
    assert unbanner.stats()["told"] == 1
    apply_unban("smtpguard", "web01", program=program)


def test_without_fail2ban_it_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = str(tmp_path / "missing")
    unbanner = Unbanner(Clock(), program=missing)
    unbanner.tell(["fail2ban:smtpguard"], "web01")
    assert unbanner.stats() == {"told": 0, "failed": 1, "dropped": 0, "waiting": 0}
    assert "No such file" in caplog.text
    assert not is_installed(missing)
    with pytest.raises(EnforceError, match="No such file"):
        apply_unban("smtpguard", "web01", program=missing)


def test_synchronous_unban_has_a_time_limit(make: Make) -> None:
    with pytest.raises(EnforceError, match="no answer within 0 s"):
        apply_unban("smtpguard", "web01", program=make("exec sleep 60"), timeout_s=0.2)


def test_waiting_line_is_bounded_and_what_does_not_fit_is_named(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    unbanner = Unbanner(Clock(), program=make("exec sleep 60"), max_waiting=2)
    for number in range(5):
        unbanner.tell(["fail2ban:smtpguard"], f"web{number}")
    assert unbanner.stats() == {"told": 0, "failed": 0, "dropped": 2, "waiting": 3}
    assert "web3 as banned in smtpguard: too many are waiting" in caplog.text
    assert unbanner.tell(["fail2ban:smtpguard"], "web1") == 0, "who waits already need not wait twice"
    unbanner.close()
    assert unbanner.stats() == {"told": 0, "failed": 1, "dropped": 4, "waiting": 0}
    assert unbanner._running is None
    unbanner.close()


def test_client_gets_a_clean_environment(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/evil")
    monkeypatch.setenv("LD_PRELOAD", "")
    clock = Clock()
    unbanner = Unbanner(clock, program=make(f"env | cut -d= -f1 | sort > {tmp_path}/env"))
    unbanner.tell(["fail2ban:smtpguard"], "web01")
    drive(unbanner, clock)
    names = set((tmp_path / "env").read_text().split())
    assert names <= {"PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"}
    assert os.environ["PYTHONPATH"] == "/evil"


def test_success_is_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    unbanner = Unbanner(clock, program=make("exit 0"))
    unbanner.tell(["fail2ban:smtpguard"], "uid:3999")
    drive(unbanner, clock)
    assert "uid:3999 unbanned in smtpguard" in caplog.text
