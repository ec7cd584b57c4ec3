"""The full pass: real connections, the real daemon, a real fail2ban, and the kernel, all in a laboratory.

Verdict line, ban, kernel block, `fail2ban-client status`, unban, kernel free; and every way back and forth between the
two without a loop.
"""

import json
import re
import shlex
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fail2ban import START_S, Fail2ban, fail2ban_below
from tests.support.host import INNOCENT, SHARED, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 10, "window": "10m", "action": "block", "block": "30m"}
JAIL = "fail2ban:smtpguard"
WEB01, UID = SPAMMER[0], str(SPAMMER[1])


@contextmanager
def guarded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    by: str = "fail2ban",
    **settings: Any,  # noqa: ANN401 - YAML values
) -> Generator[tuple[Host, Fail2ban]]:
    """A guarded host whose fail2ban watches the daemon's own event log."""
    fail2ban = fail2ban_below(tmp_path / "fail2ban")
    programs = tmp_path / "bin"
    fail2ban.write_client(programs)
    monkeypatch.setenv("PATH", f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin")
    with Host(rules=[RULE], block={"by": by}, breaker={"blocks": 100, "per": "10m"}, **settings) as host:
        guard = programs / "smtpguard"
        guard.write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec {shlex.quote(sys.executable)} -m smtpguard "$@"\n')
        guard.chmod(0o755)
        fail2ban.path_first = programs
        fail2ban.settings["SMTPGUARD_CONFIG"] = host.config
        fail2ban.enter = host.lab.argv
        fail2ban.log = host.lab.directory / "events.log"
        for jail in ("smtpguard", "smtpguard-connect"):
            fail2ban.configure({jail: {"logpath": str(fail2ban.log)}})
        host.lab.lay_over("/etc/hosts", "127.0.0.1 localhost\n")
        host.start()
        try:
            yield host, fail2ban
        except BaseException:
            print("--- fail2ban said ---\n" + fail2ban.journal()[-4000:])
            raise
        finally:
            fail2ban.stop()


def sources(host: Host, user: str = WEB01) -> dict[str, float]:
    """Source to end of a user's blocks, as `smtpguard blocks` shows them."""
    rows = json.loads(host.cli("blocks", "--json").stdout)
    return {row["by"]: row["until"] for row in rows if row["user"] == user}


def in_kernel(host: Host, uid: str = UID) -> bool:
    """Whether the nftables set holds a uid; the table may not be there at all."""
    done = host.lab.run(["nft", "list", "set", "inet", "smtpguard", "blocked"])
    return re.search(rf"\b{uid}\b", done.stdout) is not None


def test_verdict_ban_block_unban_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path, monkeypatch) as (host, fail2ban), fail2ban:
        spam = host.connect(SPAMMER, 30, 200)
        assert spam.ok >= 10
        verdict = wait_for(lambda: host.events("EXCEEDED"))[0]
        assert (verdict["USER"], verdict["ACTION"], verdict["MODE"]) == (WEB01, "block", "enforce")
        fail2ban.wait_banned(WEB01)
        wait_for(lambda: in_kernel(host), START_S)
        assert set(sources(host)) == {JAIL}, "the guard left the blocking to fail2ban"
        assert (host.connect(SPAMMER, 3).ok, host.connect(INNOCENT, 3).refused) == (0, 0)
        wait_for(lambda: [row["BY"] for row in host.events("BLOCK") if row["USER"] == WEB01] == [JAIL])

        fail2ban.client("set", "smtpguard", "unbanip", WEB01)
        assert fail2ban.banned() == []
        wait_for(lambda: not in_kernel(host), START_S)
        assert sources(host) == {}
        assert host.connect(SPAMMER, 1).ok == 1
        assert [row["BY"] for row in wait_for(lambda: host.events("UNBLOCK"))] == [JAIL]


