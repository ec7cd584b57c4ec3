"""The guard, orders, requests and the restart with a real engine: what is carried out, written, stored and answered."""

import json
import re
from dataclasses import replace
from typing import Any, cast
from unittest.mock import ANY, MagicMock, Mock, patch

import pytest

from smtpguard.actions.base import Deny
from smtpguard.control.answer import Later, Pages, Stream
from smtpguard.control.connection import Peer
from smtpguard.daemon.enforce.identity import Identity
from smtpguard.daemon.execution import Execution
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.serve.allow_command import AllowCommand
from smtpguard.daemon.serve.block_command import BlockCommand
from smtpguard.daemon.serve.block_list import BlockList
from smtpguard.daemon.serve.handlers import Handlers
from smtpguard.daemon.serve.jail_bans import JailBans
from smtpguard.daemon.serve.orders import GuardBlocks, Orders
from smtpguard.daemon.serve.reload import Reloaded
from smtpguard.daemon.serve.why_command import EVIDENCE
from smtpguard.daemon.startup.restore import Restore
from smtpguard.errors import DecodeError, GuardError, PolicyError, UnansweredError
from smtpguard.model import NS, Account, Allowance, Block, Ended, Extended, Named, Subject, Verdict
from smtpguard.resources import shipped
from smtpguard.settings import Settings
from smtpguard.state.rows import AllowanceRow, BlockRow, EscalationRow, SwitchRow
from smtpguard.state.statements import block_key, key_of
from smtpguard.state.store import Loaded
from tests.support.policy import BURST, T0, WEB, People, block_of, connect, engine_of, feed, only, person

WEB01 = Subject(id=WEB)
ROOT = Peer(uid=0, pid=7, name="root", groups=frozenset())
MEMBER = Peer(uid=1500, pid=8, name="support", groups=frozenset())


class Names(People):
    """Accounts that can be asked by name."""

    @property
    def lookup(self) -> "Names":
        return self

    def by_name(self, text: str) -> Account | None:
        if text.startswith("u") and text[1:].isdigit():
            return self.account(int(text[1:]))
        return self.account(int(text)) if text.isdigit() else None

    def by_person(self, text: str) -> Account | None:
        return self.by_name(text)

    def tell_domain(self, text: str) -> str:
        del text
        return ""

    def find_namesake(self, text: str) -> int | None:
        return 4711 if text == "1001" else None


