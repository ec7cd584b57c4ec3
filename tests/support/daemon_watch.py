"""No daemon dies unseen in a test: how each one ended and what it said is judged when the test is over.

A test fails when a daemon that it started has ended without being told to, has printed a traceback, or has logged an
ERROR that the test did not say it expects.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Sequence

import pytest

_PYTHON = re.compile(
    r"^(Traceback \(most recent call last\):|Fatal Python error: .*|Exception ignored in.*|Exception in thread .*"
    r"|\S*Warning: .*|.*: \w+Warning: .*)$",
    re.MULTILINE,
)
"""What Python says of its own accord: nothing of it is meant for people who run a daemon."""
_ERROR = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?:ERROR|CRITICAL) (.*)$", re.MULTILINE)
_EVENT = re.compile(r"^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} )", re.MULTILINE)
"""Where a line of the log begins, and with it what belongs to it."""
_END_S = 10


class DaemonWatch:
    """The daemons of one test.

    Attributes:
        started: All of them, in order.
    """

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []
        self._allowed: dict[int, int | None] = {}
        self._expected: list[re.Pattern[str]] = []

    def add(self, daemon: subprocess.Popen[str]) -> None:
        """Watch a daemon that was just started."""
        self.started.append(daemon)

    def may_end(self, daemon: subprocess.Popen[str], number: int | None = None) -> None:
        """From here on it may end.

        Args:
            daemon: Which one.
            number: The signal it is sent; None if the test makes it end in another way, with whatever code.
        """
        clean = number in (signal.SIGTERM, signal.SIGINT)
        self._allowed[daemon.pid] = 0 if clean else None if number is None else -number

    def expect_errors(self, patterns: Iterable[str]) -> None:
        """ERROR lines that match one of these regular expressions are part of the test."""
        self._expected += [re.compile(pattern) for pattern in patterns]

    def end_all(self) -> list[str]:
        """End those that run, one after the other, as an administrator would; what was wrong with how they ended."""
        found = []
        for number, daemon in enumerate(self.started, 1):
            if daemon.poll() is not None and daemon.pid not in self._allowed:
                found.append(f"daemon {number} of the test ended unasked: {daemon.returncode}")
                continue
            if daemon.poll() is None:
                if daemon.pid not in self._allowed:
                    self.may_end(daemon, signal.SIGTERM)
                daemon.send_signal(signal.SIGTERM)
                daemon.send_signal(signal.SIGCONT)
            try:
                code = daemon.wait(_END_S * float(os.environ.get("SMTPGUARD_TEST_PATIENCE", "1")))
            except subprocess.TimeoutExpired:
                found.append(f"daemon {number} of the test did not end within {_END_S} s of SIGTERM")
                continue
            if self._allowed[daemon.pid] not in (None, code):
                found.append(f"daemon {number} of the test exited with {code}, not {self._allowed[daemon.pid]}")
        return found

    def judge_words(self, stderr: str) -> list[str]:
        """What no daemon may say, and no test said it expects.

        Args:
            stderr: All that the daemons of the test have said.
        """
        words = "".join(event for event in _EVENT.split(stderr) if not self._is_expected(event))
        found = [f"the daemon's Python said: {match[0]}" for match in _PYTHON.finditer(words)]
        errors = (match[1] for match in _ERROR.finditer(words))
        return found + [
            f"the daemon logged an ERROR that the test does not expect (expect_errors): {text}" for text in errors
        ]

    def _is_expected(self, event: str) -> bool:
        """Whether a line of the log is an ERROR that is expected; the trace that follows it is part of it."""
        error = _ERROR.match(event)
        return error is not None and any(pattern.search(error[1]) for pattern in self._expected)


def fail_with(found: Sequence[str], stderr: str) -> None:
    """Fail the test when there is something, and show all that its daemons said."""
    if found:
        pytest.fail("\n".join([*found, "--- daemon said ---", stderr]), pytrace=False)
