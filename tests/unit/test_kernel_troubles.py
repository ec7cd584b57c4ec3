"""Where the kernel, or what was stored, fails a part of the daemon: told once, shown, and tried again."""

import logging
from dataclasses import replace
from typing import Any, cast
from unittest.mock import Mock, patch

import pytest

from smtpguard.actions.base import Reach
from smtpguard.actions.nft.difference import Difference
from smtpguard.actions.nft.elements import Element
from smtpguard.actions.nft.render import TableSpec
from smtpguard.control import watch_item
from smtpguard.daemon.adoption import Adoption
from smtpguard.daemon.enforce.activation import Activation
from smtpguard.daemon.enforce.bpf_attachment import BpfAttachment
from smtpguard.daemon.enforce.demand import own_limit
from smtpguard.daemon.enforce.exact_limits import ExactLimits
from smtpguard.daemon.enforce.kernel_verdicts import MAX_KNOWN, KernelVerdicts
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.enforce.set_comparison import SetComparison
from smtpguard.daemon.enforce.table_watch import TableWatch
from smtpguard.daemon.explanation import Explanation
from smtpguard.daemon.record.window_saver import Keeping
from smtpguard.daemon.serve.control_part import ControlPart
from smtpguard.decode.netlink.nft_notify import NftEvent
from smtpguard.errors import DecodeError, EnforceError
from smtpguard.model import NS, Allowance, Block, Connect, Subject
from smtpguard.policy.credit_rules import NO_LIMIT
from smtpguard.policy.own_terms import OwnTerms
from smtpguard.settings import KEY_SLOTS, Override, Rule, Settings
from smtpguard.state.rows import BlockRow, SwitchRow, WindowRow
from smtpguard.state.statements import switch_key
from tests.support.policy import People, person

BROKEN = EnforceError("no", where="nft")
EVERYBODY = Reach("block", None)


def element(first: int, last: int, until_ns: int) -> Element:
    return Element(first=first, last=last, until_ns=until_ns)


