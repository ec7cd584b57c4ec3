"""What the daemon hands to the notifying process, and what it does when that dies, hangs or can't be started."""

import os
import signal
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest

from smtpguard.daemon.outlet.frames import MAX_BYTES, parse_frame, render_frame
from smtpguard.daemon.outlet.helper_process import HelperProcess
from smtpguard.daemon.outlet.messenger import LONGEST_REST_NS, MAX_KEPT, PATIENCE_NS, STUCK_NS, Messenger
from smtpguard.model import NS
from smtpguard.settings import Settings
from tests.support.descriptors import list_descriptors, wait_until_closed

WANTED = replace(Settings(), metrics_textfile="/x/smtpguard.prom")


class FakeProcess:
    """Takes `room` packets."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.got: list[tuple[str, object]] = []
        self.says: deque[bytes] = deque()
        self.gone = self.ended = self.has_ended = False
        self.pid = 4711

    def fileno(self) -> int:
        return 99

    def send(self, packet: bytes) -> bool:
        if self.gone:
            raise BrokenPipeError("gone")
        if len(self.got) >= self.room:
            return False
        self.got.append(parse_frame(packet, from_daemon=True))
        return True

    def receive(self) -> bytes | None:
        if self.says:
            return self.says.popleft()
        return b"" if self.gone else None

    def end(self, *, patience_s: float = 0) -> None:
        del patience_s
        self.ended = True

    def ids(self) -> list[str]:
        return [content["id"] for kind, content in self.got if kind == "occasion" and isinstance(content, dict)]


class Bench:
    """A messenger with processes of a test's own."""

    def __init__(self, settings: Settings = WANTED, room: int = 1000) -> None:
        self.now_ns = 1000 * NS
        self.room = room
        self.processes: list[FakeProcess] = []
        self.is_broken = False
        self.messenger = Messenger(settings, lambda: self.now_ns, start=self.start)
        self.messenger.open()

    def start(self) -> FakeProcess:
        if self.is_broken:
            raise OSError("no memory")
        self.processes.append(FakeProcess(self.room))
        return self.processes[-1]

    def say(self, *packets: bytes) -> None:
        self.processes[-1].says.extend(packets)
        self.messenger.on_ready(99)

    def pass_time(self, span_ns: int) -> None:
        self.now_ns += span_ns
        self.messenger.on_time(self.now_ns)


def test_nothing_runs_where_nothing_is_wanted() -> None:
    bench = Bench(Settings())
    bench.messenger.tell({"id": "a"})
    bench.messenger.send_snapshot({"x": 1})
    assert not bench.processes
    assert bench.messenger.parts() == {}
    assert bench.messenger.next_deadline() is None


def test_the_settings_come_first_then_what_is_told() -> None:
    bench = Bench()
    bench.messenger.tell({"id": "a", "kind": "test"})
    assert [kind for kind, _ in bench.processes[0].got] == ["reload", "occasion"]
    assert bench.processes[0].got[0][1].values["metrics_textfile"] == "/x/smtpguard.prom"  # type: ignore[attr-defined]


def test_what_it_has_not_in_its_file_its_successor_is_told_again() -> None:
    bench = Bench()
    for name in "abc":
        bench.messenger.tell({"id": name})
    bench.say(render_frame("took", {"id": "a"}))
    bench.processes[0].gone = True
    bench.messenger.on_ready(99)
    assert bench.processes[0].ended
    assert "gone" in str(bench.messenger.trouble())
    bench.pass_time(NS)
    assert bench.processes[1].ids() == ["b", "c"]
    bench.say(render_frame("ready"))
    assert bench.messenger.trouble() is None


def test_one_that_dies_at_once_is_started_ever_more_seldom() -> None:
    bench = Bench()
    for _ in range(600):
        bench.processes[-1].gone = True
        bench.messenger.on_ready(99)
        bench.pass_time(NS)
    assert len(bench.processes) < 20
    bench.pass_time(LONGEST_REST_NS)
    bench.pass_time(LONGEST_REST_NS)
    bench.processes[-1].gone = True
    bench.messenger.on_ready(99)
    count = len(bench.processes)
    bench.pass_time(NS)
    assert len(bench.processes) == count + 1, "it lived long: the next one comes at once"