class Host:
    """A guard on fakes of all but the engine."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - as Settings
        self.people = Names([person(1600, "exempt")])
        self.engine = engine_of(BURST, people=self.people, **settings)
        self.engine.tick(T0)
        self.now_ns = T0
        self.enforcement, self.journal, self.state = MagicMock(), Mock(), Mock()
        self.enforcement.cap.mark.side_effect = lambda seen: seen
        self.enforcement.credits.prepare.return_value = None
        self.enforcement.credits.take_overdue.return_value = []
        self.enforcement.health.may_refuse_freed.return_value = False
        self.enforcement.health.knows_exemptions.return_value = True
        self.state.is_read = True
        self.settings = Settings(**{"dry_run": False, "rules": (BURST,), **settings})
        self.wall: Any = Mock(offset_ns=0, to_wall_ns=lambda ns: ns)
        people = cast("Any", self.people)
        self.execution = Execution(
            self.settings,
            enforcement=self.enforcement,
            journal=self.journal,
            state=self.state,
            accounts=people,
            wall=self.wall,
            now=self.now,
        )
        self.destinations = Mock(why_exempt=Mock(return_value=None))
        self.guard = Guard(
            self.settings,
            engine=self.engine,
            execution=self.execution,
            enforcement=self.enforcement,
            journal=self.journal,
            accounts=people,
            destinations=self.destinations,
            now=self.now,
        )
        self.orders = Orders(
            engine=self.engine,
            execution=self.execution,
            enforcement=self.enforcement,
            journal=self.journal,
            state=self.state,
            accounts=people,
            wall=self.wall,
            now=self.now,
        )
        self.switch = Mock(is_off=False, until_ns=None, was_switched=False, is_known=True)
        self.told, self.learning_period = Mock(), Mock()
        self.undone = Mock(is_undone=Mock(return_value=False))
        self.verbs = Handlers(
            self.guard,
            self.orders,
            self.enforcement,
            accounts=people,
            now=self.now,
            overview=Mock(),
            blocks=BlockList(self.engine, self.execution, self.wall, self.now),
            block=BlockCommand(
                self.orders,
                self.guard,
                self.enforcement,
                switch=self.switch,
                undone=self.undone,
                jail=JailBans(self.orders),
                tell_fail2ban=self.told,
                accounts=people,
                wall=self.wall,
                now=self.now,
            ),
            allow=AllowCommand(
                self.orders, self.guard, self.enforcement, accounts=people, wall=self.wall, now=self.now
            ),
            switch=self.switch,
            tell_fail2ban=self.told,
            reload=Mock(),
            lookups=Mock(),
            commits=Mock(answer=lambda said: said),
            learning_period=self.learning_period,
            supervision=Mock(),
            recorder=Mock(),
            history=Mock(),
            why=Mock(),
            report=Mock(),
            halve=Mock(),
            watches=Mock(collect=list),
        )

    def now(self) -> int:
        return self.now_ns

    def restore(self, loaded: Loaded, **more: Any) -> None:  # noqa: ANN401 - as Restore.take
        self.restorer().take(loaded, dry_run=self.settings.dry_run, **more)

    def restorer(self) -> Restore:
        return Restore(
            self.orders,
            engine=self.engine,
            enforcement=self.enforcement,
            journal=self.journal,
            keeping=Mock(),
            state=self.state,
            wall=self.wall,
            now=self.now,
        )

    def ask(self, verb: str, peer: Peer = ROOT, **args: object) -> str:
        said = self.verbs.handle(peer, verb, args)
        assert isinstance(said, dict)
        return str(said["text"])

    def blocked(self) -> list[int]:
        return sorted(subject.id for subject in self.engine.blocked_subjects())


@pytest.fixture
def host() -> Host:
    return Host()


# -- what was seen -----------------------------------------------------------------------------------------------------


def test_control_verbs_lists_exactly_what_there_is() -> None:
    """And nothing of the firewall, nor what rewrites the memory of all: that stays root's."""
    schema = json.loads((shipped("config") / "smtpguard.schema.json").read_text("utf-8"))
    listed = schema["properties"]["control"]["properties"]["verbs"]["items"]["enum"]
    assert set(listed) == {*Host().verbs.verbs, EVIDENCE} - {"nft", "learn", "told"}


def test_an_attempt_found_in_the_kernel_s_verdicts_is_not_judged_twice(host: Host) -> None:
    host.enforcement.credits.is_known.return_value = True
    host.guard.take([connect(1, result="refused", refused_by="credit")])
    assert host.guard.seen == 0
    host.journal.add.assert_not_called()


def test_the_attempt_with_which_a_rule_was_exceeded_is_judged_before_those_it_refused(host: Host) -> None:
    host.enforcement.credits.is_known.return_value = False
    missed = connect(1, cookie=5)
    host.enforcement.credits.prepare.side_effect = [missed, None]
    host.guard.take([connect(2, cookie=6, result="refused", refused_by="credit")])
    assert [call.args[0].connect.cookie for call in host.journal.add.call_args_list] == [5, 6]


def test_a_uid_is_shown_by_the_name_it_has_now(host: Host) -> None:
    assert host.execution.show_user(1600) == "u1600"


def test_an_attempt_of_nobody_counts_for_nobody(host: Host) -> None:
    host.guard.take([connect(1, uid=None)])
    assert host.guard.seen == 0


