"""A terminal that a program runs in: tmux, installed or unpacked, with a socket of its own."""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import require
from tests.support.host import PATIENCE, wait_for

_LOOK_S = 0.02
"""So long a look at the screen takes, or the test has lost the processor."""


def find_tmux() -> tuple[str, dict[str, str]]:
    """The program, and the environment it needs."""
    found = shutil.which("tmux")
    if found is not None:
        return found, dict(os.environ)
    unpacked = require("tmux", "ncurses-term")
    env = unpacked.environment()
    env["TERMINFO_DIRS"] = f"{unpacked.root}/usr/share/terminfo:/usr/share/terminfo:/lib/terminfo"
    return str(unpacked.path("usr/bin/tmux")), env


class Terminal:
    """One program in one terminal.

    Args:
        folder: For the socket.
        argv: The program.
        size: Columns and rows.
        env: What it finds in its environment beside that of the tests.
    """

    def __init__(
        self, folder: Path, argv: Sequence[str], size: tuple[int, int] = (80, 24), env: Mapping[str, str] | None = None
    ) -> None:
        self._program, own = find_tmux()
        self._socket = str(folder / "tmux")
        self._argv, self._size = argv, size
        self._pid = 0
        self._env = own | {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"} | dict(env or {})
        self._env.pop("TMUX", None)

    def __enter__(self) -> Self:
        width, height = map(str, self._size)
        self._tmux("-f", "/dev/null", "-u", "new-session", "-d", "-x", width, "-y", height, shlex.join(self._argv))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print("--- the screen ---\n" + "\n".join(self.lines()))
        self._tmux("kill-server", is_checked=False)

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self._tmux("send-keys", *keys)

    def lines(self) -> list[str]:
        """What can be read now."""
        return self._tmux("capture-pane", "-p", is_checked=False).splitlines()

    def raw(self) -> str:
        """The same with its colours, as escape sequences."""
        return self._tmux("capture-pane", "-p", "-e")

    def pid(self) -> int:
        """Of the program."""
        return int(self._tmux("list-panes", "-F", "#{pane_pid}").strip())

    def is_open(self) -> bool:
        """Whether the program has not ended."""
        return bool(self._tmux("list-panes", is_checked=False))

    def wait(self, *texts: str, seconds: float = 10) -> list[str]:
        """Until all of these stand there, and the screen stands still: it is written piece by piece; returns it."""
        found: list[str] = []

        def look() -> bool:
            found[:] = self.lines()
            whole = "\n".join(found)
            return all(text in whole for text in texts) and found == self.lines()

        wait_for(look, seconds)
        return found

    def time_key(self, key: str, text: str, *, is_there: bool = True, seconds: float = 5) -> float:
        """How many seconds after a key a text stands there, or does so no more.

        Those do not count in which the program could have gone on and others had the processor, nor those in which
        nobody looked.
        """
        deadline = time.monotonic() + seconds * PATIENCE
        waited = self._read_wait()
        self.press(key)
        begun = missed = time.monotonic()
        while (text in "\n".join(self.lines())) is not is_there:
            missed = time.monotonic()
            assert missed < deadline, f"{key} was not answered by {text!r}"
        took = min(time.monotonic(), missed + _LOOK_S) - begun
        return max(0.0, took - (self._read_wait() - waited))

    def _read_wait(self) -> float:
        """Seconds of the program's main thread in the queue for a processor (sched-stats in the kernel's documents)."""
        self._pid = self._pid or self.pid()
        return int(Path(f"/proc/{self._pid}/schedstat").read_text().split()[1]) / 1e9

    def _tmux(self, *words: str, is_checked: bool = True) -> str:
        argv = [self._program, "-S", self._socket, *words]
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, timeout=30, check=False)
        assert not is_checked or done.returncode == 0, done.stderr
        return done.stdout
