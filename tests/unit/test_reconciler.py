"""The reconciler: what enforcers are told follows the blocks in force, whatever fails in between."""

import random
from collections.abc import Iterable, Sequence
from typing import Literal

import pytest

from smtpguard.actions.base import Deny, Exemptions, Kind, Reach
from smtpguard.daemon.enforce.reconciler import SETTLE_NS, Reconciler, merge_denies
from smtpguard.errors import EnforceError
from smtpguard.model import NS, Block, Mode, Subject
from smtpguard.policy.block_spans import TRIES
from smtpguard.policy.blocks import BlockTable

ALICE, BOB = Subject(id=1001), Subject(id=1002)
BLOCK = Reach("block")


def _key(kind: Kind, port: int | None) -> str:
    return kind if port is None else f"{kind} {port}"


class Kernel:
    """An enforcer that remembers, and fails on request."""

    def __init__(self, name: str = "nft") -> None:
        self.name = name
        self.held: dict[tuple[Subject, str], Deny] = {}
        self.exemptions: Exemptions | None = None
        self.broken = False
        self.calls = 0

    def _check(self) -> None:
        self.calls += 1
        if self.broken:
            raise EnforceError("no", where=self.name)

    def apply_deny(self, deny: Deny) -> None:
        self._check()
        self.held[deny.subject, _key(*deny.reach)] = deny

    def apply_release(self, subject: Subject, kind: Kind, port: int | None = None) -> None:
        self._check()
        self.held.pop((subject, _key(kind, port)), None)

    def apply_exemptions(self, exemptions: Exemptions) -> None:
        self._check()
        self.exemptions = exemptions

    def read_denies(self) -> list[Deny]:
        return list(self.held.values())


class World:
    """Blocks in force and a clock."""

    def __init__(self) -> None:
        self.blocks: dict[Subject, list[Block]] = {}
        self.changed: set[Subject] = set()
        self.now = 100 * NS
        self.kernel = Kernel()
        self.off = False
        self.reconciler = Reconciler(self, lambda: self.now)

    def blocks_of(self, subject: Subject) -> Sequence[Block]:
        return () if self.off else self.blocks.get(subject, [])

    def blocked_subjects(self) -> Iterable[Subject]:
        return self.blocks

    def block(
        self,
        subject: Subject,
        seconds: int,
        source: str = "guard",
        kind: Literal["block", "throttle"] = "block",
        mode: Mode = "enforce",
        ranges: tuple[tuple[int, int], ...] = (),
        ports: tuple[int, ...] | None = None,
    ) -> None:
        self.changed.add(subject)
        self.blocks.setdefault(subject, []).append(
            Block(
                subject=subject,
                name=None,
                source=source,
                kind=kind,
                since_ns=self.now,
                until_ns=self.now + seconds * NS,
                mode=mode,
                ranges=ranges,
                ports=ports,
            )
        )


@pytest.fixture
def world() -> World:
    made = World()
    made.reconciler.add_enforcer(made.kernel)
    return made


def test_the_longest_end_wins_and_ranges_add_up(world: World) -> None:
    world.block(ALICE, 60, ranges=((100000, 65536),))
    world.block(ALICE, 90, source="admin")
    world.block(ALICE, 500, mode="dry-run")
    world.block(ALICE, 30, kind="throttle")
    denies = merge_denies(ALICE, world.blocks[ALICE], world.now)
    assert denies[BLOCK].until_ns == world.now + 90 * NS
    assert denies[BLOCK].ranges == ((100000, 65536),)
    assert denies[BLOCK].comment == "admin"
    assert denies[Reach("throttle")].until_ns == world.now + 30 * NS