class Now:
    """CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        self.ns = 1000 * NS

    def __call__(self) -> int:
        return self.ns


# -- the table ---------------------------------------------------------------------------------------------------------


def make_table(**methods: Mock) -> Mock:
    table = Mock(**methods)
    table.spec = TableSpec()
    return table


def test_a_table_that_can_not_be_taken_away_is_a_trouble_where_it_was_ours(caplog: pytest.LogCaptureFixture) -> None:
    table = make_table(remove=Mock(side_effect=BROKEN))
    activation = Activation(table)
    activation.apply(up=True, lost=False)
    assert activation.trouble is None
    for _ in range(2):
        activation.apply(up=False, lost=False)
        assert activation.trouble == "nft: no"
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == ["nft: nft: no"], "told once"
    table.remove.side_effect = None
    activation.apply(up=False, lost=False)
    assert activation.trouble is None


def test_a_host_without_nft_is_no_trouble_where_nothing_is_refused() -> None:
    activation = Activation(make_table(exists=Mock(side_effect=BROKEN)))
    activation.apply(up=False, lost=False)
    assert activation.trouble is None


class World:
    """Healing on fakes."""

    def __init__(self) -> None:
        self.now = Now()
        self.watch = Mock()
        self.watch.fileno.return_value = 7
        self.nft = Mock()
        self.nft.check.return_value = "whole"
        self.enforcement = Mock()
        self.enforcement.is_refusing.return_value = True
        self.enforcement.refresh.return_value = True
        self.healing = TableWatch(self.watch, nft=self.nft, enforcement=self.enforcement, freed=Mock(), now=self.now)

    def pass_s(self, seconds: float) -> None:
        self.now.ns += int(seconds * NS)
        self.healing.on_time(self.now.ns)


LOST = NftEvent(kind="lost", comm=b"nft", pid=12)


def test_notifications_that_fail_are_a_trouble_and_are_taken_up_again() -> None:
    world = World()
    world.watch.open.side_effect = BROKEN
    world.healing.open()
    assert world.healing.trouble == "nft: no"
    world.watch.open.side_effect = None
    world.healing.open()
    assert world.healing.trouble is None
    world.watch.read.side_effect = BROKEN
    world.healing.on_ready(7)
    world.watch.fileno.return_value = -1
    assert (world.healing.trouble, list(world.healing.filenos())) == ("nft: no", [])
    world.pass_s(10.1)
    assert world.healing.trouble is None, "opened again"


def test_without_notifications_a_lost_table_is_noticed_by_a_look() -> None:
    world = World()
    world.nft.check.side_effect = BROKEN
    world.pass_s(10.1)
    world.enforcement.refresh.assert_called_once_with("lost")
    assert world.healing.heals == 1


def test_a_table_that_can_not_be_put_back_is_tried_again_each_second(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.watch.read.return_value = [LOST]
    world.enforcement.refresh.return_value = False
    world.enforcement.health.table_trouble = "no"
    world.healing.on_ready(7)
    assert "the table was deleted by nft (pid 12) and can't be put back: no" in caplog.messages
    assert world.healing.heals == 0
    world.enforcement.refresh.return_value = True
    world.pass_s(1.1)
    assert world.healing.heals == 1


def test_nothing_is_put_back_where_nothing_is_refused_any_more() -> None:
    world = World()
    world.watch.read.return_value = [LOST]
    world.enforcement.refresh.return_value = False
    world.healing.on_ready(7)
    world.enforcement.is_refusing.return_value = False
    world.pass_s(1.1)
    assert world.enforcement.refresh.call_count == 1
    world.watch.read.return_value = [LOST]
    world.healing.on_ready(7)
    world.enforcement.remove_foreign.assert_called_with("nft (pid 12)")


def test_who_deletes_it_again_and_again_is_told_and_healing_slows(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.watch.read.return_value = [LOST]
    for _ in range(50):
        world.healing.on_ready(7)
        world.pass_s(0.05)
    told = "nft (pid 12) deletes the table again and again: it is put back once a second from here"
    assert caplog.messages.count(told) == 1
    assert world.healing.heals < 50


class Looked:
    """A comparison on fakes."""

    def __init__(self) -> None:
        self.nft, self.adopt, self.now = Mock(), Mock(), Now()
        self.nft.check.return_value = "whole"
        self.nft.compare.return_value = {}
        self.comparison = SetComparison(self.nft, adopt=self.adopt, now=self.now)


def test_sets_that_can_not_be_looked_at_are_a_trouble(caplog: pytest.LogCaptureFixture) -> None:
    looked = Looked()
    looked.nft.compare.side_effect = BROKEN
    for _ in range(2):
        looked.comparison.compare(reason="status")
    assert looked.comparison.trouble == "nft: no"
    assert (
        len([text for text in caplog.messages if "can't compare the kernel's sets with the list: nft: no" in text]) == 1
    )
    looked.nft.compare.side_effect = None
    looked.comparison.compare(reason="time")
    assert looked.comparison.trouble is None
    calls = looked.nft.compare.call_count
    looked.comparison.compare(reason="status")
    assert looked.nft.compare.call_count == calls, "a look that is fresh will do"


def test_a_table_that_changed_and_nobody_said_so_is_put_back(caplog: pytest.LogCaptureFixture) -> None:
    looked = Looked()
    looked.nft.check.return_value = "damaged"
    looked.comparison.compare(reason="changed")
    looked.nft.restore.assert_not_called()
    looked.comparison.compare(reason="time")
    looked.nft.restore.assert_called_once()
    assert "The nft table is damaged, nobody knows by whom. It is back, with every block." in caplog.messages


def test_who_is_missing_in_a_set_is_put_back_and_who_stays_longer_is_shortened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looked = Looked()
    differs = Difference(missing=tuple((uid, uid) for uid in range(1, 8)), longer=(element(9, 12, 5 * NS),))
    looked.nft.compare.side_effect = [{EVERYBODY: differs}, {}]
    looked.comparison.compare(reason="time")
    ((reach, ours),) = [call.args for call in looked.nft.put_back.call_args_list]
    assert (reach, ours[-1], len(ours)) == (EVERYBODY, (9, 12), 8)
    assert any("uid 1, uid 2, uid 3, uid 4, uid 5 and 2 more" in text for text in caplog.messages)


def test_a_stranger_s_element_of_whom_nobody_may_block_or_of_too_many_is_taken_out() -> None:
    nft, orders = Mock(), Mock()
    people = People([person(1500, "exempt")])
    adoption = Adoption(orders, Mock(), nft, cast("Any", people), lambda: 5 * NS)
    adoption.take_over(EVERYBODY, (element(1500, 1500, 9 * NS),), reason="by hand")
    adoption.take_over(EVERYBODY, (element(7, 90_000, 9 * NS),), reason="by hand")
    orders.begin.assert_not_called()
    assert [call.args for call in nft.clear.call_args_list] == [
        (EVERYBODY, [(1500, 1500)]),
        (EVERYBODY, [(7, 90_000)]),
    ]
    adoption.take_over(EVERYBODY, (element(2001, 2002, 9 * NS),), reason="by hand")
    assert [call.args[0].subject.id for call in orders.begin.call_args_list] == [2001, 2002]


# -- the BPF program ---------------------------------------------------------------------------------------------------


def test_a_program_that_can_not_be_told_is_a_trouble_until_it_can(caplog: pytest.LogCaptureFixture) -> None:
    program = Mock()
    program.set_ports.side_effect = EnforceError("the map is full", where="bpf")
    attachment = BpfAttachment(program)
    for _ in range(2):
        attachment.refresh(frozenset({25}), [])
    assert (attachment.trouble, len(caplog.records)) == ("bpf: the map is full", 1)
    program.set_ports.side_effect = None
    attachment.refresh(frozenset({25}), [])
    assert attachment.trouble is None
    attachment.refresh(frozenset({25}), [])
    assert program.set_ports.call_count == 3, "told what has changed only"


BURST = Rule(name="burst", count="connections", limit=5, window_ns=600 * NS, action="block", block_ns=60 * NS)
NETWORKS = Rule(name="fanout", count="networks", limit=5, window_ns=600 * NS, action="block", block_ns=60 * NS)


class Credits:
    """What stands in for the kernel's maps."""

    unread_ns = None

    def __init__(self) -> None:
        self.maps, self.keys, self.ledger = Mock(), Mock(), Mock()
        self.ledger.spoken.return_value = {}
        self.maps.read_usage.return_value = None
        self.start, self.on_time, self.speak, self.note = Mock(), Mock(), Mock(), Mock()
        self.count_missing = Mock()
        self.settle = Mock()
        self.next_deadline = Mock(return_value=1 << 62)


