"""A moment in which the system gives no thread (too many processes, no memory): whoever wanted one asks again."""

import queue
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from smtpguard.actions.base import Deny
from smtpguard.actions.sessions import SessionEnder
from smtpguard.clock import boottime_ns
from smtpguard.daemon.host_watch import HostWatch
from smtpguard.daemon.outlet.frames import pick_settings, render_frame
from smtpguard.decode.netlink.sock_diag import Session
from smtpguard.enrich.accounts.name_service import NamedAccount, NameService
from smtpguard.enrich.exempt_hosts import ExemptHosts
from smtpguard.enrich.translators import Translators
from smtpguard.errors import EnforceError, StateError, ThreadError
from smtpguard.hooks import Task
from smtpguard.kernel.lasting_thread import start_lasting
from smtpguard.kernel.netns import Namespaces
from smtpguard.kernel.nft.compiler import Compiler
from smtpguard.model import NS, Subject
from smtpguard.notify.helper import NotifyHelper, SayUp
from smtpguard.panels.customers_apart import Reading
from smtpguard.settings import Settings
from smtpguard.sources.bpf.existing_sessions import ExistingSessions
from smtpguard.sources.proc import ProcSource
from smtpguard.state.desk import HistoryDesk
from tests.fakes.sockets import SESSION
from tests.unit import test_block_lists, test_customer_watch, test_heartbeat
from tests.unit.test_notify_helper import FakeDuty
from tests.unit.test_reloading import Reads
from tests.unit.test_sensing import World, leader, settle, world

__all__ = ["world"]
LIMIT_S = 10


class Threads:
    """Whether there are any."""

    def __init__(self) -> None:
        self.is_out = True
        self._start = threading.Thread.start

    def start(self, thread: threading.Thread) -> None:
        if self.is_out:
            raise RuntimeError("can't start new thread")
        self._start(thread)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    found = Threads()

    def start(thread: threading.Thread) -> None:
        found.start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    return found


class Diag:
    """sock_diag with one session."""

    unseen = 0

    def sessions(self, ports: object, **_: object) -> Iterator[Session]:
        del ports
        yield SESSION

    read_sessions = sessions

    def is_listened(self, session: Session) -> bool:
        del session
        return False

    def look_again(self, session: Session) -> Session:
        return replace(session, totals=None)

    def close(self) -> None:
        pass


def test_who_starts_one_hears_what_to_look_at(threads: Threads) -> None:
    with pytest.raises(ThreadError, match=r"no thread can be started now: can't start new thread \(see pids.max"):
        start_lasting("state", Mock())
    threads.is_out = False
    start_lasting("state", Mock()).join(LIMIT_S)


def test_a_reload_is_answered_and_the_next_one_works(threads: Threads) -> None:
    reads = Reads()
    reads.ask("one")
    assert [(name, text.partition(":")[0]) for name, text in reads.answers] == [("one", "no thread can be started now")]
    assert reads.noticed == ["reloading", "ready"]
    threads.is_out = False
    reads.results = [Settings(nft_table="b")]
    reads.ask("two")
    reads.go.release()
    reads.turn()
    assert reads.answers[1:] == [("two", "applied b")]
    reads.part.close()


def test_a_source_that_died_then_is_opened_again(threads: Threads, world: World) -> None:
    threads.is_out = False
    sensing = world.sensing(Settings())
    sensing.start()
    world.closed, threads.is_out = {"a"}, True
    sensing.on_ready(0)
    settle(world, sensing)
    assert leader(sensing) is None
    assert "no thread can be started" in sensing.sensors[0].why
    world.closed, threads.is_out = set(), False
    world.now += 3 * NS
    settle(world, sensing)
    assert leader(sensing) == "a"
    sensing.close()


