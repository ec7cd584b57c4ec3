"""One guard per table and network namespace; the lock goes with its holder, not with the holder's children."""

import ctypes
import errno
import fcntl
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from smtpguard import safe_files
from smtpguard.daemon.startup import instance_lock
from smtpguard.daemon.startup.instance_lock import InstanceLock, _read_owner, lock_path, read_holder
from smtpguard.errors import BusyError, ConfigError
from smtpguard.settings import Settings
from tests.fakes.namespaces import run_forked

pytestmark = pytest.mark.kernel

_CLONE_NEWNET = 0x40000000


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def lock(directory: str, table: str = "smtpguard") -> InstanceLock:
    return InstanceLock(Settings(nft_table=table), directory=directory)


def hold(directory: str, table: str = "smtpguard") -> None:
    """Until the process ends."""
    lock(directory, table).__enter__()


@contextmanager
def child(body: Callable[[], None]) -> Iterator[int]:
    """A child that does something, says so, and waits to be killed."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os.write(write_fd, b"x")
            while True:
                time.sleep(0.02)  # pause(2) may begin just after a signal has come, and end at none
        except BaseException:  # noqa: BLE001 - shown, and the parent sees no answer
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write_fd)
    try:
        assert os.read(read_fd, 1) == b"x"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read_fd)


def test_a_second_guard_is_refused_and_told_the_first(directory: str) -> None:
    with child(partial(hold, directory)) as pid:
        with pytest.raises(BusyError, match=rf"\(pid {pid}\) guards table smtpguard") as caught:
            lock(directory).__enter__()
        assert caught.value.fix is not None
        assert read_holder("smtpguard", directory) == pid
        with lock(directory, "other"):
            pass
    with lock(directory):
        pass


def test_it_leaves_nothing_behind(directory: str) -> None:
    with lock(directory):
        assert Path(lock_path("smtpguard", directory)).read_text() == f"{os.getpid()}\n"
    assert not Path(directory).exists()
    assert read_holder("smtpguard", directory) is None


def test_another_network_namespace_is_another_lock(directory: str) -> None:
    def body() -> None:
        assert ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0
        with lock(directory):
            pass

    with child(partial(hold, directory)):
        run_forked(body)


def test_a_killed_guard_holds_nothing_though_its_helper_lives(directory: str) -> None:
    read_fd, write_fd = os.pipe()

    def guard_with_helper() -> None:
        lock(directory).__enter__()
        helper = os.fork()
        if helper == 0:
            while True:
                signal.pause()
        os.write(write_fd, b"%d\n" % helper)

    with child(guard_with_helper):
        helper = int(os.read(read_fd, 32))
    try:
        os.kill(helper, 0)
        with lock(directory):
            pass
    finally:
        os.kill(helper, signal.SIGKILL)
        os.close(read_fd)
        os.close(write_fd)


def test_a_file_removed_by_its_last_holder_is_not_locked_in_vain(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = lock(directory)
    real = second._lock
    removed: list[int] = []

    def lock_late(fd: int) -> None:
        if not removed:
            removed.append(fd)
            Path(lock_path("smtpguard", directory)).unlink()
        real(fd)

    monkeypatch.setattr(second, "_lock", lock_late)
    with second:
        assert read_holder_elsewhere(directory) == os.getpid()


def read_holder_elsewhere(directory: str) -> int | None:
    """As another process sees it: record locks don't exclude their own process."""
    read_fd, write_fd = os.pipe()

    def body() -> None:
        os.write(write_fd, b"%d" % (read_holder("smtpguard", directory) or 0))

    run_forked(body)
    holder = int(os.read(read_fd, 32))
    os.close(read_fd)
    os.close(write_fd)
    return holder or None


@pytest.mark.parametrize("table", ["../../etc/x", "a b", "ä", "x" * 300, ""])
def test_odd_table_names_stay_in_the_directory(directory: str, table: str) -> None:
    with lock(directory, table):
        (made,) = Path(directory).iterdir()
        assert made.name.startswith("lock-")


def test_a_directory_that_others_write_or_a_link_is_refused(directory: str) -> None:
    Path(directory).mkdir()
    Path(lock_path("smtpguard", directory)).symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="can't be made"):
        lock(directory).__enter__()
    Path(directory).chmod(0o777)
    with pytest.raises(ConfigError, match="everybody may write"):
        lock(directory).__enter__()


def test_a_file_that_nobody_holds_names_nobody(directory: str) -> None:
    Path(directory).mkdir()
    Path(lock_path("smtpguard", directory)).write_text("123\n")
    assert read_holder("smtpguard", directory) is None


