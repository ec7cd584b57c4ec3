"""Enforcement: what the kernel refuses follows engine, configuration, accounts and the panic switch by one call."""

from collections.abc import Iterable, Sequence
from typing import Any, cast
from unittest.mock import Mock

import pytest

from smtpguard.actions.base import Deny, Exemptions, Kind
from smtpguard.actions.nft.render import TableSpec, build_spec
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.enforce.neighbours import Reason
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.errors import EnforceError
from smtpguard.model import NS, Allowance, Block, Subject
from smtpguard.policy.engine import Engine
from smtpguard.settings import Settings
from tests.support.policy import T0, People, person

ALICE, EXEMPT = Subject(id=1001), Subject(id=1500)


class Means:
    """Something that refuses, and notes the order of what it is told."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name = name
        self.told = told
        self.held: dict[tuple[int, str], Deny] = {}
        self.exemptions: Exemptions | None = None
        self.ports: frozenset[int] = frozenset()
        self.broken = False
        self.openers: object = None

    def note(self, what: str) -> None:
        self.told.append(f"{self.name} {what}")
        if self.broken:
            raise EnforceError("no", where=self.name)

    def apply_deny(self, deny: Deny) -> None:
        self.note(f"deny {deny.subject.id}")
        self.held[deny.subject.id, deny.kind] = deny

    def apply_release(self, subject: Subject, kind: Kind, port: int | None = None) -> None:
        del port
        self.note(f"release {subject.id}")
        self.held.pop((subject.id, kind), None)

    def apply_exemptions(self, exemptions: Exemptions) -> None:
        self.note("passes")
        self.exemptions = exemptions

    def read_denies(self) -> list[Deny]:
        return list(self.held.values())

    def set_openers(self, openers: object) -> None:
        self.openers = openers

    def look_again(self, denies: Sequence[Deny]) -> None:
        self.told.append(f"{self.name} again {[(deny.subject.id, deny.port) for deny in denies]}")


class Table(Means):
    """The nftables table."""

    def __init__(self, told: list[str], spec: TableSpec) -> None:
        super().__init__("nft", told)
        self.spec = spec
        self.there = False
        self.beats = 0

    def ensure(self) -> None:
        self.note("ensure")
        self.there = True

    def restore(self) -> None:
        self.note("restore")
        self.there = True

    def remove(self) -> None:
        self.note("remove")
        self.there = False
        self.held.clear()

    def exists(self) -> bool:
        return self.there

    def beat(self) -> None:
        self.beats += 1
        if self.broken:
            raise EnforceError("no", where=self.name)

    def read_capped(self) -> dict[int, int]:
        return {}

    def read_again(self) -> None:
        pass

    def clear_everywhere(self, intervals: Iterable[tuple[int, int]]) -> None:
        self.note(f"clear {list(intervals)}")

    def clear_all(self) -> None:
        self.note("clear all")


class Switch:
    """The BPF program's."""

    def __init__(self) -> None:
        self.on: bool | None = None

    def set_enforcing(self, *, on: bool) -> None:
        self.on = on


class Directory(People):
    """Accounts."""

    def ranges(self) -> tuple[tuple[int, int, int], ...]:
        return ()

    def listed_uids(self) -> list[int]:
        return []

    def told_uids(self) -> tuple[tuple[int, int], ...]:
        return ()


class Around:
    """Accounts, and what passes."""

    def __init__(self) -> None:
        self.accounts: Any = Directory([person(1500, "exempt")])
        self.asked: list[tuple[list[int], list[int]]] = []

    def exemptions(self, forced: Iterable[int], allowed: Iterable[int]) -> Exemptions:
        self.asked.append((list(forced), list(allowed)))
        forced, allowed = self.asked[-1]
        exempt = () if 1500 in forced else ((1500, 1500),)
        return Exemptions(uids=((0, 0), *exempt), uncapped=tuple((uid, uid) for uid in allowed))


class Judging:
    """Whether attempts are judged."""

    def __init__(self) -> None:
        self.vital_failures = 0
        self.sound = True

    def is_sound(self) -> bool:
        return self.sound