def test_each_port_has_an_end_of_its_own(world: World) -> None:
    world.block(ALICE, 60, ports=(25, 465))
    world.block(ALICE, 90, source="admin", ports=(25,))
    world.block(ALICE, 30, source="fail2ban:a")
    world.reconciler.apply(ALICE)
    ends = {what: (deny.until_ns - world.now) // NS for (_, what), deny in world.kernel.held.items()}
    assert ends == {"block": 30, "block 25": 90, "block 465": 60}
    world.blocks[ALICE].pop(1)
    world.reconciler.apply_all()
    ends = {what: (deny.until_ns - world.now) // NS for (_, what), deny in world.kernel.held.items()}
    assert ends == {"block": 30, "block 25": 60, "block 465": 60}
    world.blocks.clear()
    world.reconciler.apply(ALICE)
    assert world.kernel.held == {}


def test_one_source_ending_leaves_the_other(world: World) -> None:
    world.block(ALICE, 60)
    world.block(ALICE, 90, source="fail2ban:a")
    world.reconciler.apply(ALICE)
    world.blocks[ALICE].pop()
    world.reconciler.apply(ALICE)
    assert world.kernel.held[ALICE, "block"].until_ns == world.now + 60 * NS
    world.blocks.clear()
    world.reconciler.apply(ALICE)
    assert world.kernel.held == {}


def test_what_did_not_change_is_not_told_again(world: World) -> None:
    world.block(ALICE, 60)
    world.reconciler.apply(ALICE)
    calls = world.kernel.calls
    world.reconciler.apply(ALICE)
    world.reconciler.apply_all()
    assert world.kernel.calls == calls


def test_what_the_kernel_lost_is_told_again(world: World) -> None:
    world.block(ALICE, 60)
    world.reconciler.apply(ALICE)
    world.kernel.held.clear()
    world.reconciler.apply_all(forget=True)
    assert (ALICE, "block") in world.kernel.held


def test_off_lifts_everything_and_the_end_of_it_puts_it_back(world: World) -> None:
    world.block(ALICE, 60)
    world.block(BOB, 60)
    world.reconciler.apply_all()
    world.off = True
    world.reconciler.apply_all()
    assert world.kernel.held == {}
    world.off = False
    world.reconciler.apply_all()
    assert len(world.kernel.held) == 2


@pytest.mark.parametrize("release", [False, True])
def test_a_means_that_fails_is_named_and_tried_again(world: World, release: bool) -> None:
    world.block(ALICE, 60)
    if release:
        world.reconciler.apply(ALICE)
        world.blocks.clear()
    world.kernel.broken = True
    assert not world.reconciler.apply(ALICE)
    assert world.reconciler.trouble() == ["nft: nft: no"]
    deadline = world.reconciler.next_deadline()
    assert deadline == world.now + NS
    world.kernel.broken = False
    world.now = deadline
    world.reconciler.on_time(world.now)
    assert ((ALICE, "block") in world.kernel.held) is not release
    assert world.reconciler.trouble() == []
    assert world.reconciler.next_deadline() is None


def test_one_broken_means_does_not_keep_the_other_from_it(world: World) -> None:
    second = Kernel("bpf")
    world.reconciler.add_enforcer(second)
    world.kernel.broken = True
    world.block(ALICE, 60)
    assert not world.reconciler.apply(ALICE)
    assert (ALICE, "block") in second.held


def test_a_means_that_comes_later_learns_everything(world: World) -> None:
    world.reconciler.apply_exemptions(Exemptions(uids=((0, 0), (89, 89))))
    world.block(ALICE, 60)
    world.reconciler.apply(ALICE)
    second = Kernel("bpf")
    world.reconciler.add_enforcer(second)
    assert second.exemptions == world.kernel.exemptions
    assert second.held == world.kernel.held


def test_packet_means_wait_a_little_where_credits_refuse_already(world: World) -> None:
    first = Kernel("bpf")
    world.reconciler.add_enforcer(first)
    world.block(ALICE, 60)
    assert world.reconciler.apply(ALICE, settle=True)
    assert (ALICE, "block") in first.held
    assert world.kernel.held == {}
    deadline = world.reconciler.next_deadline()
    assert deadline == world.now + SETTLE_NS
    world.now = deadline
    world.reconciler.on_time(world.now)
    assert (ALICE, "block") in world.kernel.held
    assert world.reconciler.next_deadline() is None


def test_passes_that_a_means_refused_are_told_again_and_those_it_knows_are_not(world: World) -> None:
    world.kernel.broken = True
    world.reconciler.apply_exemptions(Exemptions(uids=((0, 0), (89, 89))))
    assert world.reconciler.trouble() == ["nft: nft: no"]
    world.kernel.broken = False
    world.block(ALICE, 60)
    assert world.reconciler.apply(ALICE)
    assert world.reconciler.trouble() == ["nft: nft: no"]
    world.now = world.reconciler.next_deadline() or 0
    world.reconciler.on_time(world.now)
    assert world.kernel.exemptions == Exemptions(uids=((0, 0), (89, 89)))
    assert world.reconciler.trouble() == []
    calls = world.kernel.calls
    world.reconciler.apply_exemptions(Exemptions(uids=((0, 0), (89, 89))))
    assert world.kernel.calls == calls


class BulkKernel(Kernel):
    """An enforcer that takes many changes at once."""

    def __init__(self) -> None:
        super().__init__("bulk")
        self.bulk_calls = 0
        self.bulk_broken = False

    def apply_many(self, denies: Sequence[Deny], releases: Sequence[tuple[Subject, Reach]]) -> None:
        self.bulk_calls += 1
        if self.bulk_broken:
            raise EnforceError("no", where=self.name)
        self.held |= {(deny.subject, _key(*deny.reach)): deny for deny in denies}
        for subject, reach in releases:
            del self.held[subject, _key(*reach)]


@pytest.mark.parametrize("broken", [False, True])
def test_many_are_told_at_once_to_who_can_and_one_by_one_where_that_fails(broken: bool) -> None:
    world = World()
    bulk = BulkKernel()
    bulk.bulk_broken = broken
    world.reconciler.add_enforcer(bulk)
    subjects = [Subject(id=2000 + number) for number in range(100)]
    for subject in subjects:
        world.block(subject, 60)
    world.reconciler.apply_all()
    assert set(bulk.held) == {(subject, "block") for subject in subjects}
    assert bulk.bulk_calls == 1
    assert bulk.calls == (100 if broken else 0)
    for subject in subjects[:40]:
        del world.blocks[subject]
    world.reconciler.apply_all()
    assert set(bulk.held) == {(subject, "block") for subject in subjects[40:]}
    calls = bulk.bulk_calls, bulk.calls
    world.reconciler.apply_all()
    assert (bulk.bulk_calls, bulk.calls) == calls, "what is held is not told again"


def test_only_whose_blocks_have_changed_are_looked_at_again(world: World) -> None:
    world.block(ALICE, 60)
    world.block(BOB, 60)
    world.reconciler.apply_changes()
    assert set(world.kernel.held) == {(ALICE, "block"), (BOB, "block")}
    assert world.changed == set()
    del world.blocks[ALICE]
    world.blocks[BOB].clear()
    world.changed.add(ALICE)
    world.reconciler.apply_changes()
    assert set(world.kernel.held) == {(BOB, "block")}, "nobody said that Bob's have changed"


def test_a_change_that_a_means_refused_is_not_taken_for_done(world: World) -> None:
    world.block(ALICE, 60)
    world.block(BOB, 60)
    world.reconciler.apply(ALICE)
    world.kernel.broken = True
    world.reconciler.apply_changes()
    world.kernel.broken = False
    world.blocks[ALICE].clear()
    world.changed.add(ALICE)
    world.reconciler.apply_changes()
    assert set(world.kernel.held) == {(BOB, "block")}
    assert world.reconciler.trouble() == []


class Broken(Kernel):
    """An enforcer with a mistake of ours."""

    def apply_deny(self, deny: Deny) -> None:
        raise ZeroDivisionError(deny.kind)


def test_a_mistake_leaves_changes_to_be_told_at_the_next_time(world: World) -> None:
    broken = Broken("bpf")
    world.reconciler.add_enforcer(broken, first=True)
    world.block(ALICE, 60)
    for apply in (world.reconciler.apply_changes, lambda: world.reconciler.apply(ALICE)):
        with pytest.raises(ZeroDivisionError):
            apply()
    world.reconciler.remove_enforcer(broken)
    world.reconciler.apply_changes()
    assert (ALICE, "block") in world.kernel.held


class TableBlocks:
    """The blocks of the engine's own table."""

    def __init__(self) -> None:
        self.table = BlockTable()

    def blocks_of(self, subject: Subject) -> Sequence[Block]:
        return self.table.of(subject)

    def blocked_subjects(self) -> Iterable[Subject]:
        return self.table.subjects()

    @property
    def changed(self) -> set[Subject]:
        return self.table.changed


@pytest.mark.parametrize("seed", range(20))
def test_the_block_table_forgets_nobody_whose_blocks_change(seed: int) -> None:
    chance = random.Random(seed)
    held, kernel, now = TableBlocks(), Kernel(), 100 * NS
    reconciler = Reconciler(held, lambda: now)
    reconciler.add_enforcer(kernel)
    table = held.table
    for _ in range(300):
        now += chance.randrange(5) * NS
        subject = Subject(id=1000 + chance.randrange(4))
        match chance.randrange(7):
            case 0 | 1 | 2:
                block = Block(
                    subject=subject,
                    name=None,
                    source=chance.choice(["guard", "admin", "fail2ban:a"]),
                    kind=chance.choice(["block", "throttle"]),
                    since_ns=now,
                    until_ns=now + chance.randrange(1, 30) * NS,
                    mode=chance.choice(["enforce", "dry-run"]),
                    ports=chance.choice([None, (25,), (25, 587)]),
                )
                table.put(block, hides=True)
            case 3:
                table.end(subject, source=chance.choice([None, "guard"]), by="x", reason="", now_ns=now)
            case 4:
                table.update_ranges(subject, chance.choice([(), ((100_000, 10),)]))
            case 5:
                for _ in range(TRIES):
                    table.note_refused(subject, now, 25)
                table.extend(now, 3600 * NS)
            case _:
                for block in table.of(subject)[:1]:
                    table.bind(block, "web01")
        table.expire(now)
        reconciler.apply_changes()
        wanted = {
            (subject, _key(*reach)): deny
            for subject in table.subjects()
            for reach, deny in merge_denies(subject, table.of(subject), now).items()
        }
        assert {key: deny for key, deny in kernel.held.items() if deny.until_ns > now} == wanted
