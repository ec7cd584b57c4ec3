"""Commands without a daemon: `watch` with a source of its own, `unblock` in kernel and state file."""

import contextlib
import os
from typing import Any
from unittest.mock import Mock, patch

import pytest

from smtpguard.actions.base import Deny
from smtpguard.daemon.startup.handoff import check_privilege
from smtpguard.errors import EnforceError, GuardError, PrivilegeError, SourceError
from smtpguard.model import NS, Subject
from smtpguard.settings import Settings
from smtpguard.standalone import unblock as offline
from smtpguard.standalone import watch
from smtpguard.standalone.unblock import KeptBlocks
from smtpguard.state.rows import BlockRow
from smtpguard.state.statements import key_of
from smtpguard.state.store import Loaded
from tests.support.policy import WEB, People, block_of, connect

SETTINGS = Settings(attribution_process=False, attribution_rdns=False)


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PrivilegeError, match="a source of its own needs root"):
        watch.observe(SETTINGS, Mock())
    with pytest.raises(PrivilegeError, match="only root may change the kernel's sets"):
        offline.unblock(SETTINGS, user="web01", uid=None, everybody=False, source=None)
    with pytest.raises(PrivilegeError, match="the guard watches other users' connections"):
        check_privilege()


class Watched:
    """`watch` on a source of the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, leads: bool = True) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        self.shown: list[int] = []
        self.loop, self.sensing = Mock(), Mock()
        self.sensing.leader.return_value = Mock() if leads else None
        self.sensing.sensors = ()
        self.loop.run.side_effect = self.see
        self.parts: list[Any] = []
        self.loop.add.side_effect = self.parts.append
        monkeypatch.setattr(watch, "Loop", lambda _: self.loop)
        monkeypatch.setattr(
            watch, "AccountDirectory", lambda _: Mock(wraps=People(), refresh=Mock(return_value=frozenset()))
        )
        monkeypatch.setattr(watch, "SourceSupervisor", self.make)

    def make(self, settings: Settings, take: Any, *_: object) -> Mock:  # noqa: ANN401 - as SourceSupervisor
        assert settings is SETTINGS
        self.take = take
        return self.sensing

    def see(self) -> None:
        there: dict[str, Any] = {"address": bytes([198, 18, 0, 1])}
        self.take([connect(1, **there), connect(2, uid=None, **there), connect(3, address=bytes([127, 0, 0, 1]))])
        for part in self.parts[1:]:
            part.on_time(1 << 62)


def test_what_is_seen_is_shown_and_loopback_and_nobodys_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    shown: list[int] = []
    watch.observe(SETTINGS, lambda connect, account, wall_ns: shown.append(account.uid))  # noqa: ARG005
    assert shown == [WEB]
    watched.sensing.close.assert_called_once()
    watched.loop.close.assert_called_once()
    watched.loop.stop.assert_not_called()


def test_it_ends_when_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watch.observe(SETTINGS, Mock(side_effect=BrokenPipeError))
    watched.loop.stop.assert_called_once()


def test_a_watch_that_sees_nothing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, leads=False)
    bpf = Mock(why="no such cgroup")
    bpf.name = "bpf"
    watched.sensing.sensors = (bpf,)
    with pytest.raises(SourceError, match="no source works: bpf: no such cgroup"):
        watch.observe(SETTINGS, Mock())
    watched.sensing.close.assert_called_once()


def test_helpers_and_resolvers_are_started_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    monkeypatch.setattr(watched, "make", lambda *_: watched.sensing)
    looker, rdns = Mock(), Mock()
    looker.return_value.next_deadline.return_value = None
    monkeypatch.setattr(watch, "Looker", looker)
    monkeypatch.setattr(watch, "ReverseDns", rdns)
    monkeypatch.setattr(watch, "SourceSupervisor", lambda *_: watched.sensing)
    watched.loop.run.side_effect = None
    watch.observe(Settings(), Mock())
    for part in (looker.return_value, rdns.return_value):
        part.start.assert_called_once()
        part.close.assert_called_once()


def deny(uid: int, *ranges: tuple[int, int]) -> Deny:
    return Deny(subject=Subject(id=uid), kind="block", until_ns=9 * NS, ranges=ranges, comment="")


def rows(*sources: str) -> list[BlockRow]:
    return [BlockRow.of(block_of(source), 0) for source in sources]


def kept(nft: Mock, state: Mock, *sources: str) -> KeptBlocks:
    return KeptBlocks(nft, state, rows(*sources), People())  # type: ignore[arg-type]


def test_a_jail_s_block_ends_and_the_kernel_refuses_on_for_what_others_asked() -> None:
    nft, state = Mock(), Mock()
    a_jail_s, other = (key_of(row) for row in rows("fail2ban:a", "admin"))
    state.kept.return_value = [a_jail_s, other]
    nft.read_denies.return_value = [deny(WEB)]
    account = People().account(WEB)
    assert kept(nft, state, "fail2ban:a", "admin").end(account, source="fail2ban:a", reason="")
    nft.clear.assert_not_called()
    assert kept(nft, state, "fail2ban:a").end(account, source="fail2ban:a", reason="")
    nft.clear.assert_called_once()
    assert {call.args for call in state.delete.call_args_list} == {(a_jail_s,)}
    assert not kept(nft, state).end(account, source="fail2ban:a", reason="")


def test_all_are_freed_whom_kernel_or_state_know() -> None:
    nft, state = Mock(), Mock()
    state.kept.return_value = []
    nft.read_denies.return_value = [deny(1002)]
    freed = kept(nft, state, "admin").unblock(None, reason="")
    assert [one.user for one in freed] == ["u1001", "u1002"]
    nft.clear_all.assert_called_once()
    nft.read_denies.return_value = [deny(1002, (1000, 10))]
    freed = kept(nft, state, "admin").unblock(People().account(WEB), reason="")
    assert [one.source for one in freed] == ["admin", None], "from within a range that somebody has put there"


class Offline:
    """`unblock` on fakes of kernel and state."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loaded: Loaded | None) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        self.state = Mock()
        self.state.close.return_value = True
        self.state.kept.return_value = []
        accounts = Mock(account=People().account)
        accounts.lookup.by_person.side_effect = lambda _: People().account(WEB)
        accounts.lookup.tell_domain.return_value = ""
        accounts.lookup.find_namesake.return_value = 4711
        monkeypatch.setattr(offline, "AccountDirectory", lambda _, **__: accounts)
        monkeypatch.setattr(offline, "InstanceLock", lambda _, **__: contextlib.nullcontext())
        monkeypatch.setattr(offline, "StateWriter", lambda _: self.state)
        monkeypatch.setattr(offline, "NftEnforcer", lambda _: Mock(read_denies=Mock(return_value=[])))
        monkeypatch.setattr(offline, "_read", lambda _: loaded)

    def ask(self, user: str = "1001") -> str:
        return offline.unblock(SETTINGS, user=user, uid=None, everybody=False, source=None)


