"""The keeper of sources: chooses, proves, moves on, comes back."""

import threading
import time
from collections.abc import Sequence
from typing import Literal

import pytest

from smtpguard.daemon.intake import source_supervisor
from smtpguard.daemon.intake.source_supervisor import SourceSupervisor
from smtpguard.errors import SourceError
from smtpguard.model import NS, Connect
from smtpguard.settings import Settings
from smtpguard.sources import registry
from smtpguard.sources.base import Source, SourceStats

CONNECT = Connect(time_ns=1, uid=1001, port=25, address=b"\xc0\x00\x02\x01", sensor="a")


class Fake:
    """A source that does what the test says."""

    def __init__(self, world: "World", name: str, ports: frozenset[int]) -> None:
        self.world, self.name, self.stats = world, name, SourceStats()
        self.is_open = False
        self.ports = ports

    def open(self) -> None:
        if gate := self.world.gates.get(self.name):
            assert gate.wait(10)
        if self.name in self.world.broken:
            raise ZeroDivisionError("a mistake")
        if self.name in self.world.closed:
            raise SourceError("not here")
        self.is_open = True

    def probe(self, timeout_s: float) -> None:
        if self.name in self.world.silent:
            raise SourceError(f"nothing came out in {timeout_s} s")

    def filenos(self) -> Sequence[int]:
        return (self.world.names.index(self.name),)

    def read(self) -> list[Connect]:
        if self.name in self.world.closed:
            raise SourceError("died")
        if self.name in self.world.queues:
            queue = self.world.queues[self.name]
            return queue.pop(0) if queue else []
        return [CONNECT]

    def next_poll_ns(self) -> int | None:
        return None

    def set_ports(self, ports: frozenset[int]) -> None:
        if self.name in self.world.stubborn:
            raise SourceError("the kernel has no room")
        self.ports = ports

    def close(self) -> None:
        self.is_open = False