def test_sessions_of_before_are_found_a_second_later(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.sources.bpf.existing_sessions.SockDiag", Diag)
    monkeypatch.setattr("smtpguard.sources.bpf.existing_sessions.FIND_S", LIMIT_S)
    monkeypatch.setattr("smtpguard.sources.bpf.existing_sessions.ASK_S", LIMIT_S)
    adopted = ExistingSessions({25}, NS)
    assert adopted.adopt(NS, lambda _cookie, _storage: False) == []
    assert adopted.poll(2 * NS) == []
    threads.is_out = False
    assert adopted.poll(2 * NS) == [], "not before its time"
    assert [report.kind for report in adopted.poll(3 * NS)] == ["open"]
    threads.is_out = True
    assert adopted.poll(4 * NS) == []
    threads.is_out = False
    assert len(adopted._sessions) == 1, "still followed"
    adopted.close()


def test_proc_looks_with_its_next_poll(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.sources.proc._WAIT_S", LIMIT_S)
    source = ProcSource(Settings(), make_diag=Diag)  # type: ignore[arg-type]
    source._diag = Diag()  # type: ignore[assignment]
    assert source.read() == []
    threads.is_out = False
    source.read()
    assert source._known
    source.close()


def test_a_block_is_carried_out_and_its_sessions_end_later(threads: Threads) -> None:
    ender = SessionEnder(frozenset({25}), find_namespaces=lambda _: Namespaces(fds=(), missed=0))
    ender._here.diag = Diag()  # type: ignore[assignment]
    until_ns = boottime_ns() + 60 * NS
    here = Deny(subject=Subject(id=4711), kind="block", until_ns=until_ns, ranges=((100_000, 10),))
    there = replace(here, subject=Subject(id=4711, scope=5))
    for deny in (here, there):
        with pytest.raises(EnforceError, match="no thread can be started now"):
            ender.apply_deny(deny)
    assert "no thread" in str(ender.trouble)
    threads.is_out = False
    for deny in (here, there):
        ender.apply_deny(deny)
    ender.wait()
    ender.close()


def test_a_name_is_asked_for_again_and_nobody_is_held_up(threads: Threads) -> None:
    names = NameService(lambda key: NamedAccount(uid=4711, name=str(key)))
    assert names.find(4711) is None
    assert names.dropped == 1
    threads.is_out = False
    assert names.find(4711) is None
    assert names.wait_for(4711, LIMIT_S) == NamedAccount(uid=4711, name="4711")


def test_names_and_translators_are_looked_up_with_the_next_look_around(threads: Threads) -> None:
    looked_up, asked = threading.Event(), threading.Event()

    def resolve(name: str) -> Any:  # noqa: ANN401
        looked_up.set()
        raise OSError(name)

    def ask(name: str) -> None:
        del name
        asked.set()

    named, translators = ExemptHosts(["relay.example"], resolve=resolve), Translators("auto", ask=ask)
    named.start()
    translators.start()
    threads.is_out = False
    around = HostWatch(Settings(accounts="none"), lambda: 100 * NS)
    around._named, around._translators = named, translators
    around.on_time(200 * NS)
    assert looked_up.wait(LIMIT_S)
    assert asked.wait(LIMIT_S)
    around.close()


def test_customers_are_read_though_nothing_has_changed_since(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpguard.panels.customer_watch.find_panel", lambda: "panel")
    monkeypatch.setattr("smtpguard.panels.customer_watch.read_signature", lambda panel: (panel,))
    scene = test_customer_watch.Scene(Settings(accounts="auto", state_path=str(tmp_path / "state.db")))
    scene.watch._due_ns = 1 << 62
    with pytest.raises(ThreadError):
        scene.watch.look()
    threads.is_out = False
    assert scene.read(Reading(test_customer_watch.SAID))
    scene.watch.close()


def test_accounts_that_are_other_customers_now_are_judged_anew_all_the_same(threads: Threads) -> None:
    around = HostWatch(Settings(accounts="none"), lambda: 100 * NS)
    around._is_outdated = True
    with pytest.raises(ThreadError):
        around._read_again()
    threads.is_out = False
    assert around._read_again()
    assert select.select([around._reader.fileno()], [], [], LIMIT_S)[0]
    around._reader.take()
    around.close()


def test_a_ruleset_that_no_process_can_be_had_for_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fork", Mock(side_effect=BlockingIOError(11, "Resource temporarily unavailable")))
    with pytest.raises(EnforceError, match="can't be started: Resource temporarily unavailable"):
        Compiler().compile("smtpguard", "table inet smtpguard")


def test_who_asks_for_the_history_is_answered(threads: Threads, tmp_path: Path) -> None:
    desk = HistoryDesk(str(tmp_path / "none.db"))
    with pytest.raises(StateError, match="no thread can be started now"):
        desk.ask(Mock(), Mock())
    threads.is_out = False
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    desk.ask(Mock(), answers.put)
    assert "no thread" not in str(answers.get(timeout=LIMIT_S))
    desk.close(LIMIT_S)


def test_a_heartbeat_and_block_lists_have_their_next_turn(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = test_heartbeat.Bench(monkeypatch)
    monkeypatch.setattr("smtpguard.notify.listed_duty.apply_capabilities", lambda keep: keep)
    lists = test_block_lists.Bench(tmp_path, test_block_lists.NameServer())
    beat.pass_time(10)
    assert beat.duty.report()["troubles"]
    with pytest.raises(ThreadError):
        lists.turn()
    threads.is_out = False
    beat.pass_time(60)
    assert beat.sent
    assert not beat.duty.report()["troubles"]
    lists.turn(60)
    assert lists.duty.report()["text"] != "not asked yet"


def test_the_notifying_process_begins_anew_where_it_can_t_take_its_settings(threads: Threads) -> None:
    class Threaded(FakeDuty):
        def configure(self, settings: Any) -> None:  # noqa: ANN401
            super().configure(settings)
            start_lasting("notify-webhook", Mock())

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    duties: list[Threaded] = []

    def make(say: SayUp, wake: Task) -> list[Threaded]:
        del wake
        duties.append(Threaded("sound", say))
        return duties

    helper = NotifyHelper(theirs, make=make)
    ours.send(render_frame("reload", pick_settings(Settings())))
    ours.send(render_frame("occasion", {"id": "a"}))
    ours.close()
    helper.run()
    assert threads.is_out
    assert duties[0].got == [Settings().state_path, "closed"], "the next one has the occasion"
    theirs.close()
