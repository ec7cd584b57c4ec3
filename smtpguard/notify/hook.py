"""A program of root's that gets each message as JSON on its standard input (THREATS 17).

Nobody but root may write it, nor a folder on the way to it; the arguments are those of the configuration and no others,
there is no shell; the environment is empty but for PATH and LANG. It has 10 s, and no capability: the thread that
starts it has none (delivery.py), and nothing that it starts gets any.
"""

import contextlib
import os
import select
import signal
import stat
import subprocess
from pathlib import Path

from smtpguard.errors import ConfigError
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.spool import Letter
from smtpguard.safe_files import check_directory, find_distrust

TIMEOUT_S = 10.0
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class HookChannel:
    """The program.

    Args:
        argv: It and its arguments.
        timeout_s: How long it may take.
    """

    key = "hook"
    type = "hook"

    def __init__(self, argv: tuple[str, ...], *, timeout_s: float = TIMEOUT_S) -> None:
        self._argv = argv
        self._timeout_s = timeout_s
        self.name = f"hook {argv[0].rpartition('/')[2]}"

    def wants(self, kind: str) -> bool:
        """All kinds."""
        return bool(kind)

    def send(self, letter: Letter) -> str:
        """Run it; its exit code is what came back."""
        stdin = os.memfd_create("smtpguard-message", os.MFD_CLOEXEC)  # a pipe would have to be fed
        try:
            os.write(stdin, letter.body.encode() + b"\n")
            os.lseek(stdin, 0, os.SEEK_SET)
            process = subprocess.Popen(
                list(self._argv),
                executable=find_program(self._argv[0]),
                env=ENVIRONMENT,
                cwd="/",
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (ConfigError, OSError) as error:
            raise DeliveryError(f"can't be run: {error}") from error
        finally:
            os.close(stdin)
        try:
            has_ended = _wait(process.pid, self._timeout_s)
        except OSError as error:
            raise DeliveryError(f"can't be waited for: {error}") from error
        finally:
            with contextlib.suppress(OSError):  # what it has started, too; not reaped yet, so the number is its own
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if not has_ended:
            raise DeliveryError(f"it did not end within {self._timeout_s:.0f} s")
        if process.returncode != 0:
            raise DeliveryError(f"it ended with {process.returncode}")
        return "it ended with 0"


def find_program(path: str) -> str:
    """Where a program is, by a way without links, that root alone can have put there.

    Args:
        path: Absolute. Links among its folders are resolved first, and the way they lead to is checked.

    Raises:
        ConfigError: Somebody else could have written it, or it is a link or no file.
        OSError: It can't be looked at.
    """
    where = Path(os.path.realpath(Path(path).parent)) / Path(path).name
    check_directory(str(where.parent), error=ConfigError)
    status = where.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise ConfigError("is a symbolic link", where=path, fix="name the program it points to")
    distrust = "is no file" if not stat.S_ISREG(status.st_mode) else find_distrust(status)
    if distrust is not None:
        raise ConfigError(distrust, where=path, fix=f"chown root {path}; chmod go-w {path}")
    return str(where)


def _wait(pid: int, timeout_s: float) -> bool:
    """Whether a child has ended in time; it is not reaped."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)
