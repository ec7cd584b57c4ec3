"""The daemon put together from fakes: each hook between two parts is called once, by the part that does it there.

The kernel is fake (nftables, sessions, sources); state, event log, control socket, accounts and loop are the real ones.
What a part raises is caught by the loop and told, so it is found there; and what nobody called is found by name.
"""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import Mock, patch

import pytest

from smtpguard.actions.base import Deny, Exemptions, Kind, Reach
from smtpguard.actions.nft.difference import Difference
from smtpguard.actions.nft.elements import Element
from smtpguard.actions.nft.enforcer import TableMade
from smtpguard.control.client import ask
from smtpguard.control.connection import Peer
from smtpguard.daemon import core, hang_up, inlet, reconfiguration
from smtpguard.daemon import service as module
from smtpguard.daemon.enforce.identity import FACT
from smtpguard.daemon.enforce.neighbours import NftTable
from smtpguard.daemon.intake import source_supervisor
from smtpguard.daemon.intake.source_supervisor import SourceSupervisor
from smtpguard.daemon.loop import TimedPart
from smtpguard.daemon.serve import control_part
from smtpguard.daemon.serve.reload import Reloaded
from smtpguard.daemon.service import Service
from smtpguard.daemon.startup import enrichers
from smtpguard.daemon.startup.handoff import Start
from smtpguard.daemon.startup.service_manager import Address
from smtpguard.decode.netlink.nft_notify import NftEvent
from smtpguard.enrich.host_addresses import Cleared
from smtpguard.errors import ConfigError, GuardError, SourceError
from smtpguard.model import NS, Connect, SocketReport, Subject
from smtpguard.settings import Settings
from smtpguard.settings.load import load_settings
from smtpguard.sources import registry
from smtpguard.sources.base import Source, SourceStats
from smtpguard.state.rows import SwitchRow
from smtpguard.state.store import Loaded

UID = 4_000_123
LIMIT_S = 60
CLEARED = Cleared(subject=Subject(id=UID), address=bytes([198, 18, 0, 1]), name="relay.example")
HOOKS = {
    "Around.exemptions": "HostWatch.exemptions",
    "Adopter": "Adoption.__call__",
    "Comparison": "SetComparison.compare",
    "Changed": "Core._surroundings_changed",
    "Cleared": "Forgiveness.take",
    "Deliver": "Journal._write",
    "Doubt": "ExemptHosts.doubt",
    "Doubts": "Forgiveness.judged",
    "FreedByHand": "Orders.freed_by_hand",
    "Handler": "Handlers.handle",
    "Headline": "Status.headline",
    "Parts": "HostWatch.parts",
    "Publish": "ControlPart.publish",
    "Read, by the thread": "read_settings_apart",
    "Apply": "Reconfiguration.apply",
    "RequestReload": "Reload.request",
    "SourceHook, open": "BpfLifecycle.source_opened",
    "SourceHook, close": "BpfLifecycle.source_closed",
    "TableMade": "Identity.note",
    "TakeConnects": "Guard.take",
    "TakeConnects, leader": "SensorPairing.lead",
    "TakeConnects, beside": "SensorPairing.beside",
    "TakeReports": "Guard.take_reports",
    "TellFail2ban": "Unbanner.tell",
    "Troubles": "Reception._troubles",
    "ReadCounts": "FakeTable.read_capped",
    "ReadCounts, bpf": "ExactLimits.read_capped",
    "Chore, clock": "Chores.follow_clock",
    "Chore, state": "Chores.keep_state",
    "Chore, off": "OffSwitch.on_time",
    "Task, hang-up": "HangUp.take",
    "Thread": "Service._thread_died",
    "HeldBlocks": "ActiveBlocks.blocks_of",
    "Explain": "Explanation.explain",
}
"""What each hook leads to; every one of them has to be called."""


