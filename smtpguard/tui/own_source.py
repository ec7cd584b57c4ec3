"""A source of our own in a process of its own: `watch` in lines, read by the screen. Ends with the screen."""

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Protocol

from smtpguard.errors import DecodeError
from smtpguard.interpreter import module_argv, module_environment
from smtpguard.tui.pieces import clean
from smtpguard.tui.sightings import Sighting, read_line

_MAX_SAID = 4096


class TakeSighting(Protocol):
    """Takes an attempt, from any thread."""

    def __call__(self, sighting: Sighting) -> None:
        """Take it."""


class OwnSource:
    """The process.

    Args:
        arguments: Of `watch`, beside its format.
        take: Given what it sees.

    Attributes:
        why: Why it ended; "" while it runs.
    """

    def __init__(self, arguments: Sequence[str], take: TakeSighting) -> None:
        self.why = ""
        self._take = take
        self._is_wanted = True
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._child = subprocess.Popen(
            module_argv("smtpguard", "watch", "-l", "--format", "json", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=module_environment(),
            cwd="/",
            start_new_session=True,  # Ctrl-C at the terminal is for the screen
        )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def end(self) -> None:
        """Not wanted any more; what it saw last is not taken either."""
        self._is_wanted = False
        with contextlib.suppress(OSError):
            self._child.terminate()

    def _read(self) -> None:
        lines: IO[bytes] | None = self._child.stdout
        for line in lines or ():
            if not self._is_wanted:
                break
            with contextlib.suppress(DecodeError):
                self._take(read_line(line))
        self._child.wait()
        self._said.seek(0)
        words = self._said.read(_MAX_SAID).decode("utf-8", "replace").splitlines()
        self.why = clean(next((text for text in reversed(words) if " INFO " not in text), "it ended"))