def made_crediting() -> tuple[ExactLimits, Any]:
    engine = Mock(is_off=False)
    engine.allowances.return_value = ()
    engine.own = OwnTerms()
    engine.exact.windows.return_value = engine.exact.key_windows.return_value = ()
    crediting = ExactLimits(Mock(), engine, Now())
    crediting._source = Mock()
    crediting._source.stats.notes = {}
    book = Credits()
    crediting._credits = book  # type: ignore[assignment]
    return crediting, book


def test_credits_that_the_kernel_does_not_take_are_a_trouble_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    crediting, book = made_crediting()
    book.start.side_effect = EnforceError("no", where="bpf")
    settings = Settings(dry_run=False, rules=(BURST,))
    crediting.refresh(settings, (), trusted=True, anew=True)
    assert crediting.trouble == "bpf: no"
    assert caplog.messages == ["limits are not exact, the engine enforces them: bpf: no"]
    crediting.on_time(1001 * NS - 1)
    assert book.start.call_count == 1
    book.start.side_effect = None
    crediting.on_time(1002 * NS)
    assert crediting.trouble is None


def test_limits_that_can_not_begin_are_tried_again_and_take_no_cpu(caplog: pytest.LogCaptureFixture) -> None:
    crediting, book = made_crediting()
    crediting._source.drained_ns = 0  # type: ignore[union-attr]
    crediting.refresh(Settings(dry_run=False, rules=(BURST,)), (), trusted=True, anew=True)
    assert crediting.is_settled()
    book.unread_ns = 5
    assert crediting.next_deadline() == 0
    assert not crediting.is_settled(), "who waits for the limits waits"
    crediting._source.drained_ns = 6  # type: ignore[union-attr]
    book.settle.side_effect = EnforceError("no", where="bpf")
    crediting.on_time(7)
    assert crediting.trouble == "bpf: no"
    assert crediting.is_settled(), "and not for what does not come"
    assert crediting.next_deadline() == 1 << 62
    assert caplog.messages == ["limits are not exact, the engine enforces them: bpf: no"]
    crediting.on_time(8)
    assert book.settle.call_count == 2


def test_a_user_s_own_limit_is_the_kernel_s_where_it_can_be() -> None:
    own = own_limit
    assert own(BURST, Rule(name="burst", count="connections", limit=9, window_ns=600 * NS, action="block")) == 9
    assert own(BURST, Rule(name="burst", count="connections", limit=9, window_ns=60 * NS, action="block")) == NO_LIMIT
    much = KEY_SLOTS + 1
    fanout = Rule(name="fanout", count="networks", limit=much, window_ns=600 * NS, action="block", block_ns=60 * NS)
    assert own(NETWORKS, fanout) == NO_LIMIT


