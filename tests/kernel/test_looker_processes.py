"""The looker against real processes, some of which hang whoever looks at them."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smtpguard.enrich.looker import client, drop_privileges
from smtpguard.enrich.looker.client import LINES, Looker
from smtpguard.enrich.looker.drop_privileges import NO_UID
from smtpguard.enrich.looker.inspect_process import SLACK_NS
from smtpguard.enrich.looker.pool import HelperPool
from smtpguard.enrich.looker.protocol import Attribution, render_answer
from smtpguard.model import NS, Connect
from tests.fakes.namespaces import run_forked
from tests.support.processes import find_child, has_ended, list_children, read_name, read_process
from tests.support.stopwatch import Stopwatch
from tests.victims import forge_cmdline, hang_cwd, hang_script, random_uid, victim

pytestmark = pytest.mark.kernel

OUR_EXE = bytes(Path("/proc/self/exe").readlink())


@pytest.fixture
def is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the time that there is: enough for a fork and a word, on whatever machine."""
    monkeypatch.setattr(client, "LINES", replace(LINES, deadline_ns=10 * LINES.deadline_ns))


@pytest.fixture
def looker() -> Iterator[Looker]:
    looker = Looker()
    looker.start()
    yield looker
    watch = Stopwatch()
    looker.close()
    looker.close()
    assert watch.seconds() < 1, "closing waited for a helper that hangs"


def connect(uid: int, pid: int, *, later_ns: int = 0) -> Connect:
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return Connect(time_ns=now + later_ns, uid=uid, pid=pid, port=25, address=b"\x01\x02\x03\x04", sensor="bpf")