def test_one_that_takes_nothing_has_a_successor_and_nothing_grows() -> None:
    bench = Bench(room=3)
    for number in range(MAX_KEPT + 100):
        bench.messenger.tell({"id": str(number)})
        bench.messenger.send_snapshot({"x": number})
    assert bench.messenger.dropped() == {"occasion": 100, "snapshot": MAX_KEPT + 100 - 1}
    assert f"{MAX_KEPT} waiting" in bench.messenger.parts()["notification"]
    assert "100 occasions" in bench.messenger.parts()["notification"]
    bench.room = 10_000
    bench.pass_time(STUCK_NS)
    assert bench.processes[0].ended
    bench.pass_time(NS)
    assert bench.processes[1].ids() == [str(number) for number in range(MAX_KEPT)]


def test_one_that_reads_is_not_stuck_however_long_it_has_nothing_to_say() -> None:
    bench = Bench()
    for _ in range(20):
        bench.messenger.send_snapshot({})
        bench.say(render_frame("seen"))
        bench.pass_time(15 * NS)
    assert len(bench.processes) == 1


def test_where_none_can_be_started_it_is_told_and_tried_again() -> None:
    bench = Bench(Settings())
    bench.is_broken = True
    bench.messenger.reconfigure(WANTED)
    bench.pass_time(0)
    assert "no memory" in str(bench.messenger.trouble())
    bench.is_broken = False
    bench.pass_time(NS)
    assert len(bench.processes) == 1


def test_a_reload_tells_it_what_has_changed_and_ends_it_when_nothing_is_wanted() -> None:
    bench = Bench()
    bench.messenger.reconfigure(replace(WANTED, dry_run=False))
    bench.messenger.reconfigure(replace(WANTED, metrics_users=True))
    assert [kind for kind, _ in bench.processes[0].got] == ["reload", "reload"]
    for settings in (
        replace(WANTED, metrics_textfile="/y/smtpguard.prom"),
        replace(WANTED, notify=replace(WANTED.notify, hook=("/bin/x",))),
    ):
        bench.messenger.reconfigure(settings)  # the one before has given up to write there
        bench.processes[-1].has_ended = True
        bench.pass_time(0)
        assert bench.processes[-2].ended
        assert [kind for kind, _ in bench.processes[-1].got] == ["reload"]
    bench.say(render_frame("report", {"listed": {"text": "listed"}}))
    bench.messenger.reconfigure(Settings())
    assert bench.messenger.report == {}, "what it said holds no more"
    assert bench.processes[-1].got[-1][0] == "stop"
    assert bench.messenger.filenos() == ()
    bench.messenger.close()
    assert bench.processes[-1].ended


def test_no_reload_waits_for_one_that_does_not_end_and_none_begins_before() -> None:
    bench = Bench()
    hook = replace(WANTED, notify=replace(WANTED.notify, hook=("/bin/x",)))
    bench.messenger.reconfigure(hook)
    bench.messenger.tell({"id": "a"})
    for _ in range(24):
        deadline = bench.messenger.next_deadline()
        assert deadline is not None
        bench.pass_time(deadline - bench.now_ns)
    assert not bench.processes[0].ended, "it may remove its file still, and a new one's has the same name"
    assert len(bench.processes) == 1
    bench.pass_time(PATIENCE_NS)
    assert bench.processes[0].ended
    assert bench.processes[1].ids() == ["a"]
    bench.messenger.reconfigure(Settings())
    bench.messenger.reconfigure(hook)
    assert len(bench.processes) == 2
    bench.messenger.reconfigure(Settings())
    bench.pass_time(PATIENCE_NS)
    assert bench.processes[1].ended
    assert bench.messenger.next_deadline() is None


def test_what_is_too_long_for_a_packet_is_dropped_and_counted() -> None:
    bench = Bench()
    bench.messenger.tell({"id": "a", "text": "x" * MAX_BYTES})
    bench.messenger.send_snapshot({"text": "x" * MAX_BYTES})
    assert bench.messenger.dropped() == {"occasion": 1, "snapshot": 1}