def test_a_directory_that_another_guard_removes_at_its_end_is_made_again(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = safe_files.make_directory, []

    def make(path: str, mode: int, *, error: type[ConfigError]) -> None:
        calls.append(path)
        real(path, mode, error=error)
        if len(calls) == 1:
            Path(path).rmdir()

    monkeypatch.setattr("smtpguard.daemon.startup.instance_lock.make_directory", make)
    with lock(directory):
        assert len(calls) == 2


def hold_plainly(directory: str, uid: int) -> None:
    """As somebody who is no guard: a file that an older version left open to others, and a lock on it."""
    os.setresuid(uid, uid, uid)
    fd = os.open(lock_path("smtpguard", directory), os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def leave_open(directory: str) -> Path:
    Path(directory).parent.chmod(0o755)
    Path(directory).mkdir(mode=0o755)
    path = Path(lock_path("smtpguard", directory))
    path.write_text("1\n")
    path.chmod(0o666)
    return path


def test_a_lock_of_a_tenant_s_keeps_no_guard_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = f"{folder}/run"
        path = leave_open(directory)
        with child(partial(hold_plainly, directory, 61_990)) as pid:
            with lock(directory):
                assert path.stat().st_mode & 0o777 == 0o600
            assert f"was held by pid {pid}, which is not root's: removed" in caplog.text


def test_one_of_root_s_that_is_no_guard_s_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_lock, "_TRIES", 20)
    with tempfile.TemporaryDirectory() as folder:
        directory = f"{folder}/run"
        leave_open(directory)
        with (
            child(partial(hold_plainly, directory, 0)) as pid,
            pytest.raises(
                BusyError, match=rf"^\S+: pid {pid} has the lock of table smtpguard .*wait for its end"
            ) as caught,
        ):
            lock(directory).__enter__()
        assert "guards" not in str(caught.value)


def test_a_file_system_without_locks_is_named(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as broken:
        broken.setattr(fcntl, "lockf", fail)
        with pytest.raises(ConfigError, match="the lock can't be taken: No locks available"):
            lock(directory).__enter__()


def test_the_owner_of_a_process_that_is_gone_is_not_known() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert _read_owner(pid) is None


def test_files_of_guards_that_were_killed_go_and_those_of_others_stay(directory: str) -> None:
    with child(partial(hold, directory, "dead")), child(partial(hold, directory)):
        pass
    dead = [Path(lock_path(table, directory)) for table in ("dead", "smtpguard")]
    gone = Path(directory) / "lock-1-of_a_namespace_that_is_gone"
    gone.touch(0o600)
    strange = [Path(directory) / name for name in ("lock", "lock-x-y", "lock-1-a b")]
    for path in strange:
        path.touch()
    link, pipe = Path(directory) / "lock-2-link", Path(directory) / "lock-3-pipe"
    link.symlink_to(strange[0])
    os.mkfifo(pipe)
    assert all(path.exists() for path in (*dead, gone, link, pipe))
    with child(partial(hold, directory, "alive")), lock(directory, "third"), lock(directory, "fourth"):
        held = [Path(lock_path(table, directory)) for table in ("alive", "third", "fourth")]
        assert sorted(Path(directory).iterdir()) == sorted([*held, *strange, link, pipe])
        assert read_holder("alive", directory) is not None
        gone.touch(0o600)
        with lock(directory, "fifth"):
            assert not gone.exists()


def test_who_only_looks_keeps_no_guard_from_starting(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`unblock` asks by taking the lock for a moment, and so does a guard that clears away dead ones' files."""
    assert instance_lock._TRIES * instance_lock._PAUSE_S >= 0.2, "several times such a moment"
    monkeypatch.setattr(instance_lock, "_TRIES", 1000)  # a moment is longer where the processor is away
    with child(partial(hold, directory)):
        pass
    path = lock_path("smtpguard", directory)

    def look_for_a_moment() -> None:
        looking = os.open(path, os.O_RDWR)
        fcntl.lockf(looking, fcntl.LOCK_EX)
        signal.signal(signal.SIGALRM, lambda *_: os.close(looking))
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    with child(look_for_a_moment), lock(directory):
        assert Path(path).read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("is_command", [False, True])
def test_a_start_waits_for_a_look_however_long_it_takes(directory: str, *, is_command: bool) -> None:
    """Somebody who looks and loses the processor, or an `unblock` without a guard: it holds it until it has written."""

    def hold_for_a_while() -> None:
        if is_command:
            held = InstanceLock(Settings(), directory=directory, is_guard=False).__enter__()
            signal.signal(signal.SIGALRM, lambda *_: held.__exit__(None, None, None))
        else:
            looking = os.open(lock_path("smtpguard", directory), os.O_RDWR)
            fcntl.lockf(looking, fcntl.LOCK_EX)
            signal.signal(signal.SIGALRM, lambda *_: os.close(looking))
        signal.setitimer(signal.ITIMER_REAL, 0.5)

    with child(partial(hold, directory)):
        pass  # its file stays behind, with its pid
    with child(hold_for_a_while):
        assert read_holder("smtpguard", directory) is None, "nobody guards"
        with lock(directory):
            assert Path(lock_path("smtpguard", directory)).read_text() == f"{os.getpid()}\n"


def test_commands_wait_for_one_another_and_not_for_a_guard(directory: str) -> None:
    def command() -> InstanceLock:
        return InstanceLock(Settings(), directory=directory, is_guard=False)

    def hold_for_a_while() -> None:
        held = command().__enter__()
        signal.signal(signal.SIGALRM, lambda *_: held.__exit__(None, None, None))
        signal.setitimer(signal.ITIMER_REAL, 0.5)

    with child(hold_for_a_while), command():
        pass
    with child(partial(hold, directory)) as pid, pytest.raises(BusyError, match=rf"\(pid {pid}\) guards table"):
        command().__enter__()