class FakeTable:
    """Nftables, and what ends sessions."""

    name = "nft"
    spec: Any = None
    ports: frozenset[int] = frozenset()
    trouble = None
    handle: int | None = 7
    strangers: tuple[Element, ...] = ()
    on_made: TableMade | None = None

    def __init__(self, *_: object, **__: object) -> None:
        self.there = False

    def ensure(self) -> None:
        self.there = True
        if self.on_made is not None:
            self.on_made(self.handle)

    def beat(self) -> None:
        pass

    restore = ensure

    def read_again(self) -> None: ...

    def prepare(self, *_: object) -> None: ...

    def check(self) -> str:
        return "whole"

    def compare(self) -> dict[Reach, Difference]:
        strangers, self.strangers = self.strangers, ()
        return {Reach("block"): Difference(strangers=strangers)} if strangers else {}

    def put_back(self, *_: object) -> None: ...

    def clear_everywhere(self, *_: object) -> None: ...

    def clear_all(self) -> None: ...

    def read_handle(self) -> int | None:
        return self.handle if self.there else None

    def remove(self) -> None:
        self.there = False

    def exists(self) -> bool:
        return self.there

    def read_capped(self) -> dict[int, int]:
        return {UID: 1}

    def apply_deny(self, deny: Deny) -> None: ...

    def apply_release(self, subject: Subject, kind: Kind, port: int | None = None) -> None: ...

    def apply_exemptions(self, exemptions: Exemptions) -> None: ...

    def read_denies(self) -> list[Deny]:
        return []

    def forget(self, *_: object) -> None: ...

    def close(self) -> None: ...


def check_table(table: FakeTable) -> NftTable:
    """For mypy: what the enforcement wants of a table, the fake has."""
    return table


class FakeWatch:
    """Notifications of nftables."""

    def __init__(self, *_: object) -> None:
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.events: list[NftEvent] = []

    def open(self) -> None: ...

    def fileno(self) -> int:
        return self.event

    def read(self) -> list[NftEvent]:
        os.eventfd_read(self.event)
        events, self.events = self.events, []
        return events

    def tell(self, event: NftEvent) -> None:
        self.events.append(event)
        os.eventfd_write(self.event, 1)

    def close(self) -> None:
        if self.event >= 0:
            os.close(self.event)
        self.event = -1


class FakeNft:
    def start(self) -> None: ...

    def close(self) -> None: ...


class FakeSource:
    """A sensor that is polled; it reports, and dies, when the test says so."""

    def __init__(self, name: str) -> None:
        self.name, self.stats = name, SourceStats()
        self.queue: list[Connect] = []
        self.reports: list[SocketReport] = []
        self.is_dead = False

    def open(self) -> None: ...

    def probe(self, timeout_s: float) -> None: ...

    def filenos(self) -> Sequence[int]:
        return ()

    def read(self) -> list[Connect]:
        if self.is_dead:
            self.is_dead = False
            raise SourceError("died")
        queue, self.queue = self.queue, []
        return queue

    def sees_outcomes(self) -> bool:
        return True

    def take_reports(self) -> list[SocketReport]:
        reports, self.reports = self.reports, []
        return reports

    def next_poll_ns(self) -> int | None:
        return 0

    def set_ports(self, ports: frozenset[int]) -> None: ...

    def close(self) -> None: ...


class Steps(TimedPart):
    """The test, as a part of the loop: one step a turn, until each has happened."""

    def __init__(self, service: Service, steps: Generator[bool, None, None]) -> None:
        self._service = service
        self._steps = steps
        self._end = time.monotonic() + LIMIT_S
        self.is_done = False

    def where(self) -> str:
        frame = getattr(self._steps, "gi_frame", None)
        return f"line {frame.f_lineno} of this file" if frame is not None else "its end"

    def next_deadline(self) -> int:
        return self._service.now() + NS // 200

    def on_time(self, now_ns: int) -> None:
        del now_ns
        try:
            next(self._steps)
        except StopIteration:
            self.is_done = True
            self._service.loop.stop()
        if time.monotonic() > self._end:
            self._service.loop.stop()


class Calls:
    """Which of our functions were called."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            self.seen.add(frame.f_code.co_qualname)

    def list_missing(self) -> dict[str, str]:
        """What was not called yet, and the hook that leads to it."""
        return {name: hook for hook, name in HOOKS.items() if name not in self.seen}


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The loop takes this process's signals; without this nobody could end the tests any more."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="smtpguard-") as made:  # short: a socket's path has 107 bytes
        yield Path(made)


HEEDED_NO_MORE = "a key has left the format"


def put_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack, *, looks: bool = False
) -> Service:
    sources = ["one", "two"]
    path = folder / "smtpguard.yaml"
    path.write_text(
        f"""