class World:
    """Enforcement on fakes."""

    def __init__(self, *, dry_run: bool = False) -> None:
        self.now = T0
        self.told: list[str] = []
        self.settings = Settings(dry_run=dry_run, rules=())
        self.around = Around()
        self.engine = Engine(settings=self.settings, directory=self.around.accounts, why_exempt=lambda _: None)
        self.engine.tick(self.now)
        self.nft = Table(self.told, build_spec(self.settings))
        self.bpf = Means("bpf", self.told)
        self.sessions = Means("sessions", [])
        self.switch = Switch()
        self.judging = Judging()
        self.enforcement = Enforcement(
            self.settings,
            engine=self.engine,
            around=self.around,
            nft=self.nft,
            sessions=self.sessions,
            judging=self.judging,
            now=lambda: self.now,
        )
        self.enforcement.reconciler.add_enforcer(self.bpf, first=True)
        self.enforcement.activation.attach(self.switch)

    def block(self, subject: Subject, *, carry_out: bool = True, force: bool = False) -> None:
        block = Block(
            subject=subject,
            name=f"u{subject.id}",
            source="admin",
            kind="block",
            since_ns=self.now,
            until_ns=self.now + 60 * NS,
            mode="enforce",
        )
        self.engine.commands.add_block(block, force=force)
        if carry_out:
            self.enforcement.carry_out(subject)

    def refresh(self, reason: Reason) -> list[str]:
        self.told.clear()
        self.enforcement.refresh(reason)
        return list(self.told)

    def held(self) -> list[bool]:
        return [bool(self.bpf.held), bool(self.nft.held), self.switch.on is True, self.nft.there]


@pytest.fixture
def world() -> World:
    made = World()
    made.block(ALICE, carry_out=False)
    made.enforcement.refresh("start")
    return made


def test_the_start_puts_all_in_force_in_one_order_and_a_second_refresh_does_nothing() -> None:
    world = World()
    world.block(ALICE, carry_out=False)
    assert world.refresh("start") == ["bpf passes", "nft passes", "nft ensure", "bpf deny 1001", "nft deny 1001"]
    assert world.switch.on
    reasons: tuple[Reason, ...] = ("accounts", "destinations", "off", "state", "allowance", "settings")
    for reason in reasons:
        assert world.refresh(reason) == []
    assert world.enforcement.next_deadline() == world.now + NS


def test_off_lifts_everything_a_restart_keeps_it_and_on_puts_back(world: World) -> None:
    assert world.held() == [True] * 4
    world.engine.commands.set_off(off=True)
    world.refresh("off")
    assert world.held() == [False] * 4
    world.block(Subject(id=1002))
    world.refresh("accounts")
    assert world.held() == [False] * 4
    world.engine.commands.set_off(off=False)
    world.refresh("off")
    assert world.held() == [True] * 4
    assert {uid for uid, _ in world.nft.held} == {uid for uid, _ in world.bpf.held} == {1001, 1002}


def test_what_a_person_removed_is_not_filled_until_it_is_wanted_again(world: World) -> None:
    world.enforcement.healing = False
    world.refresh("table")
    assert world.held() == [False] * 4
    world.told.clear()
    world.block(Subject(id=1002))
    assert world.told == []
    world.enforcement.healing = True
    world.refresh("table")
    assert len(world.nft.held) == 2


def test_a_table_that_cannot_be_had_keeps_bpf_from_nothing_and_is_tried_again() -> None:
    world = World()
    world.nft.broken = True
    assert not world.enforcement.refresh("start")
    world.block(ALICE)
    assert world.bpf.held
    assert world.switch.on
    assert world.enforcement.health.troubles()[0] == "nft: nft: no"
    assert not world.enforcement.is_in_place()
    world.nft.broken = False
    world.now += 11 * NS
    world.enforcement.on_time(world.now)
    assert world.held() == [True] * 4
    assert world.enforcement.is_in_place()
    assert world.enforcement.health.troubles() == []


class Compared:
    """Notes why it was asked to compare."""

    looked_ns: int | None = None
    differences: tuple[str, ...] = ()
    trouble: str | None = None

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def compare(self, *, reason: str, who: str = "") -> None:
        assert who == ""
        self.reasons.append(reason)


def test_a_lost_table_is_put_back_whole_and_compared(world: World) -> None:
    compared = world.enforcement.comparison = Compared()
    assert world.refresh("lost") == ["nft restore"]
    world.now += 61 * NS
    world.enforcement.on_time(world.now)
    assert compared.reasons == ["heal", "time"]


def test_sets_are_compared_within_a_second_of_the_start_and_once_a_minute(world: World) -> None:
    compared = world.enforcement.comparison = Compared()
    world.refresh("start")
    assert compared.reasons == [], "the start does not wait for it"
    world.now += NS
    world.enforcement.on_time(world.now)
    assert compared.reasons == ["time"]
    for _ in range(3):
        world.now += 61 * NS
        world.enforcement.on_time(world.now)
    assert compared.reasons == ["time"] * 4


