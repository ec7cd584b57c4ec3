"""The filters, jails and action in a real fail2ban; `smtpguard` itself is a program that records its arguments.

What it does with those arguments in the kernel is the business of test_fail2ban_pass.py.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.support.fail2ban import START_S, Fail2ban, fail2ban_below, recording_stub
from tests.support.fail2ban_samples import Sample, read_samples
from tests.support.host import wait_for

Calls = Callable[[], list[Sequence[str]]]


def verdict(user: str, uid: int, *, mode: str = "enforce", at: datetime | None = None, proc: str = "php") -> str:
    """An EXCEEDED line as the daemon writes it now."""
    when = (at or datetime.now().astimezone()).isoformat(timespec="microseconds")
    return (
        f"{when} USER={user} UID={uid} EVENT=EXCEEDED RULE=mx-fanout COUNT=11 LIMIT=10 WINDOW=600 ACTION=block "
        f'BLOCK=1800 MODE={mode} PID=1 PORT=25 DST=192.0.2.1 SENSOR=bpf ATTR=live PROC="{proc}" EXE="-" CWD="-" '
        'SCRIPT="-" RDNS="-"'
    )


def connect(user: str, uid: int, result: str = "allowed") -> str:
    """A CONNECT line as the daemon writes it now."""
    when = datetime.now().astimezone().isoformat(timespec="microseconds")
    return (
        f"{when} USER={user} UID={uid} EVENT=CONNECT PID=1 PORT=25 DST=192.0.2.1 SENSOR=bpf RESULT={result} ATTR=live "
        'PROC="php" EXE="-" CWD="-" SCRIPT="-" RDNS="-"'
    )


@pytest.fixture
def server(tmp_path: Path) -> Fail2ban:
    """A server laid out, with a recording `smtpguard` on its path; not started."""
    instance = fail2ban_below(tmp_path / "fail2ban")
    instance.path_first = tmp_path / "bin"
    return instance


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """What `smtpguard` was called with, `exempt` left out."""
    recorded = recording_stub(tmp_path / "bin")
    return lambda: [call for call in recorded() if call[0] != "exempt"]


def found_by_regex(server: Fail2ban, samples: Sequence[Sample], filter_name: str) -> dict[str, tuple[str, str, float]]:
    """What fail2ban-regex finds: line to failure id, <F-UID> and time."""
    log = server.home / "samples.log"
    log.write_text("".join(f"{sample.line}\n" for sample in samples))
    done = server.run(
        "fail2ban-regex", "-c", str(server.conf), "-o", "<fid> <F-UID> <time> <msg>", str(log), filter_name
    )
    found = {}
    for row in done.stdout.splitlines():
        if re.fullmatch(r"\S+ \d+ \d+(\.\d+)? .*USER=.*", row):
            name, uid, when, line = row.split(" ", 3)
            assert line not in found, "matched twice"
            found[line] = (name, uid, float(when))
    return found


@pytest.mark.parametrize("name", ["smtpguard", "smtpguard-connect"])
def test_fail2ban_reads_the_samples_as_expected(server: Fail2ban, name: str) -> None:
    samples = list({sample.line: sample for sample in read_samples(name)}.values())
    found = found_by_regex(server, samples, f"{server.conf}/filter.d/{name}.conf")
    for sample in samples:
        if not sample.match:
            assert sample.line not in found
            continue
        user, uid, when = found[sample.line]
        assert (user, uid) == (sample.id, sample.uid)
        if sample.time is not None:
            assert when == pytest.approx(sample.time, abs=1)


def test_connections_refused_already_do_not_count_in_the_shipped_jail(server: Fail2ban) -> None:
    samples = read_samples("smtpguard-connect")
    found = found_by_regex(server, samples, 'smtpguard-connect[results="allowed|-"]')
    assert set(found) == {sample.line for sample in samples if sample.match and not sample.refused}


def test_configuration_is_accepted(server: Fail2ban) -> None:
    server.configure({"smtpguard-connect": {"enabled": "true"}})
    assert "configuration test is successful" in server.client("-t").stdout


def test_verdict_becomes_a_ban_and_an_unban(server: Fail2ban, calls: Calls) -> None:
    before = int(time.time())
    with server:
        server.append(verdict("web01", 61001))
        server.wait_banned("web01")
        wait_for(lambda: len(calls()) == 2, START_S)
        start, ban = calls()
        assert start == ("nft", "ensure")
        assert ban[:4] == ("block", "--source", "fail2ban:smtpguard", "--at")
        assert before <= float(ban[4]) <= before + 60
        assert ban[5:] == ("--for", "1800", "--uid", "61001", "--", "web01")
        server.client("set", "smtpguard", "unbanip", "web01")
        assert server.banned() == []
        assert calls()[2:] == [("unblock", "--source", "fail2ban:smtpguard", "--uid", "61001", "--", "web01")]


def test_rehearsal_and_hostile_text_ban_nobody_else(server: Fail2ban, calls: Calls) -> None:
    forged = verdict("victim", 61666).replace(" ", "\\x20").replace('"', "\\x22")
    with server:
        server.append(
            verdict("web02", 61002, mode="dry-run"),
            verdict("web03", 61003, mode="dry-run", proc=f"\\x0a{forged}"),
            verdict("web04", 61004, proc=f"\\x22\\x0a{forged}"),
            verdict("last", 61005),
        )
        server.wait_banned("last", "web04")
        wait_for(lambda: sum(call[0] == "block" for call in calls()) == 2, START_S)  # a ban is listed before it is done
        assert {(call[-3], call[-1]) for call in calls() if call[0] == "block"} == {
            ("61004", "web04"),
            ("61005", "last"),
        }


def test_odd_names_reach_smtpguard_as_one_argument(server: Fail2ban, calls: Calls) -> None:
    names = ["uid:61007", "a%20b%24%28id%29", "10.0.0.1", "user@example.org", "%2D-all", "fe80"]
    with server:
        server.append(*(verdict(name, 61010 + number) for number, name in enumerate(names)))
        server.wait_banned(*names)
        wait_for(lambda: len(calls()) == 1 + len(names), START_S)
        assert {call[-1]: call[-3] for call in calls()[1:]} == {n: str(61010 + i) for i, n in enumerate(names)}
        for left in range(len(names) - 1, -1, -1):
            server.client("set", "smtpguard", "unbanip", names[left])
            assert server.banned() == sorted(names[:left])
        assert [call[-1] for call in calls() if call[0] == "unblock"] == names[::-1]


def test_offset_of_the_timestamp_counts(server: Fail2ban, calls: Calls) -> None:
    moment = datetime.now(timezone(timedelta(hours=5, minutes=30))) - timedelta(seconds=20)
    with server:
        server.append(verdict("web01", 61001, at=moment))
        wait_for(lambda: len(calls()) == 2, START_S)
        assert float(calls()[1][4]) == pytest.approx(moment.timestamp(), abs=1)


def test_exempt_user_is_not_banned(server: Fail2ban, calls: Calls, tmp_path: Path) -> None:
    stub = tmp_path / "bin" / "smtpguard"
    stub.write_text(stub.read_text().replace('[ "$1" != exempt ]', '[ "$1" != exempt ] || [ "$4" = trusted ]'))
    with server:
        server.append(verdict("trusted", 61001), verdict("web02", 61002))
        server.wait_banned("web02")
        wait_for(lambda: [call[-1] for call in calls() if call[0] == "block"] == ["web02"])


def test_restart_of_fail2ban_frees_nobody_and_keeps_the_original_end(server: Fail2ban, calls: Calls) -> None:
    with server:
        server.append(verdict("web01", 61001), verdict("uid:61002", 61002))
        server.wait_banned("uid:61002", "web01")
        wait_for(lambda: len(calls()) == 3, START_S)
        first = calls()
    assert calls() == first, "stopping fail2ban undid something"
    with server:
        server.wait_banned("uid:61002", "web01")
        wait_for(lambda: len(calls()) >= 6, START_S)
        start, *again = calls()[3:]
        assert start == ("nft", "ensure")
        for ban in again:
            before = next(call for call in first if call[-1] == ban[-1])
            assert float(ban[4]) == pytest.approx(float(before[4]), abs=1)
            assert (ban[5:], ban[:4]) == (before[5:], before[:4])
        server.client("set", "smtpguard", "unbanip", "web01")
        assert calls()[-1] == ("unblock", "--source", "fail2ban:smtpguard", "--uid", "61001", "--", "web01")


def test_second_ban_lasts_longer(server: Fail2ban, calls: Calls) -> None:
    server.configure({"smtpguard": {"bantime": "4"}})

    def told(verb: str) -> list[Sequence[str]]:
        return [call for call in calls() if call[0] == verb]

    with server:
        server.append(verdict("web01", 61001))
        wait_for(lambda: len(told("unblock")) == 1, START_S)
        assert [ban[6] for ban in told("block")] == ["4"]
        server.append(verdict("web01", 61001))
        wait_for(lambda: told("block")[-1][6] == "8", START_S)
        assert {ban[2] for ban in told("block")} == {"fail2ban:smtpguard"}


def test_manual_ban_has_no_uid_and_is_one_argument_whatever_it_is(server: Fail2ban, calls: Calls) -> None:
    odd = "a b * $HOME $(id) ;x"
    with server:
        server.client("set", "smtpguard", "banip", "web09")
        server.client("set", "smtpguard", "banip", odd)
        wait_for(lambda: len(calls()) == 3, START_S)
        assert {call[5:] for call in calls()[1:]} == {
            ("--for", "1800", "--uid", "", "--", name) for name in ("web09", odd)
        }


def test_two_jails_are_two_sources(server: Fail2ban, calls: Calls) -> None:
    server.configure({"smtpguard-connect": {"enabled": "true", "maxretry": "3"}})
    with server:
        server.append(verdict("web01", 61001), *[connect("web01", 61001)] * 3)
        server.append(*[connect("web02", 61002, "refused")] * 5, *[connect("web03", 61003)] * 2)
        server.wait_banned("web01")
        server.wait_banned("web01", jail="smtpguard-connect")
        server.client("set", "smtpguard", "unbanip", "web01")
        assert server.banned("smtpguard-connect") == ["web01"]
        ends = [call for call in calls() if call[0] == "unblock"]
        assert [call[2] for call in ends] == ["fail2ban:smtpguard"]


def test_rotated_log_loses_no_verdict(server: Fail2ban) -> None:
    with server:
        server.append(verdict("web01", 61001))
        server.wait_banned("web01")
        server.log.rename(server.log.with_suffix(".log.1"))
        server.append(verdict("web02", 61002))
        server.wait_banned("web01", "web02")
        # Truncated and refilled to the very same size within one look, even fail2ban sees no change.
        server.log.write_text("")
        server.append(verdict("w3", 61003))
        server.wait_banned("w3", "web01", "web02")


def test_missing_event_log_does_not_take_other_jails_down(server: Fail2ban, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    other.touch()
    (server.conf / "filter.d" / "other.conf").write_text("[Definition]\nfailregex = ^ bad <HOST>$\n")
    server.configure({"other": {"enabled": "true", "filter": "other", "logpath": str(other), "action": ""}})
    server.log.unlink()
    with server:
        assert "other, smtpguard" in server.client("status").stdout


def test_venv_python_runs_fail2ban_too(server: Fail2ban) -> None:
    """Where only the interpreter of the tests is there, it serves, if it still has what fail2ban imports."""
    argv = [sys.executable, str(server.unpacked.path("usr/bin/fail2ban-server")), "--version"]
    probe = [sys.executable, "-c", "import fail2ban.server.server"]
    if subprocess.run(probe, env=server.environment(), capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("lacks modules of the standard library that this fail2ban needs (asyncore left Python 3.12)")
    done = subprocess.run(argv, env=server.environment(), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("Fail2Ban v")