def test_a_persons_unblock_unbans_too_and_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path, monkeypatch) as (host, fail2ban), fail2ban:
        host.connect(SPAMMER, 30, 200)
        wait_for(lambda: in_kernel(host), START_S)
        assert host.cli("unblock", WEB01).returncode == 0
        assert not in_kernel(host)
        fail2ban.wait_banned()
        wait_for(lambda: fail2ban.journal().count(f"Unban {WEB01}") == 1)
        wait_for(lambda: f"{WEB01} unbanned in smtpguard" in host.stderr(), START_S)
        assert host.connect(SPAMMER, 5).ok == 5, "with all counters at 0"
        ends = [row["BY"] for row in wait_for(lambda: host.events("UNBLOCK"))]
        assert ends == ["admin"], "fail2ban's own unblock had nothing left to end, and called nobody"

        host.connect(SPAMMER, 30, 200)
        fail2ban.wait_banned(WEB01)
        wait_for(lambda: in_kernel(host), START_S)
        wait_for(lambda: fail2ban.journal().count(f"] Ban {WEB01}") == 2)


def test_guard_and_fail2ban_keep_blocks_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path, monkeypatch, by="guard") as (host, fail2ban), fail2ban:
        host.connect(SPAMMER, 30, 200)
        wait_for(lambda: set(sources(host)) == {"guard", JAIL}, START_S)
        fail2ban.client("set", "smtpguard", "unbanip", WEB01)
        wait_for(lambda: set(sources(host)) == {"guard"}, START_S)
        assert in_kernel(host)
        assert host.connect(SPAMMER, 2).ok == 0, "the end of fail2ban's ban is not the end of the guard's block"
        assert host.cli("unblock", WEB01).returncode == 0
        assert not in_kernel(host)
        assert host.connect(SPAMMER, 2).ok == 2


def test_first_unban_of_two_jails_frees_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path, monkeypatch) as (host, fail2ban):
        fail2ban.configure({"smtpguard-connect": {"enabled": "true", "maxretry": "8"}})
        with fail2ban:
            host.connect(SPAMMER, 30, 200)
            both = {JAIL, "fail2ban:smtpguard-connect"}
            wait_for(lambda: set(sources(host)) == both, START_S)
            fail2ban.client("set", "smtpguard", "unbanip", WEB01)
            wait_for(lambda: set(sources(host)) == both - {JAIL}, START_S)
            assert in_kernel(host)
            assert host.connect(SPAMMER, 2).ok == 0
            fail2ban.client("set", "smtpguard-connect", "unbanip", WEB01)
            wait_for(lambda: not in_kernel(host), START_S)
            assert host.connect(SPAMMER, 1).ok == 1

            # The engine gives fail2ban some seconds to act on a verdict; a person's word ends that wait too.
            assert host.cli("unblock", WEB01).returncode == 0
            host.connect(SPAMMER, 30, 200)
            wait_for(lambda: set(sources(host)) == both, START_S)
            assert host.cli("unblock", WEB01).returncode == 0
            fail2ban.wait_banned()
            fail2ban.wait_banned(jail="smtpguard-connect")


def test_restart_of_fail2ban_keeps_kernel_blocks_and_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path, monkeypatch) as (host, fail2ban):
        with fail2ban:
            host.connect(SPAMMER, 30, 200)
            wait_for(lambda: in_kernel(host), START_S)
            before = sources(host)[JAIL]
        assert in_kernel(host), "fail2ban's stop freed somebody"
        assert host.connect(SPAMMER, 2).ok == 0
        with fail2ban:
            fail2ban.wait_banned(WEB01)
            wait_for(lambda: f"Restore Ban {WEB01}" in fail2ban.journal())
            # fail2ban runs an unban beside a ban that is still under way: let the restored one come to its end.
            wait_for(lambda: host.stderr().count(f"by {JAIL}, asked by") == 2, START_S)
            assert in_kernel(host)
            assert abs(sources(host)[JAIL] - before) < 2, "a restored ban ends when it was to end"
            fail2ban.client("set", "smtpguard", "unbanip", WEB01)
            wait_for(lambda: not in_kernel(host), START_S)