def test_verdicts_that_nobody_reported_are_judged_when_they_are_found(host: Host) -> None:
    host.enforcement.credits.take_overdue.return_value = [connect(number) for number in range(4)]
    host.guard.on_time(T0 + 5 * NS)
    assert host.blocked() == [WEB]


def test_a_verdict_over_what_became_of_connections_is_written(host: Host) -> None:
    decisions = feed(engine_of(BURST), range(4))
    (verdict,) = only(Verdict, decisions)
    engine = Mock(report=Mock(side_effect=[[], decisions]))
    host.guard._engine = engine
    host.guard.take_reports([Mock(kind="open"), Mock(kind="open")])
    (call,) = host.journal.add.call_args_list
    assert (call.args[0].verdicts, call.args[0].is_new) == ([verdict], False)


def test_a_block_that_goes_on_is_carried_out_written_and_told(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    block = block_of("guard")
    host.execution.act([Extended(time_ns=T0, block=block, refused=20)])
    host.enforcement.carry_out.assert_called_once_with(WEB01, settle=False)
    host.journal.add_extended.assert_called_once_with(ANY, block)
    assert re.fullmatch(r"u1001 still BLOCKED, until \d\d:\d\d: its attempts have not stopped\.", caplog.messages[0])


def test_what_was_kept_by_uid_alone_is_kept_under_its_name(host: Host) -> None:
    after = block_of("admin")
    before = Block(**{name: getattr(after, name) for name in after.__dataclass_fields__} | {"name": None})
    host.execution.act([Named(before=before, after=after)])
    host.state.delete.assert_called_once_with(block_key(before))
    host.state.put.assert_called_once_with(BlockRow.of(after, 0))
    allowed: dict[str, Any] = {"subject": WEB01, "since_ns": T0, "until_ns": T0 + NS, "by": "admin"}
    host.execution.act([Named(before=Allowance(name=None, **allowed), after=Allowance(name="u1001", **allowed))])
    host.state.delete.assert_called_with(("allowances", WEB, b""))
    assert host.state.put.call_args.args[0].name == "u1001"


# -- what people ask for -----------------------------------------------------------------------------------------------


def test_an_allowance_is_told_and_its_end_too(host: Host) -> None:
    assert host.ask("block", user="u1001").startswith("u1001 is blocked until")
    assert host.ask("allow", user="u1001", for_ns=3600 * NS, limit=5, window_ns=60 * NS).startswith(
        "u1001 may open 5 connections in 1 min until "
    )
    assert host.blocked() == []
    assert [row["kind"] for row in cast("Pages", host.verbs.handle(ROOT, "blocks", {})).items] == ["allow"]
    assert host.ask("allow", user="u1001", end=True) == "Allowance of u1001 removed. Normal limits apply now."
    assert host.ask("allow", user="u1001", end=True) == "u1001 has no allowance."


def test_an_allowance_that_the_kernel_does_not_carry_out_is_no_success(host: Host) -> None:
    host.enforcement.health.knows_exemptions.return_value = False
    host.enforcement.health.troubles.return_value = ["nft: no"]
    with pytest.raises(GuardError, match="But the kernel does not carry it out yet: nft: no"):
        host.ask("allow", user="u1001", for_ns=NS)


def test_a_member_may_allow_less_than_root(host: Host) -> None:
    with pytest.raises(PolicyError, match="at most"):
        host.ask("allow", MEMBER, user="u1001", for_ns=31 * 86_400 * NS)
    host.ask("block", user="u1001")
    with pytest.raises(PolicyError, match="an administrator has blocked this user"):
        host.ask("allow", MEMBER, user="u1001", for_ns=3600 * NS)


def test_digits_that_name_two_are_said_to(host: Host) -> None:
    assert host.ask("block", user="1001").endswith(
        ". Note: 1001 was taken as a uid; the account called 1001 is uid:4711"
    )
    told = host.ask("unblock", user="1001", source="fail2ban:smtpguard")
    assert told.endswith(". Note: 1001 was taken as the name of uid:4711; the uid would be uid:1001")


def test_a_block_is_not_shortened_silently(host: Host) -> None:
    host.ask("block", user="u1001", for_ns=7200 * NS)
    assert "(was until" in host.ask("block", user="u1001", for_ns=60 * NS)


def test_a_ban_that_follows_what_was_undone_is_taken_back(host: Host) -> None:
    host.undone.is_undone.return_value = True
    args: dict[str, Any] = {
        "uid": WEB,
        "user": "u1001",
        "source": "fail2ban:smtpguard",
        "at": T0 / NS,
        "for_ns": 600 * NS,
    }
    assert host.ask("block", **args).endswith("that verdict was over an exempt destination")
    host.told.assert_called_once_with(["fail2ban:smtpguard"], "u1001")
    assert host.blocked() == []


def test_all_are_freed_and_who_is_freed_before_the_state_is_read_is_remembered(host: Host) -> None:
    host.ask("block", user="u1001")
    host.ask("block", user="u1002")
    host.state.is_read = False
    assert host.ask("unblock", all=True) == "u1001, u1002 may send again. All counters are back to 0."
    host.enforcement.clear_all.assert_called_once()
    assert (None, None) in host.orders.freed


def test_a_jail_ends_its_own_block_alone(host: Host) -> None:
    host.orders.begin(block_of("fail2ban:smtpguard"))
    host.orders.begin(block_of("admin"))
    blocks = GuardBlocks(host.orders)
    assert blocks.end(host.people.account(WEB), source="fail2ban:smtpguard", reason="")
    assert not blocks.end(host.people.account(WEB), source="fail2ban:smtpguard", reason="")
    assert host.blocked() == [WEB]


def test_the_switch_says_what_the_kernel_did_not_do(host: Host) -> None:
    host.switch.switch_off.return_value = host.switch.switch_on.return_value = False
    host.enforcement.health.table_trouble = "no"
    with pytest.raises(GuardError, match="can't be removed, and may still refuse: no"):
        host.ask("off", ever=True)
    assert host.switch.switch_off.call_args.args == (None,)
    assert host.ask("on") == "It is on already."
    host.switch.is_off = True
    with pytest.raises(GuardError, match="the nft table can't be put back: no"):
        host.ask("on")
    host.switch.switch_off.return_value = host.switch.switch_on.return_value = True
    assert host.ask("off").startswith("OFF until `smtpguard on`")
    assert host.ask("on").startswith("ON. Blocks are in force again")


def test_the_table_is_taken_away_and_put_back(host: Host) -> None:
    host.enforcement.refresh.return_value, host.enforcement.is_refusing.return_value = True, True
    assert "is removed. It comes back with: smtpguard nft ensure" in host.ask("nft", do="remove")
    assert not host.enforcement.healing
    assert host.ask("nft", do="ensure") == "table inet smtpguard is in place"
    host.enforcement.is_refusing.return_value = False
    assert "is not needed: this is a dry run" in host.ask("nft", do="ensure")
    host.enforcement.refresh.return_value = False
    with pytest.raises(GuardError, match="table inet smtpguard: "):
        host.ask("nft", do="ensure")
    with pytest.raises(DecodeError):
        host.ask("nft")


def test_what_logs_taught_is_taken_over_and_said(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.learning_period.waiting.return_value = {"newcomer": 7}
    said = host.verbs.handle(ROOT, "learn", {"seen": [[5001, 25, 3]], "spans": [[1, 9], [8, 2]]})
    assert said == {"waiting": {"newcomer": 7}}
    host.learning_period.learn.assert_called_once_with(((1, 9),), {(5001, 25): 3})
    assert "learned from logs who has sent" in caplog.text


def test_watch_is_a_stream_and_what_is_no_verb_is_said(host: Host) -> None:
    assert isinstance(host.verbs.handle(ROOT, "watch", {}), Stream)
    with pytest.raises(GuardError, match="this guard has no verb 'dance'"):
        host.verbs.handle(ROOT, "dance", {})


# -- a restart ---------------------------------------------------------------------------------------------------------


def stored(*blocks: Block, **more: Any) -> Loaded:  # noqa: ANN401 - as Loaded
    return Loaded(blocks=tuple(BlockRow.of(block, 0) for block in blocks), now_ns=T0, **more)


def make_identity(host: Host, **facts: str) -> Identity:
    return Identity(facts, host.state)


def test_a_dry_run_lets_those_go_whom_the_guard_had_blocked() -> None:
    host = Host(dry_run=True)
    nft = Mock(read_handle=Mock(return_value=None))
    host.restore(
        stored(block_of("guard"), block_of("admin", uid=1002), block_of("guard", uid=1003, mode="dry-run")),
        nft=nft,
        adoption=Mock(),
        identity=make_identity(host),
    )
    assert host.blocked() == [1002, 1003]
    assert host.state.delete.call_args.args[0][:2] == ("blocks", WEB)


def test_a_dry_run_takes_those_out_of_the_set_whom_the_guard_had_blocked() -> None:
    host = Host(dry_run=True)
    nft = Mock()
    held = Mock(subject=WEB01, kind="block", port=None, ranges=((100_000, 65_536),), reach="reach")
    nft.read_denies.return_value = [held]
    loaded, adoption = stored(block_of("guard")), Mock()
    host.restore(loaded, nft=nft, adoption=adoption, identity=Mock(is_known=False))
    nft.clear.assert_called_once_with("reach", [(WEB, WEB), (100_000, 165_535)])
    adoption.take_over.assert_not_called()


def test_a_table_that_somebody_else_has_loaded_is_replaced(host: Host) -> None:
    nft, identity, adoption = Mock(), Mock(is_known=True), Mock()
    nft.read_denies.return_value = [Mock()]
    identity.is_ours.return_value = False
    host.restore(stored(), nft=nft, adoption=adoption, identity=identity)
    nft.remove.assert_called_once()
    adoption.take_over.assert_not_called()


def test_what_could_be_read_at_last_holds_unless_something_newer_was_said(host: Host) -> None:
    host.ask("block", user="u1001", for_ns=60 * NS)
    host.ask("allow", user="u1003", for_ns=60 * NS)
    host.orders.freed.add((Subject(id=1002), None))
    older = block_of("admin", for_s=7200, name="old-name")
    allowed = AllowanceRow(uid=1003, name="u1003", since_ns=T0, until_ns=T0 + 7200 * NS, by="admin")
    other = AllowanceRow(uid=1005, name="u1005", since_ns=T0, until_ns=T0 + 7200 * NS, by="admin")
    loaded = stored(
        older,
        block_of("admin", uid=1002),
        block_of("admin", uid=1004),
        allowances=(allowed, other),
        switches=(SwitchRow(name="off", since_ns=1, until_ns=None, by="admin"),),
    )
    host.restorer().take_late(loaded, host.switch, dry_run=False)
    host.switch.restore.assert_called_once()
    assert host.blocked() == [1001, 1004]
    (held,) = host.engine.blocks_of(WEB01)
    assert held.until_ns == T0 + 60 * NS
    until = {allowance.subject.id: allowance.until_ns for allowance in host.engine.allowances()}
    assert until == {1003: T0 + 60 * NS, 1005: T0 + 7200 * NS}
    assert {call.args[0][1] for call in host.state.delete.call_args_list} >= {1001, 1002}
    host.enforcement.refresh.assert_called_with("state")


def test_what_was_ended_before_the_state_could_be_read_stays_ended(host: Host) -> None:
    host.state.is_read = False
    host.ask("allow", user="u1003", end=True)
    host.ask("allow", user="u1004", for_ns=60 * NS)
    host.ask("block", user="u1005", for_ns=60 * NS)
    host.guard.take([connect(n / 10, uid=1006) for n in range(BURST.limit + 1)])
    assert host.blocked() == [1005, 1006]
    host.switch.was_switched = True
    rows = [
        AllowanceRow(uid=uid, name=f"u{uid}", since_ns=T0 - NS, until_ns=T0 + 7200 * NS, by="admin")
        for uid in (1003, 1005, 1006)
    ]
    off = SwitchRow(name="off", since_ns=1, until_ns=None, by="admin")
    loaded = stored(block_of("guard", uid=1004), allowances=tuple(rows), switches=(off,))
    host.restorer().take_late(loaded, host.switch, dry_run=False)
    host.switch.restore.assert_not_called()
    assert {allowance.subject.id for allowance in host.engine.allowances()} == {1004, 1005, 1006}
    assert host.blocked() == [1005], "what the guard did is over by an allowance, what a person did is not"
    assert key_of(rows[0]) in [call.args[0] for call in host.state.delete.call_args_list]
    assert not host.orders.freed
    assert not host.orders.unallowed


def test_an_allowance_that_was_given_after_one_was_ended_is_kept_though_the_state_is_read_late(host: Host) -> None:
    host.state.is_read = False
    host.ask("allow", user="u1003", end=True)
    host.ask("allow", user="u1003", for_ns=60 * NS)
    older = AllowanceRow(uid=1003, name="u1003", since_ns=T0 - NS, until_ns=T0 + 7200 * NS, by="admin")
    host.restorer().take_late(stored(allowances=(older,)), host.switch, dry_run=False)
    assert [held.until_ns for held in host.engine.allowances()] == [T0 + 60 * NS]
    assert key_of(older) not in [call.args[0] for call in host.state.delete.call_args_list], "it is the new one's key"


def test_nothing_comes_back_for_longer_than_it_was_meant_though_the_clock_is_years_behind(host: Host) -> None:
    year = 365 * 86_400 * NS
    block = replace(block_of("guard", uid=1002), since_ns=T0 + year, until_ns=T0 + year + 60 * NS)
    row = AllowanceRow(uid=1003, name="u1003", since_ns=T0 + year, until_ns=T0 + year + 60 * NS, by="admin")
    levels = tuple(EscalationRow(uid=uid, name=f"u{uid}", level=1, last_ns=T0 + year + 60 * NS) for uid in (1002, 1004))
    loaded = replace(stored(block, allowances=(row,)), escalation=levels)
    nft = Mock(read_handle=Mock(return_value=None))
    host.restore(loaded, nft=nft, adoption=Mock(), identity=make_identity(host))
    assert [block.until_ns for block in host.engine.blocks()] == [T0 + 60 * NS]
    assert [(held.since_ns, held.until_ns) for held in host.engine.allowances()] == [(T0, T0 + 60 * NS)]
    known = [host.engine.memory.escalation(Subject(id=uid)) for uid in (1002, 1004)]
    assert [level is not None and level.until_ns for level in known] == [T0 + 60 * NS, T0]


def test_who_has_a_uid_next_begins_with_nothing_of_the_former_owner(host: Host) -> None:
    host.guard.take([connect(n / 10) for n in range(BURST.limit + 3)])
    assert host.execution.refused[WEB01]
    host.people.accounts[WEB] = replace(host.people.account(WEB), name="shop7")
    host.guard.reconfigure(host.settings)
    assert host.blocked() == []
    assert not host.execution.refused[WEB01]
    host.journal.end_incidents_of_others.assert_called_once_with(host.execution.account_of)


def test_on_is_no_empty_word_while_the_state_can_t_say_that_it_was_off(host: Host) -> None:
    assert host.ask("on") == "It is on already."
    host.switch.switch_on.assert_not_called()
    host.switch.is_known = False
    assert host.ask("on").startswith("ON.")
    host.switch.switch_on.assert_called_once()


@pytest.mark.parametrize("everybody", [True, False])
def test_how_often_whom_somebody_freed_was_blocked_before_is_forgotten_late_too(host: Host, everybody: bool) -> None:
    host.orders.freed.add((None if everybody else Subject(id=1002), None))
    rows = tuple(EscalationRow(uid=uid, name=f"u{uid}", level=3, last_ns=T0 + 60 * NS) for uid in (1002, 1003))
    loaded = replace(stored(block_of("guard", uid=1002)), escalation=rows)
    host.restorer().take_late(loaded, host.switch, dry_run=False)
    levels = [host.engine.memory.escalation(Subject(id=uid)) for uid in (1002, 1003)]
    assert [level is None for level in levels] == [True, False]


def test_what_comes_back_under_another_name_than_it_was_kept_is_kept_anew(host: Host) -> None:
    kept = block_of("admin", name="")
    kept = Block(**{name: getattr(kept, name) for name in kept.__dataclass_fields__} | {"name": None})
    host.orders.restore(kept)
    host.state.delete.assert_called_once_with(block_key(kept))
    host.orders.restore_allowance(AllowanceRow(uid=1002, name=None, since_ns=T0, until_ns=T0 + NS, by="admin"))
    assert host.state.put.call_args.args[0].name == "u1002"


def test_what_else_follows_from_an_order_is_carried_out_too(host: Host) -> None:
    ended = Ended(time_ns=T0, block=block_of("guard"), by="admin", reason="")
    engine = Mock(**{"commands.add_block.return_value": [ended]})
    host.orders._engine = engine
    assert host.orders.begin(block_of("admin"))
    host.orders.restore(block_of("admin"))
    assert host.journal.add_unblock.call_count == 2


# -- what fail2ban and people hear -------------------------------------------------------------------------------------


def test_fail2ban_hears_why_nobody_is_blocked(host: Host) -> None:
    ban: dict[str, Any] = {"source": "fail2ban:smtpguard", "at": T0 / NS}
    with pytest.raises(PolicyError, match="u1600 is not blocked: exempt"):
        host.ask("block", uid=1600, user="u1600", for_ns=600 * NS, **ban)
    late = {**ban, "at": T0 / NS - 60}
    assert host.ask("block", uid=WEB, user="u1001", for_ns=1, **late) == (
        "u1001 is not blocked: that ban is over already"
    )
    with pytest.raises(GuardError, match="uid 1001 is u1001 now, not web99"):
        host.ask("block", uid=WEB, user="web99", for_ns=600 * NS, **ban)
    assert host.blocked() == []
    dry = Host(dry_run=True)
    assert "DRY RUN, nothing refused: would block u1001 until " in dry.ask(
        "block", uid=WEB, user="u1001", for_ns=600 * NS, **ban
    )
    assert dry.blocked() == []


def test_a_person_hears_what_their_block_means() -> None:
    host = Host(dry_run=True)
    host.people.accounts[1700] = person(1700, "shared")
    assert "(enforced, although this is a dry run)" in host.ask("block", user="u1001")
    assert "every site that runs as u1700 is blocked" in host.ask("block", user="u1700")
    host.enforcement.carry_out.return_value = False
    host.enforcement.health.troubles.return_value = ["nft: no"]
    with pytest.raises(GuardError, match="But the kernel does not carry it out yet: nft: no"):
        host.ask("block", user="u1002")


def test_nobody_to_unblock_is_no_failure_and_a_kernel_that_does_not_let_go_is_one(host: Host) -> None:
    assert (
        host.ask("unblock", user="u1001")
        == "u1001 is not blocked by smtpguard. If mail still fails: smtpguard why u1001"
    )
    assert host.ask("unblock", all=True) == "Nobody is blocked by smtpguard."
    with pytest.raises(GuardError, match='No account "web99" on this host'):
        host.ask("unblock", user="web99")
    host.orders.begin(block_of("fail2ban:smtpguard"))
    assert host.ask("unblock", uid=WEB, user="u1001", source="fail2ban:smtpguard").endswith("fail2ban:smtpguard ended")
    host.enforcement.health.may_refuse_freed.return_value = True
    host.enforcement.health.troubles.return_value = ["nft: no"]
    with pytest.raises(GuardError, match="u1001 may still be refused by the kernel: nft: no"):
        host.ask("unblock", user="u1001")


def test_a_request_waits_for_a_name_that_is_looked_up_and_not_for_a_directory_that_is_down(host: Host) -> None:
    lookups: Any = host.verbs._lookups
    with patch.object(host.people, "by_name", side_effect=UnansweredError("nobody knows yet", is_pending=True)):
        assert host.verbs.handle(ROOT, "unblock", {"user": "corp"}) is lookups.wait.return_value
    down = UnansweredError("the directory is down", is_pending=False)
    with patch.object(host.people, "by_name", side_effect=down), pytest.raises(UnansweredError):
        host.verbs.handle(ROOT, "unblock", {"user": "corp"})
    assert lookups.wait.call_count == 1


def test_a_list_that_is_shown_while_it_is_off_says_until_when(host: Host) -> None:
    host.switch.is_off, host.switch.until_ns = True, 5 * NS
    shown = host.verbs.handle(ROOT, "blocks", {})
    assert isinstance(shown, Pages)
    assert shown.head == {"off": {"until": 5.0}, "watched": []}


def test_a_reload_is_answered_with_what_came_of_it(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    answers: tuple[Reloaded | GuardError, ...] = (
        Reloaded(text="Loaded."),
        Reloaded(text="Loaded.", unmet=("nft: no",)),
        GuardError("ports: not a list"),
    )
    found = []
    for answer in answers:
        host.verbs._reload = lambda done, answer=answer: done(answer)
        later = host.verbs.handle(ROOT, "reload", {})
        assert isinstance(later, Later)
        found.append(later.answer)
    assert isinstance(found[0], dict)
    assert found[0]["text"] == "Loaded."
    assert [str(answer)[:40] for answer in found[1:]] == [
        "Loaded. But the kernel does not carry it",
        "ports: not a list",
    ]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [str(found[1])]


def test_a_connection_to_loopback_is_no_line(host: Host) -> None:
    why_exempt: Any = host.guard._destinations.why_exempt
    why_exempt.return_value = "loopback"
    host.guard.take([connect(1)])
    host.journal.add.assert_not_called()


def test_who_is_in_a_set_and_in_no_list_is_adopted_at_a_start(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    nft, adoption = Mock(), Mock()
    nft.read_denies.return_value = [
        Deny(subject=Subject(id=uid), kind="block", until_ns=T0 + NS, ranges=(), comment="") for uid in (WEB, 1002)
    ]
    row = AllowanceRow(uid=1005, name="u1005", since_ns=T0, until_ns=T0 + 7200 * NS, by="admin")
    loaded = stored(block_of("admin"), allowances=(row,))
    host.restore(loaded, nft=nft, adoption=adoption, identity=Mock(is_known=False))
    ((reach, elements),) = [call.args for call in adoption.take_over.call_args_list]
    assert (reach.kind, [element.first for element in elements]) == ("block", [1002])
    assert [allowance.subject.id for allowance in host.engine.allowances()] == [1005]
    assert "the state does not know the nft table that is there: who is in it is listed as blocked" in caplog.messages


@pytest.mark.parametrize(("dry_run", "by"), [(False, "block"), (True, None)])
def test_what_a_block_that_would_be_stands_against_is_not_refused(dry_run: bool, by: str | None) -> None:
    host = Host(dry_run=dry_run)
    host.guard.take([connect(n / 100) for n in range(5)])  # of a sensor that does not know the result
    entries = [call.args[0] for call in host.journal.add.call_args_list]
    assert [entry.refused_by for entry in entries] == [None, None, None, None, by]
