"""Processes for tests that look at processes: forked, set up as root, then under a uid of the test's own."""

import contextlib
import ctypes
import mmap
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuse import GETATTR, LOOKUP, mount_hanging

_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[mmap.mmap] = []
_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000


def random_uid() -> int:
    """A uid without a passwd entry."""
    return random.randrange(61001, 61100)


@contextmanager
def victim(uid: int, prepare: Callable[[], int] = lambda: 0) -> Iterator[tuple[int, int]]:
    """A process of `uid` that waits; yields its pid and what `prepare`, run in it as root, returned (a pid or 0)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.close(reader)
            helper = prepare()
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(writer, helper.to_bytes(4, "little"))
            signal.pause()
            code = 0
        os._exit(code)
    os.close(writer)
    helper = 0
    try:
        told = os.read(reader, 4)
        assert len(told) == 4, "the victim could not be set up"
        helper = int.from_bytes(told, "little")
        yield pid, helper
    finally:
        os.close(reader)
        if helper:
            with contextlib.suppress(ProcessLookupError):
                os.kill(helper, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def enter_mount_namespace() -> None:
    """A mount namespace of our own, whose mounts nobody else sees."""
    assert _libc.unshare(_CLONE_NEWNS) == 0
    assert _libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None) == 0


def _arguments() -> tuple[int, int]:
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[45]), int(fields[46])


def forge_cmdline(*arguments: bytes) -> None:
    """Write arguments over our own, as any process can."""
    start, end = _arguments()
    text = b"\0".join(arguments) + b"\0"
    assert len(text) <= end - start, "the test run's own command line is too short"
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def hang_script(folder: Path) -> int:
    """Claim to run a script whose look-up never ends; returns the file server's pid."""
    enter_mount_namespace()
    server = mount_hanging(folder, hang=(LOOKUP,))
    os.chdir(folder)
    forge_cmdline(b"python", b"page")
    return server


def map_hanging(folder: Path) -> int:
    """Map a page that never comes, under a name like that of shared anonymous memory; returns the server's pid."""
    enter_mount_namespace()
    server = mount_hanging(folder)
    page = os.open(folder / "page", os.O_RDONLY)
    _kept.append(mmap.mmap(page, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ))
    return server


def hang_cwd(folder: Path) -> int:
    """Go into a directory of a hanging file system; returns the server's pid."""
    enter_mount_namespace()
    server = mount_hanging(folder)
    os.chdir(folder)
    return server


def hang_below(folder: Path) -> int:
    """Go into a directory in which another one can't be looked at; returns the server's pid."""
    enter_mount_namespace()
    (folder / "mnt").mkdir()
    server = mount_hanging(folder / "mnt", hang=(GETATTR,), root=True)
    os.chdir(folder)
    return server
