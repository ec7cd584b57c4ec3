"""Children with a mount namespace of their own, so that tests can mount and fill small file systems."""

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def run_forked(body: Callable[[], None]) -> None:
    """Run in a forked child; an exception there fails the test here, one here (a timeout) ends the child."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read_fd)
            signal.signal(signal.SIGTERM, _end)  # so that it closes what it opened
            body()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the parent shows it
            os.write(write_fd, traceback.format_exc().encode()[-60_000:])
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(write_fd)
    try:
        with os.fdopen(read_fd, "rb") as pipe:
            report = pipe.read().decode()
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child failed ({os.waitstatus_to_exitcode(status)}):\n{report}"


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(f"ended by signal {number}")


def enter_tmpfs(directory: Path, size: str) -> None:
    """Unshare this process's mounts and mount a tmpfs on the directory; it goes with the process."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(directory)], check=True)


def leave_tmpfs(directory: Path) -> None:
    """Take away what `enter_tmpfs` has mounted, so that the directory can be removed."""
    subprocess.run(["umount", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Write a file until the file system is full."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            pass
    return ballast
