"""A pseudo-terminal of some width, whose program's words are read: without tmux, and without a screen."""

import os
import pty
import subprocess
import termios
from collections.abc import Mapping, Sequence


def run_in_terminal(argv: Sequence[str], columns: int, env: Mapping[str, str] | None = None) -> list[str]:
    """The lines that a program writes to a terminal, stderr too.

    Args:
        argv: The program.
        columns: How wide it is; 0 for one that does not know.
        env: What it finds in its environment beside that of the tests.
    """
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    before = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=before | dict(env or {})) as program:
        os.close(slave)
        text = b""
        while piece := _read(master):
            text += piece
        os.close(master)
    assert program.returncode == 0, text
    return text.decode().replace("\r\n", "\n").splitlines()


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65_536)
    except OSError:  # EIO: nobody has the other end any more
        return b""