def test_the_real_process_says_that_it_is_there_and_ends_with_its_socket() -> None:
    process = HelperProcess()
    try:
        said = wait_for_packet(process)
        assert parse_frame(said, from_daemon=False)[0] == "ready"
        status = Path(f"/proc/{process.pid}/status").read_text("ascii")
        assert "NoNewPrivs:\t1" in status
        for which in ("Bnd", "Prm", "Eff"):
            assert f"Cap{which}:\t{1:016x}" in status or os.geteuid() != 0, "CAP_CHOWN at most"
    finally:
        begun = time.monotonic()
        process.end(patience_s=10)
    assert time.monotonic() - begun < 10
    assert process.exit_code == 0, "it ended by itself"


def test_the_real_process_that_was_killed_is_noticed() -> None:
    process = HelperProcess()
    assert parse_frame(wait_for_packet(process), from_daemon=False)[0] == "ready"
    os.kill(process.pid, signal.SIGKILL)
    assert wait_for_packet(process) == b""
    process.end()


def wait_for_packet(process: HelperProcess) -> bytes:
    deadline = time.monotonic() + 20
    while (packet := process.receive()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return packet


def test_objects_are_made_of_what_the_daemon_says_and_of_nothing_else() -> None:
    packet = render_frame("reload", {"a": 1})
    assert parse_frame(packet, from_daemon=True) == ("reload", {"a": 1})
    with pytest.raises(ValueError, match="decode"):
        parse_frame(packet, from_daemon=False)


def test_a_process_that_has_ended_by_itself_is_no_trouble_at_the_stop() -> None:
    bench = Bench()
    bench.processes[0].gone = True
    bench.messenger.close()
    assert bench.processes[0].ended
    assert bench.messenger.trouble() is None


def test_settings_that_fit_in_no_packet_are_a_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.daemon.outlet.frames.MAX_BYTES", 10)
    bench = Bench()
    assert "can't be told its settings: reload:" in str(bench.messenger.trouble())
    assert bench.processes[0].got == []


def test_one_that_does_not_take_its_settings_has_a_successor() -> None:
    bench = Bench(room=0)
    assert bench.processes[0].ended
    assert "it does not take its settings" in str(bench.messenger.trouble())
    bench.room = 10
    bench.pass_time(NS)
    assert [kind for kind, _ in bench.processes[1].got] == ["reload"]


def test_one_that_ends_while_it_is_told_something_has_a_successor_that_is_told_it() -> None:
    bench = Bench()
    bench.processes[0].gone = True
    bench.messenger.tell({"id": "a"})
    assert "it has ended: gone" in str(bench.messenger.trouble())
    bench.pass_time(NS)
    assert bench.processes[1].ids() == ["a"]


def test_the_socket_has_room_or_not_and_says_when_the_other_end_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.daemon.outlet.helper_process.module_argv", lambda *_: ["/bin/sleep", "60"])
    process = HelperProcess()
    try:
        assert process.receive() is None
        while process.send(bytes(10_000)):
            pass
        os.kill(process.pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while process.receive() is None:
            assert time.monotonic() < end
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            process.send(b"x")
    finally:
        process.end()


def test_one_that_can_not_be_started_leaves_no_descriptor_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list_descriptors()
    monkeypatch.setattr("smtpguard.daemon.outlet.helper_process.module_argv", lambda *_: ["/nonexistent/x"])
    with pytest.raises(FileNotFoundError):
        HelperProcess()
    wait_until_closed(before)


def test_a_packet_without_a_kind_is_none() -> None:
    with pytest.raises(ValueError, match="without a kind"):
        parse_frame(b"report", from_daemon=False)


@pytest.mark.parametrize(
    "said",
    [
        b"report", b"report\n[]", b'report\n{"messages": 5}', b"took\n5", b'took\n{"id": []}', b"stop\nnull",
        b"\xff\nnull", b"reload\n\x80\x04", b"report\n" + b"[" * 90_000, b"took\n{",
    ],
)  # fmt: skip
def test_one_that_says_what_it_never_should_is_ended(said: bytes) -> None:
    bench = Bench()
    bench.say(said)
    assert bench.processes[0].ended
    assert "says what it never should" in str(bench.messenger.trouble())


def test_what_it_says_of_itself_does_nothing_to_a_terminal() -> None:
    bench = Bench()
    bench.say(render_frame("report", {"messages": {"text": "a\x1b[2J\n", "troubles": ["b\n", 5], "waiting": 1}}))
    assert bench.messenger.parts()["notification"].endswith("messages: a?[2J?")
    assert bench.messenger.trouble() == "b?; 5"