def test_restart_of_the_daemon_keeps_fail2bans_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path, monkeypatch) as (host, fail2ban), fail2ban:
        host.connect(SPAMMER, 30, 200)
        wait_for(lambda: in_kernel(host), START_S)
        before = sources(host)[JAIL]
        host.stop()
        assert in_kernel(host)
        host.start()
        assert set(sources(host)) == {JAIL}
        assert abs(sources(host)[JAIL] - before) < 2
        assert host.connect(SPAMMER, 2).ok == 0
        fail2ban.client("set", "smtpguard", "unbanip", WEB01)
        wait_for(lambda: not in_kernel(host), START_S)


def test_unblock_without_the_daemon_unbans_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path, monkeypatch) as (host, fail2ban), fail2ban:
        host.connect(SPAMMER, 30, 200)
        wait_for(lambda: in_kernel(host), START_S)
        # Orders are answered one after the other: with this one fail2ban's action is answered, too.
        assert host.cli("allow", INNOCENT[0], "--for", "1h").returncode == 0
        host.stop()
        done = host.cli("unblock", WEB01)
        assert done.returncode == 0, done.stderr
        assert not in_kernel(host)
        assert fail2ban.banned() == []
        assert "error" not in fail2ban.journal().lower(), "its action found nothing left to end, and that is fine"


def test_dry_run_bans_and_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path, monkeypatch, by="guard", dry_run=True) as (host, fail2ban), fail2ban:
        rules = host.nft("list", "ruleset")
        assert host.connect(SPAMMER, 40, 400).refused == 0
        assert wait_for(lambda: host.events("EXCEEDED"))[0]["MODE"] == "dry-run"
        fail2ban.client("set", "smtpguard", "banip", INNOCENT[0])
        fail2ban.wait_banned(INNOCENT[0])
        assert "error" not in fail2ban.journal().lower(), "a ban by hand in dry run is told, and no failure"
        assert set(sources(host)) == {"guard"}, "the block that would be, kept so that dry run tells the truth"
        assert sources(host, INNOCENT[0]) == {}
        assert not in_kernel(host)
        assert host.nft("list", "ruleset") == rules
        assert host.connect(INNOCENT, 2).refused == 0


def test_shared_and_exempt_users_are_not_blocked_by_way_of_fail2ban(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exempt = {"users": [INNOCENT[0]]}
    with guarded(tmp_path, monkeypatch, exempt=exempt) as (host, fail2ban):
        fail2ban.configure({"smtpguard-connect": {"enabled": "true", "maxretry": "5"}})
        with fail2ban:
            for user in (SHARED, INNOCENT, SPAMMER):
                assert host.connect(user, 8).refused == 0  # at once: the jail bans after the fifth
            wait_for(lambda: in_kernel(host), START_S)
            assert INNOCENT[0] not in fail2ban.banned("smtpguard-connect"), "exempt: ignored by the jail itself"
            for user in (SHARED, INNOCENT):
                assert not in_kernel(host, str(user[1]))
                assert host.connect(user, 2).refused == 0


def test_flushed_ruleset_does_not_free_whom_fail2ban_banned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path, monkeypatch) as (host, fail2ban), fail2ban:
        host.connect(SPAMMER, 30, 200)
        wait_for(lambda: in_kernel(host), START_S)
        host.nft("flush", "ruleset")
        wait_for(lambda: in_kernel(host), START_S)
        assert host.connect(SPAMMER, 2).ok == 0