def test_in_dry_run_the_means_are_there_as_long_as_a_persons_block() -> None:
    world = World(dry_run=True)
    world.enforcement.refresh("start")
    assert world.held() == [False] * 4
    world.block(ALICE)
    assert world.held() == [True] * 4
    world.now += 61 * NS
    world.engine.tick(world.now)
    world.enforcement.on_time(world.now)
    assert not world.nft.there
    assert world.switch.on is False


def test_a_table_of_an_earlier_run_does_not_outlive_a_start_in_dry_run() -> None:
    world = World(dry_run=True)
    world.nft.there = True
    world.enforcement.refresh("start")
    assert not world.nft.there


def test_an_exempt_account_that_is_blocked_does_not_pass_while_that_lasts(world: World) -> None:
    world.block(EXEMPT, force=True)
    assert world.nft.exemptions == Exemptions(uids=((0, 0),))
    world.engine.commands.unblock(EXEMPT, by="admin", now_ns=world.now)
    world.enforcement.carry_out(EXEMPT)
    assert world.nft.exemptions == Exemptions(uids=((0, 0), (1500, 1500)))


def test_many_allowances_that_end_are_one_refresh(world: World) -> None:
    for uid in (1001, 1002, 1003):
        world.engine.commands.allow(
            Allowance(subject=Subject(id=uid), name=f"u{uid}", since_ns=world.now, until_ns=world.now + NS, by="admin")
        )
    world.refresh("allowance")
    assert world.around.asked[-1] == ([], [1001, 1002, 1003])
    world.now += 2 * NS
    asked = len(world.around.asked)
    for _ in world.engine.tick(world.now):
        world.enforcement.request("allowance")
    assert world.enforcement.next_deadline() == 0
    world.enforcement.on_time(world.now)
    assert len(world.around.asked) == asked + 1
    assert world.nft.exemptions == Exemptions(uids=((0, 0), (1500, 1500)))


def test_another_configuration_makes_the_table_anew(world: World) -> None:
    world.enforcement.settings = Settings(dry_run=False, rules=(), ports=frozenset({2525}))
    assert world.refresh("settings") == ["nft ensure"]
    world.enforcement.settings = Settings(dry_run=True, rules=())
    world.engine.commands.unblock(ALICE, by="admin", now_ns=world.now)
    world.refresh("settings")
    assert not world.nft.there


def test_a_session_that_comes_to_be_after_the_block_is_looked_for(world: World) -> None:
    told = world.sessions.told
    told.clear()
    world.enforcement.end_late(ALICE, 25)
    assert told == ["sessions again [(1001, None)]"]
    world.enforcement.end_late(EXEMPT, 25)
    world.now += 61 * NS
    world.enforcement.end_late(ALICE, 25)
    assert len(told) == 1, "nobody is looked for who is not blocked"


def test_the_switch_asks_for_one_refresh_whatever_it_does(world: World) -> None:
    class State:
        def add(self, row: object) -> None: ...
        def put(self, row: object) -> None: ...
        def delete(self, key: object) -> None: ...

    class Wall:
        offset_ns = 0

        def to_wall_ns(self, time_ns: int) -> int:
            return time_ns

    switch = OffSwitch(world.engine, world.enforcement, cast("Any", State()), cast("Any", Wall()), lambda: world.now)
    switch.switch_off(60 * NS, by="root")
    assert world.held() == [False] * 4
    world.now += 60 * NS - 1
    switch.on_time(world.now)
    assert switch.is_off
    world.block(ALICE)
    world.now += 1
    switch.on_time(world.now)
    assert world.held() == [True] * 4


def test_credits_begin_anew_where_the_windows_may_be_others_and_only_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr(
        world.enforcement.credits, "refresh", lambda *_, trusted, anew, **__: seen.append((trusted, anew))
    )
    reasons: dict[Reason, bool] = {
        "settings": True,
        "accounts": True,
        "allowance": True,
        "state": True,
        "bpf": True,
        "off": False,
        "destinations": False,
        "table": False,
        "lost": False,
    }
    for reason in reasons:
        world.refresh(reason)
    assert seen == [(True, anew) for anew in reasons.values()]
    seen.clear()
    world.judging.vital_failures = 1  # what it had in its hands is lost
    world.enforcement.on_time(world.now)
    world.judging.vital_failures, world.judging.sound = 2, False
    world.enforcement.on_time(world.now)
    world.judging.sound = True
    for _ in range(3):
        world.enforcement.on_time(world.now)
    assert seen == [(True, True), (False, True), (True, True)]


