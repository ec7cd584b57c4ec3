"""Attack 10: a tenant holds a read lock on the lock file until the guard ends: no guard starts again."""

import fcntl
import os
import signal
import stat
import struct
from pathlib import Path

import pytest

from smtpguard.daemon.startup import instance_lock
from smtpguard.daemon.startup.instance_lock import InstanceLock, lock_path
from smtpguard.errors import BusyError
from smtpguard.settings import Settings

pytestmark = pytest.mark.kernel
TENANT = 61101


def lock(directory: Path) -> InstanceLock:
    return InstanceLock(Settings(), directory=str(directory))


def hold_for_reading(path: str, uid: int) -> int:
    """A process of that uid that holds a read lock on the file, as long as it lives; its pid."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            fd = os.open(path, os.O_RDONLY)
            fcntl.lockf(fd, fcntl.LOCK_SH)
            os.write(tell, b"+")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    answer = os.read(ready, 1)
    os.close(ready)
    if answer != b"+":
        os.waitpid(pid, 0)
        return 0
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.fixture
def directory() -> Path:
    return Path(f"/run/smtpguard-test-{os.getpid()}")


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_a_tenant_cannot_even_open_it(directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with lock(directory):
            path = lock_path("smtpguard", str(directory))
            assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
            assert hold_for_reading(path, TENANT) == 0
    finally:
        os.umask(before)


def test_a_file_that_an_older_version_left_is_replaced_under_its_holder(directory: Path) -> None:
    directory.mkdir(0o755)
    path = Path(lock_path("smtpguard", str(directory)))
    path.touch(0o644)
    path.chmod(0o644)
    tenant = hold_for_reading(str(path), TENANT)
    assert tenant
    try:
        with lock(directory):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        end(tenant)


def test_an_older_versions_mode_is_mended(directory: Path) -> None:
    directory.mkdir(0o755)
    path = Path(lock_path("smtpguard", str(directory)))
    path.touch(0o644)
    path.chmod(0o644)
    with lock(directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_holder_of_roots_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_lock, "_TRIES", 20)
    directory.mkdir(0o755)
    path = Path(lock_path("smtpguard", str(directory)))
    path.touch(0o600)
    holder = hold_for_reading(str(path), 0)
    try:
        with pytest.raises(BusyError, match=rf"pid {holder}\b"):
            lock(directory).__enter__()
    finally:
        end(holder)
        path.unlink()
        directory.rmdir()


def test_the_layout_is_the_kernels() -> None:
    """The size of struct flock where long is 64 bits, fcntl(2)."""
    assert struct.calcsize("hhqqi4x") == 32