version: 1
dry_run: false
rules: [{{name: burst, count: connections, limit: 3, window: 10m, action: block, block: 30m}}]
log: {{path: {folder}/events.log}}
state: {{path: {folder}/state.db}}
control: {{socket: {folder}/control.sock}}
cap: {{rate: 60/minute, burst: 30}}
attribution: {{process: {str(looks).lower()}, php: false, rdns: false}}
"""
    )
    path.chmod(0o600)
    settings = replace(load_settings(str(path)), warnings=(HEEDED_NO_MORE,))
    for name in ("apply_limits", "apply_priority"):
        monkeypatch.setattr(module, name, lambda: None)
    # A profiler watches every call: a reload takes seconds on a busy machine, and who asked for it has to hear of it.
    monkeypatch.setattr("smtpguard.control.connection.IDLE_NS", LIMIT_S * NS)
    monkeypatch.setenv("PATH", str(folder))  # where there is no fail2ban-client
    monkeypatch.setattr(module, "apply_privileges", lambda _: None)
    monkeypatch.setattr(module, "InstanceLock", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(module, "open_nft", FakeNft)
    monkeypatch.setattr(core, "NftEnforcer", FakeTable)
    monkeypatch.setattr(core, "SessionEnder", FakeTable)
    monkeypatch.setattr(core, "NftNotifications", FakeWatch)
    monkeypatch.setattr(source_supervisor, "KINDS", {n: registry.SourceKind(module=n) for n in sources})

    def make(name: str, settings: object) -> Source:
        del settings
        return FakeSource(name)

    def make_sensing(*args: Any, **more: Any) -> SourceSupervisor:  # noqa: ANN401 - as it is called
        return SourceSupervisor(*args, make=make, **more)

    monkeypatch.setattr(inlet, "SourceSupervisor", make_sensing)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stack.enter_context(notify)
    notify.bind(str(folder / "notify"))
    start = Start(config_path=str(path), sources=tuple(sources), manager=Address(str(folder / "notify")))
    return Service(reconfiguration.apply_start(settings, start), start, stack)


def source_of(service: Service, index: int) -> FakeSource:
    found = service.inlet.sensing.sensors[index].source
    assert isinstance(found, FakeSource)
    return found


def attempt(service: Service, number: int = 0) -> Connect:
    address = bytes([198, 18, 0, number])
    return Connect(time_ns=service.now(), uid=UID, port=25, address=address, sensor="one", result="allowed")


def make_mistake() -> None:
    raise ZeroDivisionError


class Asking:
    """A request to the control socket from beside the loop."""

    def __init__(self, folder: Path, verb: str, **args: object) -> None:
        self.answer: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._ask, args=(folder, verb, args), daemon=True)
        self._thread.start()

    def _ask(self, folder: Path, verb: str, args: dict[str, Any]) -> None:
        try:
            self.answer = ask(str(folder / "control.sock"), verb, LIMIT_S, **args)
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.error = error

    def is_answered(self) -> bool:
        assert self.error is None, self.error
        return self.answer is not None


def poke(service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls) -> Generator[bool, None, None]:
    """One step after the other; each is repeated until it says True."""

    def asked(verb: str, **args: object) -> Generator[bool, None, None]:
        asking = Asking(folder, verb, **args)
        while not asking.is_answered():
            yield False

    while service.inlet.sensing.leader() is None:
        yield False
    # what sources see: the leader's attempts, another's beside them, what became of connections
    first, second = source_of(service, 0), source_of(service, 1)
    for number in range(5):
        first.queue.append(attempt(service, number))
    second.queue.append(attempt(service, 77))
    first.reports.append(
        SocketReport(
            time_ns=service.now(),
            kind="refused",
            uid=UID,
            netns=None,
            cookie=7,
            connect_time_ns=service.now(),
            port=25,
            address=bytes(4),
            latency_ns=1,
            bytes_sent=0,
            bytes_received=0,
            retransmissions=0,
        )
    )
    while not service.core.engine.blocks():
        yield False
    # people, and what they end
    for verb in ("status", "blocks", "reload"):
        yield from asked(verb)
    now = time.time()
    yield from asked("block", uid=UID, source="fail2ban:x", at=now, for_ns=600 * NS, user=f"uid:{UID}")
    assert service.inlet.program._explain(UID)
    yield from asked("unblock", user=f"uid:{UID}")
    yield from asked("off", for_ns=60 * NS)
    yield from asked("on")
    # somebody takes an element out of a set
    yield from asked("block", user=f"uid:{UID}", for_ns=600 * NS)
    watch = service.core.table_watch._watch
    assert isinstance(watch, FakeWatch)
    watch.tell(NftEvent(kind="deleted", pid=1, comm=b"nft", set="blocked", ranges=((UID, UID),)))
    while service.core.engine.blocks():
        yield False
    # somebody puts an element in
    table = service.core.nft
    assert isinstance(table, FakeTable)
    table.strangers = (Element(first=UID, last=UID, until_ns=service.now() + 600 * NS),)
    watch.tell(NftEvent(kind="changed", pid=1, comm=b"nft", set="blocked"))
    while not service.core.engine.blocks():
        yield False
    yield from asked("unblock", user=f"uid:{UID}")
    # accounts and addresses change, a doubted address turns out to be exempt
    monkeypatch.setattr(service.around.accounts, "refresh", lambda: frozenset({UID}))
    service.around._due_ns = 0
    yield True
    monkeypatch.setattr(service.around, "_replace_destinations", lambda: True)
    monkeypatch.setattr(service.around._named, "take_news", lambda: [CLEARED])
    service.around.on_ready(service.around._named.fileno())
    # a source dies; the terminal hangs up; a thread ends by a mistake of ours; time passes
    first.is_dead = True
    service.reception.hang_up.take()
    threading.excepthook = service._thread_died  # pytest has its own
    threading.Thread(target=make_mistake, name="mistaken").start()
    end = time.monotonic() + 2.2  # what is done once a second, and a look at accounts
    while time.monotonic() < end or calls.list_missing() or not service.loop.supervision.failures:
        yield False


def test_every_hook_is_joined_and_called_as_its_receiver_wants(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = Calls()
    with contextlib.ExitStack() as stack:
        service = put_together(folder, monkeypatch, stack)
        steps = Steps(service, poke(service, folder, monkeypatch, calls))
        service.loop.add(steps, "test")
        sys.setprofile(calls.note)
        threading.setprofile(calls.note)
        try:
            service.run()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        failed = service.loop.supervision.failures
    said = capfd.readouterr().err
    assert steps.is_done, f"it stopped at {steps.where()}: {failed}, {calls.list_missing()}\n{said}"
    assert failed == {"thread mistaken": 1}, said
    assert HEEDED_NO_MORE in caplog.messages
    assert calls.list_missing() == {}
    # What only a BPF program asks for, which is no fake here: test_bpf_keys has what becomes of it.
    assert service.core.enforcement.credits.judge_unread == service.inlet.sensing.catch_up


def test_a_guard_that_can_look_at_no_process_and_write_no_log_starts_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = SourceError("no helper to look at processes: no memory")
    monkeypatch.setattr(enrichers, "Looker", Mock(return_value=Mock(start=Mock(side_effect=why))))
    (folder / "events.log").mkdir()
    with contextlib.ExitStack() as stack:
        service = put_together(folder, monkeypatch, stack, looks=True)
        assert service.enrichers.looker is None
        assert f"processes are not looked at: {why}" in service.reception._troubles()
        assert service.events.stats().error is not None


def test_the_clock_that_somebody_set_moves_what_is_stored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as stack:
        service = put_together(folder, monkeypatch, stack)
        moved = Mock()
        monkeypatch.setattr(service.core.keeping, "clock_was_set", moved.blocks)
        monkeypatch.setattr(service.core.switch, "clock_was_set", moved.switch)
        service.core.chores.follow_clock(0)
        assert moved.mock_calls == []
        service.core.chores._wall = Mock(refresh=lambda: -3600 * NS)
        service.core.chores.follow_clock(0)
        assert [name for name, _, _ in moved.mock_calls] == ["blocks", "switch"]
    assert "the clock was set by -3600.0 s; blocks keep their length" in caplog.messages


def test_a_request_that_meets_a_mistake_of_ours_is_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        service = put_together(folder, monkeypatch, stack)
        monkeypatch.setattr(service.reception.handlers, "_handle", Mock(side_effect=ZeroDivisionError("oops")))
        with pytest.raises(GuardError, match="status failed by a mistake of smtpguard's own: ZeroDivisionError: oops"):
            service.reception.handlers.handle(Peer(uid=0, pid=1, name="root", groups=frozenset()), "status", {})
        assert service.loop.supervision.failures == {"control": 1}


def test_a_file_that_the_command_line_overrules() -> None:
    start = Start(config_path=None, dry_run=True)
    assert reconfiguration.find_overruled(Settings(dry_run=True), start) == []
    (told,) = reconfiguration.find_overruled(Settings(dry_run=False), start)
    assert told.startswith("Nobody is refused all the same: it was started with --dry-run")
    assert reconfiguration.apply_start(Settings(dry_run=False), start).dry_run is True


def test_a_hang_up_says_in_the_log_what_came_of_the_reload(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    hang_up.tell_reload(Reloaded(text="Loaded."))
    hang_up.tell_reload(Reloaded(text="Loaded.", unmet=("nft: no",)))
    hang_up.tell_reload(GuardError("ports: not a list"))
    assert [(record.levelname, record.message[:40]) for record in caplog.records] == [
        ("INFO", "Loaded."),
        ("ERROR", "Loaded. But the kernel does not carry it"),
        ("ERROR", "ports: not a list. The old configuration"),
    ]


def test_a_guard_whose_terminal_is_gone_stops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    assert hang_up.is_terminal(slave)
    with contextlib.ExitStack() as stack:
        service = put_together(folder, monkeypatch, stack)
        service.reception.hang_up._had_terminal = True
        monkeypatch.setattr(service.reception.reload, "request", reloaded := Mock())
        monkeypatch.setattr(service.loop, "stop", stopped := Mock())
        monkeypatch.setattr(hang_up, "is_terminal", lambda _: True)
        service.reception.hang_up.take()
        assert (reloaded.call_count, stopped.call_count) == (1, 0)
        monkeypatch.setattr(hang_up, "is_terminal", lambda _: False)
        service.reception.hang_up.take()
        assert (reloaded.call_count, stopped.call_count) == (1, 1)
        monkeypatch.undo()
    os.close(master)
    assert not hang_up.is_terminal(slave)
    os.close(slave)
    assert not hang_up.is_terminal(slave)


def test_a_guard_without_its_group_serves_root_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_part, "read_gid", Mock(side_effect=ConfigError("control.group: there is no group 'x'")))
    with contextlib.ExitStack() as stack:
        sound = reconfiguration.apply_start
        monkeypatch.setattr(reconfiguration, "apply_start", lambda *words: replace(sound(*words), control_group="x"))
        service = put_together(folder, monkeypatch, stack)
        told = "only root may use the control socket: control.group: there is no group 'x'; restart the guard"
        assert any(text.startswith(told) for text in service.reception._troubles())


def test_off_survives_a_restart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        put_together(folder, monkeypatch, stack).core.switch.switch_off(None, by="admin")
    (folder / "notify").unlink()
    with contextlib.ExitStack() as stack:
        service = put_together(folder, monkeypatch, stack)
        assert service.core.switch.is_off
        assert not service.core.enforcement.is_refusing()


def test_a_reload_says_that_refused_senders_are_not_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        service = put_together(folder, monkeypatch, stack)
        reconfiguration = service.reception.reconfiguration
        reconfiguration._program = Mock(trouble="no port is free")
        told = reconfiguration.apply(service.core.guard.settings).text
        assert "Refused senders are not told why: no port is free" in told


def test_a_terminal_that_this_root_directory_does_not_have_is_none() -> None:
    with patch.object(os, "isatty", return_value=True), patch.object(os, "ttyname", side_effect=OSError):
        assert not hang_up.is_terminal(0)


def test_what_the_state_held_is_taken_when_it_can_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        service = put_together(folder, monkeypatch, stack)
        assert service.reception.history.herald is service.occasions
        late = Loaded(now_ns=1, switches=(SwitchRow(name="off", since_ns=1, until_ns=None, by="admin"),))
        monkeypatch.setattr(service.core.state, "take_late", lambda: late)
        service.core.chores.keep_state(0)
        assert service.core.switch.is_off


def test_which_table_is_ours_is_kept_before_anything_else_happens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        service = put_together(folder, monkeypatch, stack)
        assert ("facts", 0, FACT) in service.core.state.kept("facts", 0)