def test_the_table_hears_every_three_seconds_that_the_guard_lives(world: World) -> None:
    for _ in range(31):
        world.now += NS
        world.enforcement.on_time(world.now)
    assert world.nft.beats in (10, 11)
    world.nft.broken = True
    world.now += 3 * NS
    world.enforcement.on_time(world.now)
    assert "nft: the cap does not hold: nft: no" in world.enforcement.health.list_out_of_sync()
    world.nft.broken = False
    world.now += NS
    world.enforcement.on_time(world.now)
    assert world.enforcement.health.list_out_of_sync() == [], "it does not wait for the next three seconds"


def test_who_could_not_be_taken_out_is_tried_again_each_second(world: World) -> None:
    world.refresh("start")
    world.nft.broken = True
    world.enforcement.clear([(1001, 1001)])
    world.enforcement.clear([(7, 9)])
    assert world.enforcement.health.may_refuse_freed()
    assert world.enforcement.health.list_out_of_sync() == ["nft: who is not listed may be refused: nft: no"]
    world.nft.broken = False
    world.now += NS
    world.enforcement.on_time(world.now)
    assert world.told[-1] == "nft clear [(1001, 1001), (7, 9)]"
    assert not world.enforcement.health.may_refuse_freed()
    assert world.enforcement.health.list_out_of_sync() == []


def test_when_all_are_taken_out_late_those_who_are_listed_since_come_back(world: World) -> None:
    world.refresh("start")
    world.nft.broken = True
    world.enforcement.clear_all()
    world.nft.broken = False
    world.block(ALICE)
    assert (1001, "block") in world.nft.held
    world.now += NS
    world.enforcement.on_time(world.now)
    assert world.told[-2:] == ["nft clear all", "nft deny 1001"]


def test_a_refresh_that_met_a_mistake_of_ours_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def refresh(*_: object, trusted: bool, anew: bool, restored: bool, opening: bool) -> None:
        assert not restored
        assert not opening
        seen.append(trusted and anew)
        if len(seen) == 1:
            raise TypeError("no such keyword")

    monkeypatch.setattr(world.enforcement.credits, "refresh", refresh)
    with pytest.raises(TypeError):
        world.enforcement.refresh("allowance")
    assert world.enforcement.next_deadline() == 0
    world.enforcement.on_time(world.now)
    assert seen == [True, True]
    world.enforcement.on_time(world.now)
    assert seen == [True, True]


def test_a_saved_table_that_refuses_while_nothing_is_to_be_is_taken_away() -> None:
    world = World(dry_run=True)
    world.refresh("start")
    world.nft.there = True
    world.enforcement.remove_foreign("nft (pid 7)")
    assert not world.nft.there
    world.nft.there = world.nft.broken = True
    world.enforcement.remove_foreign("nft (pid 7)")
    assert world.nft.there, "told, and looked at again"


def test_what_is_gathered_within_what_is_gathered_is_carried_out_once(world: World) -> None:
    world.told.clear()
    with world.enforcement.together(), world.enforcement.together():
        world.block(Subject(id=1002))
        world.block(Subject(id=1003))
        assert world.told == []
    assert sorted(text for text in world.told if text.startswith("nft deny")) == ["nft deny 1002", "nft deny 1003"]


def test_an_own_ruleset_that_can_not_be_read_is_a_trouble_and_the_old_one_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise EnforceError("line 3: syntax error", where="smtpguard.nft")

    with monkeypatch.context() as broken:
        broken.setattr(world.nft, "read_again", fail)
        world.enforcement.settings = Settings(dry_run=False, rules=())
        world.refresh("settings")
    assert world.enforcement.health.template_trouble == "smtpguard.nft: line 3: syntax error"
    world.enforcement.settings = Settings(dry_run=False, rules=())
    world.refresh("settings")
    assert world.enforcement.health.template_trouble is None


def test_who_was_to_be_taken_out_of_a_table_that_is_gone_is_forgotten(world: World) -> None:
    world.nft.broken = True
    world.enforcement.clear([(1001, 1001)])
    world.nft.broken = False
    world.engine.commands.set_off(off=True)
    world.refresh("off")
    world.now += NS
    world.enforcement.on_time(world.now)
    assert not world.enforcement.health.may_refuse_freed()


def test_a_program_that_could_not_be_told_is_told_again_within_a_second(world: World) -> None:
    told: list[frozenset[int]] = []
    attachment = Mock(trouble="bpf: full")
    attachment.refresh.side_effect = lambda *words: told.append(words[0])
    world.enforcement._bpf = world.enforcement.health.program = attachment
    world.now += NS
    world.enforcement.on_time(world.now)
    assert told == [world.settings.ports]
    assert world.enforcement.health.list_out_of_sync() == ["bpf: bpf: full"]
    world.enforcement.remove_foreign("nft")
    assert world.nft.there, "it is ours, and wanted"
    assert world.enforcement.reconciler.knows_exemptions()