def test_it_says_whom_digits_meant_and_what_fail2ban_did(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Offline(monkeypatch, Loaded(blocks=tuple(rows("fail2ban:smtpguard")), now_ns=1))
    with patch.object(offline, "apply_unban") as unban:
        text = host.ask()
        assert text.startswith("u1001 may send again. No daemon is running")
        assert text.endswith("1001 was taken as a uid; the account called 1001 is uid:4711")
        unban.assert_called_once_with("smtpguard", "u1001")
        unban.side_effect = EnforceError("it goes on listing u1001")
        with patch.object(offline, "is_installed", return_value=True):
            assert host.ask().endswith("Note: it goes on listing u1001")


@pytest.mark.parametrize("what", ["read", "written"])
def test_a_state_file_that_can_not_be_had_is_no_success(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Offline(monkeypatch, None if what == "read" else Loaded(now_ns=1))
    host.state.close.return_value = False
    with pytest.raises(GuardError, match=f"the state file could not be {what}, so the guard may block them again"):
        host.ask()


def test_a_state_that_is_locked_is_waited_for_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    state = Mock(is_read=False)
    late = Loaded(now_ns=2)
    state.take_late.side_effect = [None, late]
    assert offline._read(state) is late
    monkeypatch.setattr(offline, "_FLUSH_S", -1.0)
    state.take_late.side_effect = None
    state.take_late.return_value = None
    assert offline._read(state) is None
    state.is_read = True
    assert offline._read(state) is state.start.return_value