def test_verdicts_found_early_are_remembered_within_a_bound() -> None:
    verdicts = KernelVerdicts()
    found = [Connect(time_ns=n, uid=1, port=25, address=b"\xc0\0\2\1", sensor="bpf") for n in range(MAX_KNOWN + 3)]
    for verdict in found:
        verdicts.remember(verdict)
    assert sum(verdicts.is_known(verdict) for verdict in found) == MAX_KNOWN


# -- what was stored, and what goes over the socket --------------------------------------------------------------------


def test_stored_windows_that_are_no_good_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    engine = Mock()
    engine.memory.restore_windows.return_value = 2
    keeping = Keeping(engine, Mock(), Mock(offset_ns=0), Now())
    keeping.restore_windows([WindowRow(uid=1, netns=None, rule="x", data=b"bad", offset_ns=0)])
    assert caplog.messages == ["2 parts of stored windows were no good and are left out"]


def test_an_off_whose_time_is_over_at_the_start_is_forgotten() -> None:
    state, engine = Mock(), Mock(is_off=False)
    wall = Mock()
    wall.to_deadline_ns.side_effect = lambda ns: ns
    switch = OffSwitch(engine, Mock(), state, wall, Now())
    switch.restore(SwitchRow(name="off", since_ns=1, until_ns=999 * NS, by="admin"))
    state.delete.assert_called_once_with(switch_key("off"))
    engine.commands.set_off.assert_not_called()


def test_an_off_is_no_longer_than_it_was_meant_to_be_though_the_clock_is_years_behind_at_the_start() -> None:
    state, engine = Mock(), Mock(is_off=True)
    wall = Mock(offset_ns=0, to_wall_ns=lambda ns: ns, to_deadline_ns=lambda ns: ns)
    switch = OffSwitch(engine, Mock(), state, wall, lambda: 1000 * NS)
    switch.restore(SwitchRow(name="off", since_ns=10**9 * NS, until_ns=(10**9 + 60) * NS, by="admin"))
    assert switch.until_ns == 1060 * NS
    switch.restore(SwitchRow(name="off", since_ns=990 * NS, until_ns=1050 * NS, by="admin"))
    assert switch.until_ns == 1050 * NS


@pytest.mark.parametrize("change", [{"account": None}, {"address": "zz"}, {"wall_ns": "then"}, {"exe": 5}])
def test_what_is_no_item_of_the_live_stream_is_refused(change: dict[str, object]) -> None:
    connect = Connect(time_ns=1, uid=1001, port=25, address=b"\xc0\0\2\1", sensor="bpf", exe=b"/x\xff")
    item = watch_item.render_item(connect, People([]).account(1001), 5)
    assert watch_item.parse_item(item)[0].exe == b"/x\xff"
    with pytest.raises(DecodeError):
        watch_item.parse_item({**item, **change})


def test_who_is_refused_by_a_cap_or_credits_alone_is_told_of_a_limit() -> None:
    explanation = Explanation(Mock(blocks_of=Mock(return_value=())), People([]), Mock(), Now())
    assert "is limited on this server; try again later" in explanation.explain(1001)


# -- verdicts that the ring is late with, or has lost ------------------------------------------------------------------


def attempt(time_ns: int, uid: int = 1001, **more: Any) -> Connect:  # noqa: ANN401 - as Connect
    return Connect(time_ns=time_ns, uid=uid, port=25, address=b"\xc0\0\2\1", sensor="bpf", **more)


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, object]:
    """What the kernel's samples decode to."""
    known: dict[bytes, object] = {}
    for module in ("exact_limits", "kernel_verdicts"):
        monkeypatch.setattr(f"smtpguard.daemon.enforce.{module}.decode", lambda sample: known[sample])
    return known