def wait(looker: Looker, tickets: set[int | None], *, limit_s: float = 5) -> dict[int | None, Attribution]:
    """What the daemon's loop does, until all tickets are answered; others' answers come along."""
    found: dict[int | None, Attribution] = {}
    end = time.monotonic() + limit_s
    while not tickets <= set(found):
        assert time.monotonic() < end, f"no answer for {tickets - set(found)}"
        found |= take_turn(looker, time.monotonic_ns() + NS // 20)
    return found


def take_turn(looker: Looker, latest_ns: int) -> dict[int | None, Attribution]:
    """What the daemon's loop does once: it waits until the looker has something to do, and not beyond `latest_ns`."""
    wake_ns = min(looker.next_deadline() or latest_ns, latest_ns)
    select.select(looker.filenos(), [], [], max(0, wake_ns - time.monotonic_ns()) / NS)
    now_ns = time.monotonic_ns()
    looker.tick(now_ns)
    return dict(looker.read(now_ns))


def ask(looker: Looker, event: Connect) -> Attribution:
    """One answer, which must come in the loop's first turn after its time is over, whoever is asked about.

    Told in turns, for this process may be kept from its own for longer than that time is.
    """
    asked_ns = time.monotonic_ns()
    ticket = looker.ask(event, asked_ns)
    assert ticket is not None
    due_ns = asked_ns + looker._lines._terms.deadline_ns
    while True:
        due = looker.next_deadline()
        assert due is not None
        assert due <= due_ns, "the loop would sleep beyond it"
        begun_ns = time.monotonic_ns()
        answers = take_turn(looker, due_ns)
        if ticket in answers:
            return answers[ticket]
        assert begun_ns < due_ns, "late"


def ask_honest(looker: Looker, event: Connect) -> Attribution:
    """An answer about a process that hides nothing, once the helpers have their turn in time.

    Until a helper that was late is back: two that are not, and their user is not looked at any more.
    """
    assert event.uid is not None
    hanging, late = looker._hanging.counts, looker._hanging.counts[event.uid]
    end = time.monotonic() + 10
    while (answer := ask(looker, event)).why == "late":
        while hanging[event.uid] > late:
            assert time.monotonic() < end, looker.stats()
            take_turn(looker, time.monotonic_ns() + NS // 20)
    return answer


def settle(looker: Looker, *, hanging: int) -> None:
    end = time.monotonic() + 5
    while looker.stats().hanging != hanging:
        assert time.monotonic() < end, looker.stats()
        select.select(looker.filenos(), [], [], 0.05)
        looker.read(time.monotonic_ns())


def open_files(pid: int) -> set[str]:
    links = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.add(str(link.readlink()))
    return links


def find_spare(looker: Looker, spawner: int, old: int = 0) -> int:
    end = time.monotonic() + 5
    while True:
        assert time.monotonic() < end
        looker.read(time.monotonic_ns())
        spares = [child for child in list_children(spawner) if read_name(child) == "sg-look-spare" and child != old]
        if spares:
            return spares[0]
        time.sleep(0.005)


def spawner_and_helpers() -> tuple[int, list[int]]:
    end = time.monotonic() + 3
    while True:
        assert time.monotonic() < end
        spawner = find_child(os.getpid(), "sg-look-server")
        helpers = (
            [] if spawner is None else [child for child in list_children(spawner) if read_name(child) == "sg-look"]
        )
        if spawner is not None and helpers:
            return spawner, helpers
        time.sleep(0.005)


def test_who_he_is(looker: Looker) -> None:
    uid = random_uid()
    with victim(uid) as (pid, _):
        found = ask_honest(looker, connect(uid, pid))
        assert found.attr == "live"
        assert found.proc == Path("/proc/self/comm").read_bytes().rstrip(b"\n")
        assert found.exe == OUR_EXE
        assert found.cwd == bytes(Path.cwd())
        assert found.cmdline == Path("/proc/self/cmdline").read_bytes()[:4096]
        assert (found.chain[0].pid, found.chain[0].uid) == (os.getpid(), 0)
        assert found.start_ns is not None
        assert 0 <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) - found.start_ns < 10 * NS


def test_a_pid_that_is_somebody_elses_says_nothing(looker: Looker) -> None:
    uid = random_uid()
    with victim(uid) as (pid, _):
        assert ask_honest(looker, connect(uid + 1, pid)) == Attribution(why="foreign")
        assert ask_honest(looker, connect(uid, pid, later_ns=-SLACK_NS - 60 * NS)) == Attribution(why="foreign")
    assert ask_honest(looker, connect(uid, pid)) == Attribution(why="gone")


def test_helpers_have_two_capabilities_and_nothing_else(looker: Looker) -> None:
    ask_honest(looker, connect(0, os.getpid()))
    spawner, helpers = spawner_and_helpers()
    assert helpers
    for pid in [spawner, *helpers]:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Uid"].split() == [str(NO_UID)] * 4
        assert status["Gid"].split() == [str(NO_UID)] * 4
        assert status["Groups"].split() == []
        for name in ("CapPrm", "CapEff"):
            assert int(status[name], 16) == 1 << 2 | 1 << 19
        for name in ("CapInh", "CapAmb"):
            assert int(status[name], 16) == 0
        assert status["NoNewPrivs"] == "1"
        end = time.monotonic() + 3
        while len(links := open_files(pid)) != 2:  # it may be about to fork, or has just been forked
            assert time.monotonic() < end, links
        assert "/dev/null" in links
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0, "dumpable: other processes of that uid could attach"


def test_without_the_right_to_change_uid_capabilities_go_all_the_same() -> None:
    def body() -> None:
        drop_privileges._apply_capabilities(1 << 2 | 1 << 19 | 1 << 21)
        looker = Looker()
        looker.start()
        ask_honest(looker, connect(0, os.getpid()))
        _, helpers = spawner_and_helpers()
        assert b"CapPrm:\t%016x" % (1 << 2 | 1 << 19) in Path(f"/proc/{helpers[0]}/status").read_bytes()
        looker.close()

    run_forked(body)


@pytest.mark.usefixtures("is_patient")
def test_a_file_system_that_never_answers_is_not_known_and_delays_nobody(looker: Looker, tmp_path: Path) -> None:
    hostile, other = 61001, 61002
    with victim(hostile, lambda: hang_script(tmp_path)) as (bad, server), victim(other) as (good, _):
        hung = ask(looker, connect(hostile, bad))
        assert (hung.attr, hung.cmdline, hung.why) == (None, None, "late")
        assert hung.exe == OUR_EXE, "name and binary can't be hidden that way"
        assert looker.stats().abandoned >= 1

        assert looker.ask(connect(hostile, bad), time.monotonic_ns()) is not None
        assert {ask_honest(looker, connect(other, good)).attr for _ in range(5)} == {"live"}
        ask(looker, connect(hostile, bad))
        assert looker.stats().off_users == (hostile,)
        assert ask_honest(looker, connect(hostile, bad)).why == "off"
        assert ask_honest(looker, connect(other, good)).attr == "live"

        _, helpers = spawner_and_helpers()
        states = [read_process(pid, "stat").rpartition(b") ")[2][:1] for pid in helpers]
        assert b"D" in states, "they should hang in the kernel, or this test shows nothing"

        os.kill(server, signal.SIGKILL)  # the file system lets go
        settle(looker, hanging=0)
        assert looker.stats().off_users == ()
        assert ask_honest(looker, connect(hostile, bad)).attr == "live"


@pytest.mark.usefixtures("is_patient")
def test_one_that_works_too_long_ends_itself() -> None:
    def sleep(_packet: bytes, tell: Callable[[bytes], None]) -> bytes:
        tell(render_answer(Attribution(proc=b"x", why="late"), final=False))
        time.sleep(60)
        return b""

    looker = Looker(crew=HelperPool(lambda: sleep, limit_s=1))
    looker.start()
    try:
        assert ask(looker, connect(0, os.getpid())) == Attribution(proc=b"x", why="late")
        assert looker.stats().hanging == 1
        settle(looker, hanging=0)
    finally:
        looker.close()


def test_closing_does_not_wait_for_helpers_that_hang(tmp_path: Path) -> None:
    with victim(61003, lambda: hang_script(tmp_path)) as (pid, _):
        looker = Looker()
        looker.start()
        spawner, _ = spawner_and_helpers()
        assert ask(looker, connect(61003, pid)).attr is None
        watch = Stopwatch()
        looker.close()
        assert watch.seconds() < 1
        assert not Path(f"/proc/{spawner}").exists()


def test_the_script_of_an_interpreter_is_a_guess_and_must_be_there(looker: Looker, tmp_path: Path) -> None:
    (tmp_path / "x.py").touch()

    def claim(name: bytes) -> Callable[[], int]:
        def prepare() -> int:
            os.chdir(tmp_path)
            forge_cmdline(b"python", name)
            return 0

        return prepare

    uid = random_uid()
    with victim(uid, claim(b"x.py")) as (honest, _), victim(uid, claim(b"y.py")) as (forger, _):
        found = ask_honest(looker, connect(uid, honest))
        assert (found.attr, found.script) == ("guess", bytes(tmp_path / "x.py"))
        found = ask_honest(looker, connect(uid, forger))
        assert (found.attr, found.script) == ("live", None)


def test_paths_are_those_of_the_processs_own_root(looker: Looker, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "x.py").touch()
    (tmp_path / "absolute").symlink_to("/inside")

    def prepare() -> int:
        forge_cmdline(b"python", b"/absolute/x.py")
        os.chroot(tmp_path)
        return 0

    with victim(61006, prepare) as (pid, _):
        assert ask_honest(looker, connect(61006, pid)).script == b"/absolute/x.py"


def test_a_directory_on_a_hanging_file_system_is_still_named(looker: Looker, tmp_path: Path) -> None:
    with victim(61004, lambda: hang_cwd(tmp_path)) as (pid, _):
        found = ask_honest(looker, connect(61004, pid))
        assert (found.attr, found.cwd) == ("live", bytes(tmp_path))


def test_helpers_end_when_the_daemon_is_killed() -> None:
    reader, writer = os.pipe()
    daemon = os.fork()
    if daemon == 0:
        try:
            looker = Looker()
            looker.start()
            ask_honest(looker, connect(0, os.getpid()))
            spawner, helpers = spawner_and_helpers()
            os.write(writer, f"{spawner} {helpers[0]}".encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    pids = [int(pid) for pid in os.read(reader, 100).split()]
    os.close(reader)
    assert len(pids) == 2
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)
    end = time.monotonic() + 3
    while not all(map(has_ended, pids)):
        assert time.monotonic() < end, "helpers outlived the daemon"
        time.sleep(0.01)


def test_when_the_fork_server_is_killed_its_spare_takes_its_place(looker: Looker) -> None:
    spawner, _ = spawner_and_helpers()
    for _ in range(3):  # the spare has a spare, too
        spare = find_spare(looker, spawner)
        os.kill(spawner, signal.SIGKILL)
        end = time.monotonic() + 5
        while True:
            assert time.monotonic() < end
            ticket = looker.ask(connect(0, os.getpid()), time.monotonic_ns())
            if ticket is not None and wait(looker, {ticket})[ticket].why != "died":
                break
        assert looker.stats().off == ""
        spawner = spare
    status = Path(f"/proc/{spawner}/status").read_text()
    assert f"Uid:\t{65535}" in status
    looker.close()
    end = time.monotonic() + 3
    while not has_ended(spawner):
        assert time.monotonic() < end, "it outlived the looker"
        time.sleep(0.01)


def test_a_spare_that_is_killed_is_replaced(looker: Looker) -> None:
    spawner, _ = spawner_and_helpers()
    spare = find_spare(looker, spawner)
    os.kill(spare, signal.SIGKILL)
    assert find_spare(looker, spawner, old=spare) != spare


def test_when_both_are_killed_it_is_off_and_says_so(looker: Looker) -> None:
    spawner, _ = spawner_and_helpers()
    spare = find_spare(looker, spawner)
    ticket = looker.ask(connect(0, os.getpid()), time.monotonic_ns())
    os.kill(spawner, signal.SIGSTOP)  # or it may replace the spare before its own end
    os.kill(spare, signal.SIGKILL)
    os.kill(spawner, signal.SIGKILL)
    wait(looker, {ticket})
    end = time.monotonic() + 3
    while not looker.stats().off:
        assert time.monotonic() < end
        looker.read(time.monotonic_ns())
    assert looker.ask(connect(0, os.getpid()), time.monotonic_ns()) is None
    assert looker.stats().off == "the fork-server has ended"