def test_bans_by_hand_and_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They last ten years, and are remembered under the id of the jail, so that an unblock unbans."""
    (web02, uid02), nobody = INNOCENT, "61177"
    with guarded(tmp_path, monkeypatch) as (host, fail2ban):
        fail2ban.configure({"smtpguard": {"bantime": "-1", "bantime.increment": "false"}})
        with fail2ban:
            for known_as in (UID, f"uid:{uid02}", web02, nobody):
                fail2ban.client("set", "smtpguard", "banip", known_as)
            wait_for(lambda: host.stderr().count("by fail2ban:smtpguard, asked by") == 4, START_S)
            fail2ban.wait_banned(UID, f"uid:{uid02}", web02, nobody)
            host.stop()
            host.start()
            for user in (WEB01, web02, f"uid:{nobody}"):
                assert 3649 < (sources(host, user)[JAIL] - time.time()) / 86400 < 3651
            host.nft("flush", "ruleset")
            wait_for(lambda: in_kernel(host), START_S)
            assert host.connect(SPAMMER, 2).ok == 0
            assert host.cli("unblock", WEB01).returncode == 0
            fail2ban.wait_banned(f"uid:{uid02}", web02, nobody)
            assert host.cli("unblock", web02).returncode == 0
            fail2ban.wait_banned(nobody)
            host.stop()
            assert host.cli("unblock", nobody).returncode == 0
            assert fail2ban.banned() == [], "without a daemon too"


@pytest.mark.long
def test_a_verdict_over_a_relays_new_address_is_no_ban_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relay, address = "relay.example", "198.18.7.1"
    with guarded(tmp_path, monkeypatch, exempt={"destinations": [relay]}) as (host, fail2ban), fail2ban:
        assert "not found" in host.cli("status").stdout
        host.lab.lay_over("/etc/hosts", f"{address} {relay}\n")
        host.connect(SPAMMER, 12, 200, to=[address])
        wait_for(lambda: f"{WEB01} was refused at a new address of {relay}" in host.stderr(), START_S)
        wait_for(lambda: f"{WEB01} unbanned in smtpguard" in host.stderr(), START_S)
        fail2ban.wait_banned()
        assert sources(host) == {}
        assert host.connect(SPAMMER, 30, to=[address]).refused == 0
        host.connect(SPAMMER, 30, 200)
        wait_for(lambda: in_kernel(host), START_S)
        fail2ban.wait_banned(WEB01)


def test_a_ban_refuses_the_ports_of_its_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop's orders by 587 go on while 25 is banned; a second rule that is exceeded meanwhile adds its ports."""
    with guarded(tmp_path, monkeypatch) as (host, fail2ban), fail2ban:
        rules = [{**RULE, "name": f"on-{port}", "ports": [port]} for port in (25, 587)]
        host.configure(rules=rules)
        assert host.cli("reload").returncode == 0
        host.connect(SPAMMER, 30, 200)
        fail2ban.wait_banned(WEB01)
        rows = wait_for(lambda: json.loads(host.cli("blocks", "--json").stdout), START_S)
        assert [(row["by"], row["ports"]) for row in rows] == [(JAIL, [25])]
        assert host.connect(SPAMMER, 3).refused == 3
        assert host.connect(SPAMMER, 5, port=587).ok == 5

        fail2ban.client("set", "loglevel", "DEBUG")  # else it does not say when it has taken what it found
        host.connect(SPAMMER, 30, 200, port=587)
        wait_for(lambda: len(json.loads(host.cli("blocks", "--json").stdout)) == 2)
        assert (host.connect(SPAMMER, 3, port=587).ok, host.connect(SPAMMER, 3).ok) == (0, 0)
        assert host.connect(SPAMMER, 2, port=465).ok == 2
        assert fail2ban.journal().count(f"] Ban {WEB01}") == 1
        assert len({row["until"] for row in json.loads(host.cli("blocks", "--json").stdout)}) == 1, "one ban, one end"

        wait_for(lambda: f"{WEB01} already banned" in fail2ban.journal(), START_S)  # else it would be anew
        fail2ban.client("set", "smtpguard", "unbanip", WEB01)
        wait_for(lambda: json.loads(host.cli("blocks", "--json").stdout) == [], START_S)
        assert (host.connect(SPAMMER, 1).ok, host.connect(SPAMMER, 1, port=587).ok) == (1, 1)

        fail2ban.client("set", "smtpguard", "banip", WEB01)
        (row,) = wait_for(lambda: json.loads(host.cli("blocks", "--json").stdout), START_S)
        assert row["ports"] is None, "nobody knows over which rule a person bans"