def test_a_verdict_that_the_ring_did_not_tell_of_is_found_once(samples: dict[bytes, object]) -> None:
    crediting, book = made_crediting()
    crediting.refresh(Settings(dry_run=False, rules=(BURST,)), (), trusted=True, anew=True)
    source: Any = crediting._source
    source.drained_ns = 500 * NS
    samples |= {b"spoken": attempt(1), b"lost": attempt(400 * NS, 1002), b"late": attempt(999 * NS + NS // 2, 1003)}
    samples[b"other"] = object()
    book.ledger.spoken.return_value = {1001: 5}
    book.keys.count_unkeyed.return_value = 7
    book.keys.count_verdicts.return_value = 4
    book.keys.read_verdicts.return_value = [(1, b"other"), (1001, b"spoken"), (1002, b"lost"), (1003, b"late")]
    assert [connect.uid for connect in crediting.take_overdue(1000 * NS)] == [1002]
    book.keys.drop_verdict.assert_called_once_with(1001, 1)
    assert list(source.stats.notes.values()) == [7]
    assert crediting.is_known(attempt(400 * NS, 1002))
    assert not crediting.is_known(attempt(400 * NS, 1002)), "asked once of each"
    assert crediting.take_overdue(1000 * NS) == [], "not before the next beat"
    book.keys.read_verdicts.return_value = []
    crediting.take_overdue(1002 * NS)
    calls = book.keys.read_verdicts.call_count
    crediting.take_overdue(1004 * NS)
    assert book.keys.read_verdicts.call_count == calls, "nothing new: not looked at"


def test_who_is_refused_by_credits_alone_is_told_to_the_kernel() -> None:
    crediting, book = made_crediting()
    crediting.refresh(Settings(dry_run=False, rules=(BURST,)), (), trusted=True, anew=True)
    crediting.note(attempt(5, result="refused", refused_by="credit"), Subject(id=1001), [])
    assert book.speak.call_args.args[0] == 1001


def test_only_a_rule_that_holds_and_this_host_s_users_are_prepared_for() -> None:
    crediting, book = made_crediting()
    crediting.refresh(Settings(dry_run=False, rules=(BURST,)), (), trusted=True, anew=True)
    book.ledger.rules = [Mock(holds=False)]
    for connect, subject in (
        (attempt(1), Subject(id=1001)),
        (attempt(1, rule=0), Subject(id=1001, scope=7)),
        (attempt(1, rule=0), Subject(id=1001)),
        (attempt(1, rule=3), Subject(id=1001)),
    ):
        assert crediting.prepare(connect, subject) is None
    book.keys.read_verdict.assert_not_called()


def test_an_override_is_the_kernel_s_limit() -> None:
    crediting, book = made_crediting()
    own = replace(BURST, limit=9)
    override = Override(match=Mock(), rules={"burst": own})
    settings = Settings(dry_run=False, rules=(BURST,), overrides=(override,))
    accounts: Any = crediting._accounts
    accounts.known_uids.return_value = [1001, 1002]
    accounts.account.side_effect = lambda uid: People([]).account(uid)
    with patch("smtpguard.daemon.enforce.demand.override_index", side_effect=[0, None]):
        crediting.refresh(settings, (), trusted=True, anew=True)
    assert book.start.call_args.kwargs["limits"] == {1001: {0: 9}}


def test_who_watches_is_told_of_an_attempt_and_nobody_else_costs_anything() -> None:
    server = Mock()
    server.has_readers.return_value = False
    doors = ControlPart(server)
    entry = Mock(connect=attempt(5), account=People([]).account(1001))
    doors.publish(entry, 7)
    server.publish.assert_not_called()
    server.has_readers.return_value = True
    doors.publish(entry, 7)
    topic, item, _ = server.publish.call_args.args
    assert (topic, item["uid"], item["wall_ns"]) == ("watch", 1001, 7)


@pytest.mark.parametrize("keyed", [False, True])
def test_what_the_kernel_knows_is_told_to_the_engine_before_an_attempt_is_judged(
    samples: dict[bytes, object], *, keyed: bool
) -> None:
    rule = NETWORKS if keyed else BURST
    crediting, book = made_crediting()
    engine: Any = crediting._engine
    engine.exact.would_refuse.return_value = False
    crediting.refresh(Settings(dry_run=False, rules=(rule,)), (), trusted=True, anew=True)
    book.ledger.rules = [Mock(holds=True, is_keyed=keyed)]
    book.ledger.emptied.return_value = {1001: {0: 5}}
    book.keys.read.return_value = {b"old": 5, b"new": 6}
    book.count_missing.return_value = 2
    book.keys.read_verdict.return_value = b"verdict"
    verdict = samples[b"verdict"] = attempt(8, cookie=1, rule=0, result="refused", refused_by="credit")
    refused = attempt(9, cookie=2, rule=0, result="refused", refused_by="credit")
    assert crediting.prepare(refused, Subject(id=1001)) is verdict, "first the one with which it was exceeded"
    assert crediting.is_known(verdict), "the ring may tell of it too"
    engine.exact.catch_up.assert_not_called()
    assert crediting.prepare(verdict, Subject(id=1001)) is None
    told = engine.exact.catch_up.call_args.kwargs
    assert told == ({"keys": {b"new": 6}, "lost": 0} if keyed else {"keys": {}, "lost": 2})
    book.keys.read_verdict.return_value = None
    assert crediting.prepare(refused, Subject(id=1001)) is None
    engine.exact.would_refuse.return_value = True
    assert crediting.prepare(verdict, Subject(id=1001)) is None
    assert engine.exact.catch_up.call_count == 1


def test_who_has_an_allowance_is_limited_by_no_rule_in_the_kernel() -> None:
    crediting, book = made_crediting()
    engine: Any = crediting._engine
    for subject in (Subject(id=1001), Subject(id=7, scope=5)):
        engine.own.allowances[subject] = Allowance(
            subject=subject, name=None, since_ns=1, until_ns=2, by="admin", everything=True
        )
    crediting.refresh(Settings(dry_run=False, rules=(BURST,)), (), trusted=True, anew=True)
    assert book.start.call_args.kwargs["limits"] == {1001: {0: NO_LIMIT}}


def test_what_differs_and_can_not_be_mended_is_told_once_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    looked = Looked()
    differs = Difference(
        strangers=(element(7, 7, 5 * NS),), longer=(element(9, 12, 5 * NS),), missing=((3, 3),), uncounted=4
    )
    looked.nft.compare.return_value = {Reach("throttle", 25): differs}
    for _ in range(2):
        looked.comparison.compare(reason="time")
    (text,) = looked.comparison.differences
    assert text == (
        "1 throttled user is missing in the kernel (port 25): uid 3. Repair: smtpguard nft ensure. "
        "1 user is throttled in the kernel and not listed (port 25): uid 7. Let them send: smtpguard unblock --all. "
        "4 users are throttled in the kernel for longer than listed (port 25): uids 9-12. "
        "Repair: smtpguard nft ensure. "
        "4 users more throttled in the kernel than listed (port 25). Let them send: smtpguard unblock --all"
    )
    assert caplog.messages.count(f"OUT OF SYNC: {text}") == 1


def test_blocks_that_fail2ban_makes_are_not_demanded_in_the_kernel() -> None:
    crediting, book = made_crediting()
    crediting.refresh(Settings(dry_run=False, rules=(BURST,), block_by="fail2ban"), (), trusted=True, anew=True)
    assert book.start.call_args.args[0] == []
    crediting.refresh(Settings(dry_run=False, rules=(BURST,)), (), trusted=True, anew=True)
    book.reset = Mock()
    crediting.reset(1001)
    assert book.reset.call_args.args[:2] == (1001, None)


def test_what_is_stored_moves_with_the_clock() -> None:
    state, engine = Mock(), Mock()
    block = Block(
        subject=Subject(id=1001), name=None, source="guard", kind="block", since_ns=1, until_ns=2, mode="enforce"
    )
    engine.blocks.return_value = [block, Mock(renewed=True)]
    allowed: dict[str, Any] = {"since_ns": 1, "until_ns": 2, "by": "admin"}
    engine.allowances.return_value = [Allowance(subject=Subject(id=1001), name="web01", **allowed)]
    Keeping(engine, state, Mock(offset_ns=10), Now()).clock_was_set()
    assert state.put.call_args_list[0].args == (BlockRow.of(block, 10),)
    assert state.put.call_args.args[0].until_ns == 12
    state.put.reset_mock()
    wall = Mock(offset_ns=0, to_wall_ns=lambda ns: ns)
    switch = OffSwitch(Mock(is_off=False), Mock(), state, wall, Now())
    switch.clock_was_set()
    state.put.assert_not_called()
    switch.switch_off(60 * NS, by="admin")
    switch.clock_was_set()
    assert state.put.call_count == 2


def test_a_notification_that_says_too_little_has_the_sets_compared() -> None:
    world = World()
    world.watch.read.return_value = [NftEvent(kind="unknown")]
    world.healing.on_ready(7)
    world.enforcement.compare.assert_called_once_with("changed")
    world.enforcement.is_refusing.return_value = False
    world.pass_s(10.1)
    world.enforcement.remove_foreign.assert_called_once_with("somebody")