class World:
    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.closed: set[str] = set()
        self.silent: set[str] = set()
        self.stubborn: set[str] = set()
        self.broken: set[str] = set()
        self.gates: dict[str, threading.Event] = {}
        self.queues: dict[str, list[list[Connect]]] = {}
        self.now = 0
        self.got: list[Connect] = []
        self.beside: list[Connect] = []
        self.open: list[str] = []
        self.made: list[Fake] = []

    def make(self, name: str, settings: Settings) -> Source:
        self.made.append(Fake(self, name, settings.ports))
        return self.made[-1]

    def sensing(self, settings: Settings) -> SourceSupervisor:
        return SourceSupervisor(
            settings,
            self.got.extend,
            lambda source: self.open.append(source.name),
            lambda source: self.open.remove(source.name),
            lambda: self.now,
            make=self.make,
            beside=self.beside.extend,
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    names = ["a", "b", "c"]
    monkeypatch.setattr(source_supervisor, "KINDS", {n: registry.SourceKind(module=n) for n in names})
    return World(names)


def settle(world: World, sensing: SourceSupervisor) -> None:
    """Give it turns until nothing is being opened."""
    deadline = time.monotonic() + 10
    sensing.on_time(world.now)
    while sensing.is_opening:
        assert time.monotonic() < deadline
        time.sleep(0.001)
        sensing.on_time(world.now)


def leader(sensing: SourceSupervisor) -> str | None:
    found = sensing.leader()
    return found.name if found else None


def test_auto_takes_the_first_that_proves_itself(world: World) -> None:
    world.closed, world.silent = {"a"}, {"b"}
    sensing = world.sensing(Settings())
    sensing.start()
    assert leader(sensing) == "c"
    assert world.open == ["c"]
    assert [s.why for s in sensing.sensors] == ["not here", "nothing came out in 1.0 s", ""]
    assert [f.name for f in world.made if f.is_open] == ["c"], "what failed its proof is closed"


def test_auto_comes_back_to_the_better_one(world: World) -> None:
    world.closed = {"a"}
    sensing = world.sensing(Settings())
    sensing.start()
    assert leader(sensing) == "b"
    world.closed = set()
    deadline = sensing.next_deadline()
    assert deadline is not None
    world.now = deadline
    settle(world, sensing)
    assert leader(sensing) == "a"
    assert world.open == ["a"]


def test_a_dead_source_is_reopened_at_once(world: World) -> None:
    sensing = world.sensing(Settings())
    sensing.start()
    source = sensing.sensors[0].source
    assert isinstance(source, Fake)
    source.read = lambda: (_ for _ in ()).throw(SourceError("died"))  # type: ignore[method-assign]
    sensing.on_ready(0)
    settle(world, sensing)
    assert leader(sensing) == "a"
    assert sensing.sensors[0].restarts == 1
    assert not source.is_open


def test_catching_up_hands_over_what_waits_and_takes_note_of_a_death(world: World) -> None:
    sensing = world.sensing(Settings(sources=("a", "b", "c")))
    sensing.start()
    world.closed = {"b"}
    sensing.catch_up()
    assert (world.got, world.beside) == ([CONNECT], [CONNECT])
    assert [sensor.restarts for sensor in sensing.sensors] == [0, 1, 0]


@pytest.mark.parametrize("can_be", [True, False])
def test_a_source_that_can_is_revived_and_else_opened_anew(world: World, *, can_be: bool) -> None:
    class Reviving(Fake):
        def revive(self) -> None:
            if not can_be:
                raise SourceError("gone for good")

    world.make = lambda name, settings: Reviving(world, name, settings.ports)  # type: ignore[method-assign]
    sensing = world.sensing(Settings())
    sensing.start()
    source = sensing.sensors[0].source
    assert isinstance(source, Reviving)
    source.read = lambda: (_ for _ in ()).throw(SourceError("died"))  # type: ignore[method-assign]
    sensing.on_ready(0)
    settle(world, sensing)
    assert (sensing.sensors[0].source is source, source.is_open) == (can_be, can_be)
    assert (leader(sensing), sensing.sensors[0].restarts, world.open) == ("a", 1, ["a"])


def test_when_it_stays_dead_the_next_takes_over_and_pauses_grow(world: World) -> None:
    sensing = world.sensing(Settings())
    sensing.start()
    world.closed = {"a"}
    sensing.on_ready(0)
    settle(world, sensing)
    assert leader(sensing) == "b"
    sensing.on_ready(1)
    assert world.got == [CONNECT]
    pauses = []
    for _ in range(9):
        deadline = sensing.next_deadline()
        assert deadline is not None
        pauses.append((deadline - world.now) // NS)
        world.now = deadline
        settle(world, sensing)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert leader(sensing) == "b"


def test_a_list_runs_all_and_the_first_leads(world: World) -> None:
    sensing = world.sensing(Settings(sources=("b", "c")))
    sensing.start()
    assert world.open == ["b", "c"]
    sensing.on_ready(1)
    sensing.on_ready(2)
    assert (len(world.got), len(world.beside)) == (1, 1)
    sensing.close()
    assert world.open == []


def test_none_is_none(world: World) -> None:
    sensing = world.sensing(Settings(sources="none"))
    sensing.start()
    assert leader(sensing) is None
    assert sensing.next_deadline() is None


def seen(sensor: str, time_ns: int, host: int) -> Connect:
    return Connect(time_ns=time_ns, uid=1001, port=25, address=bytes([192, 0, 2, host]), sensor=sensor)


@pytest.mark.parametrize("sources", ["auto", ("a", "b")])
def test_what_happened_while_the_better_one_was_opened_counts_once(
    world: World, sources: Literal["auto"] | tuple[str, ...]
) -> None:
    """b saw four while a was opened; a was attached before the last two, and one came when b had been read."""
    world.closed = {"a"}
    sensing = world.sensing(Settings(sources=sources))
    sensing.start()
    world.closed = set()
    deadline = sensing.next_deadline()
    assert deadline is not None
    world.now = deadline
    first, second = [seen("b", world.now, host) for host in (1, 2)], [seen("b", world.now, host) for host in (2, 1)]
    after = seen("a", world.now + 5, 1)
    both = [seen("a", world.now - 9, 2), seen("a", world.now - 8, 1)]
    world.queues = {"b": [first, second], "a": [[*both, after]]}
    settle(world, sensing)
    assert leader(sensing) == "a"
    assert world.got == [*first, *both, after]
    assert world.open == (["a"] if sources == "auto" else ["b", "a"])


def test_a_flood_does_not_hold_the_hand_over(world: World) -> None:
    world.closed = {"a"}
    sensing = world.sensing(Settings())
    sensing.start()
    world.closed = set()
    world.now = 10 * NS
    settle(world, sensing)  # both always have more
    assert leader(sensing) == "a"
    assert 0 < len(world.got) < 100


def test_in_a_list_the_one_that_leads_now_is_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    sensing = world.sensing(Settings(sources=("a", "b")))
    sensing.start()
    world.closed = {"a"}
    sensing.on_ready(0)
    settle(world, sensing)
    assert leader(sensing) == "b"
    assert caplog.messages[-1] == "source b leads now (better ones can't be used: a: not here)"
    sensing.on_ready(1)
    assert world.got == [CONNECT]


def test_a_reload_reaches_open_sources_and_those_that_are_opened_later() -> None:
    world = World(["a", "b"])
    sensing = world.sensing(Settings(sources=("a", "b")))
    world.closed.add("b")
    sensing.start()
    sensing.reconfigure(Settings(sources=("a", "b"), ports=frozenset({2525})))
    assert world.made[0].ports == {2525}
    world.closed.remove("b")
    world.now = NS
    settle(world, sensing)
    assert world.open == ["a", "b"]
    assert world.made[-1].ports == {2525}


def test_a_source_that_can_not_be_told_is_opened_anew() -> None:
    world = World(["a"])
    sensing = world.sensing(Settings(sources=("a",)))
    sensing.start()
    world.stubborn.add("a")
    sensing.reconfigure(Settings(sources=("a",), ports=frozenset({2525})))
    assert sensing.next_deadline() == 0
    settle(world, sensing)
    assert not world.made[0].is_open
    assert (world.made[-1].is_open, world.made[-1].ports) == (True, frozenset({2525}))
    assert world.open == ["a"]


# -- beside the loop ---------------------------------------------------------------------------------------------------


def begin_slowly(world: World, sensing: SourceSupervisor, name: str) -> threading.Event:
    """Have a source that is down opened, which goes on until the event is set."""
    gate = world.gates[name] = threading.Event()
    world.closed = set()
    deadline, made = sensing.next_deadline(), len(world.made)
    assert deadline is not None
    world.now = deadline
    sensing.on_time(world.now)
    assert sensing.is_opening
    patience = time.monotonic() + 10
    while len(world.made) == made:  # its thread has begun, then
        assert time.monotonic() < patience
        time.sleep(0.001)
    return gate


def test_the_loop_goes_on_while_a_source_is_opened(world: World) -> None:
    world.closed = {"a"}
    sensing = world.sensing(Settings())
    sensing.start()
    gate = begin_slowly(world, sensing, "a")
    assert world.made[-1].name == "a"
    world.queues["b"] = [[seen("b", world.now, 1)]]
    begun = time.monotonic()
    sensing.on_ready(1)
    sensing.on_time(world.now)
    assert time.monotonic() - begun < 5
    assert [connect.sensor for connect in world.got] == ["b"]
    assert leader(sensing) == "b"
    gate.set()
    ready = sensing.filenos()[0]
    settle(world, sensing)
    assert ready not in sensing.filenos()
    assert leader(sensing) == "a"


@pytest.mark.parametrize("sources", ["auto", ("a", "b")])
def test_what_the_old_one_told_while_the_better_one_was_opened_counts_once(
    world: World, sources: Literal["auto"] | tuple[str, ...]
) -> None:
    """a was attached after the first of three that b told; one waits in b unread, and one a alone has seen."""
    world.closed = {"a"}
    sensing = world.sensing(Settings(sources=sources))
    sensing.start()
    gate = begin_slowly(world, sensing, "a")
    told = [seen("b", world.now, host) for host in (1, 1, 2)]
    unread = seen("b", world.now, 1)
    world.queues = {"b": [told], "a": []}
    sensing.on_ready(1)
    assert world.got == told
    world.queues["b"] = [[unread]]
    fresh = [seen("a", world.now - 9, host) for host in (1, 2, 1, 3)]
    world.queues["a"] = [fresh]
    gate.set()
    settle(world, sensing)
    assert leader(sensing) == "a"
    assert [connect.address[3] for connect in world.got] == [1, 1, 2, 1, 3]
    assert [connect.sensor for connect in world.got[3:]] == ["a", "a"]


def test_ports_that_change_while_a_source_is_opened_are_told_when_it_is_open(world: World) -> None:
    sensing = world.sensing(Settings(sources=("a", "b")))
    world.closed = {"b"}
    sensing.start()
    gate = begin_slowly(world, sensing, "b")
    sensing.reconfigure(Settings(sources=("a", "b"), ports=frozenset({2525})))
    gate.set()
    settle(world, sensing)
    assert [fake.ports for fake in world.made if fake.is_open] == [frozenset({2525})] * 2


def test_one_that_can_not_be_told_of_them_is_closed_and_tried_again(world: World) -> None:
    sensing = world.sensing(Settings(sources=("a", "b")))
    world.closed = {"b"}
    sensing.start()
    gate = begin_slowly(world, sensing, "b")
    world.stubborn = {"b"}
    sensing.reconfigure(Settings(sources=("a", "b"), ports=frozenset({2525})))
    gate.set()
    settle(world, sensing)
    assert not world.made[-1].is_open
    assert sensing.sensors[1].why == "the kernel has no room"
    world.now += 60 * NS
    settle(world, sensing)
    assert world.made[-1].ports == frozenset({2525})
    assert world.open == ["a", "b"]


def test_what_is_being_opened_at_the_end_is_closed_too(world: World) -> None:
    world.closed = {"a"}
    sensing = world.sensing(Settings())
    sensing.start()
    gate = begin_slowly(world, sensing, "a")
    threading.Timer(0.05, gate.set).start()
    sensing.close()
    assert [fake.name for fake in world.made if fake.is_open] == []
    sensing.close()


def test_a_source_that_dies_while_a_better_one_is_opened_is_not_needed_any_more(world: World) -> None:
    world.closed = {"a"}
    sensing = world.sensing(Settings())
    sensing.start()
    gate = begin_slowly(world, sensing, "a")
    world.closed = {"b"}
    sensing.on_ready(1)
    assert leader(sensing) is None
    gate.set()
    settle(world, sensing)
    assert leader(sensing) == "a"
    assert [fake.name for fake in world.made] == ["a", "b", "a"], "b was not opened again"


def test_that_nothing_works_is_said_once_and_who_is_opened_again_by_itself(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    sensing = world.sensing(Settings())
    sensing.start()
    world.closed, world.broken = {"a", "c"}, {"b"}
    sensing.on_ready(0)
    assert sensing.sensors[0].why == "it has died and is being opened again: died"
    settle(world, sensing)
    blind = "no source works: the guard is blind; a: not here; b: ZeroDivisionError: a mistake; c: not here"
    assert caplog.messages.count(blind) == 1
    world.now += 2 * NS
    settle(world, sensing)
    assert caplog.messages.count(blind) == 1
    world.closed = {"a"}
    world.now += 60 * NS
    settle(world, sensing)
    assert leader(sensing) == "c"
    assert caplog.messages[-1] == "source c is back"


def test_outcomes_are_seen_or_not_and_not_known_while_blind(world: World) -> None:
    sensing = world.sensing(Settings())
    assert sensing.sensors.sees_outcomes() is None
    sensing.start()
    assert sensing.sensors.sees_outcomes() is False, "a source that tells no outcomes"
    sensing.close()
    assert sensing.sensors.sees_outcomes() is None


def test_a_start_at_which_nothing_works_says_so(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.closed = {"a", "b", "c"}
    sensing = world.sensing(Settings())
    sensing.start()
    assert caplog.messages[-1] == "no source works: the guard is blind; a: not here; b: not here; c: not here"


def test_when_events_were_lost_is_remembered(world: World) -> None:
    sensing = world.sensing(Settings())
    sensing.start()
    source = sensing.sensors[0].source
    assert source is not None
    source.stats.lost, world.now = 3, 77
    sensing.on_ready(0)
    assert (sensing.sensors[0].lost, sensing.sensors[0].lost_ns) == (3, 77)
