"""One guard per table and network namespace; the lock goes with its holder, not with the holder's children."""

import ctypes
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from smtpguard.daemon.startup.instance_lock import InstanceLock, lock_path, read_holder
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


def hold(directory: str) -> None:
    """Until the process ends."""
    lock(directory).__enter__()


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
                signal.pause()
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
