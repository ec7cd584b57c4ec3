"""`--two-at-a-time`: what needs no kernel is run by two processes, file by file; then all else, alone, as ever.

It stays one run with one summary and one exit code, whatever is asked for (-x, --lf, --durations): what the second
process reports is told in the first, as if the test had run there. pytest-xdist would run tests of the kernel in a
worker too, beside its threads and without the descriptors and the terminal that they have here.
"""

import os
import pickle
import signal
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pytest

APART = ("tests/fuzz/", "tests/unit/", "tests/property/", "tests/cli/")
"""Tests that do not mind each other: none has a port, a namespace or a file that another one knows of."""
_LENGTH = 8


def run_all(session: pytest.Session) -> bool:
    """Run all that was collected; False where pytest's own loop does: nothing is to be gained, or it has more to say.

    Raises:
        pytest.Session.Failed: Enough have failed (-x, --maxfail).
        pytest.Session.Interrupted: A plugin wants to stop.
    """
    option = session.config.option
    groups = groupby(session.items, key=lambda item: item.nodeid.partition("::")[0])
    files = [list(items) for file, items in groups if file.startswith(APART)]
    if len(files) < 2 or session.testsfailed or option.collectonly or option.usepdb:
        return False
    second = _SecondProcess(session, _Tickets(files))
    try:
        for _ in _run(session, second.tickets.take()):
            second.report()
        second.wait()
    finally:
        second.close()
    for _ in _run(session, (item for item in session.items if not item.nodeid.startswith(APART))):
        pass
    return True


def _run(session: pytest.Session, items: Iterator[pytest.Item]) -> Iterator[None]:
    """Run tests until there are no more, or pytest wants to stop; yields after each."""
    item = next(items, None)
    while item is not None:
        nextitem = next(items, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        yield
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = nextitem


class _Tickets:
    """Whoever is done takes the next file: what is read from a pipe is read by one process alone."""

    def __init__(self, files: Sequence[Sequence[pytest.Item]]) -> None:
        self.files = files
        self._reading, writing = os.pipe()
        os.write(writing, b"".join(number.to_bytes(2, "big") for number in range(len(files))))
        os.close(writing)

    def take(self) -> Iterator[pytest.Item]:
        """Tests of one file after the other that the other process has not taken."""
        for number in self.take_numbers():
            yield from self.files[number]

    def take_numbers(self) -> Iterator[int]:
        """The same, by the numbers of the files."""
        while ticket := os.read(self._reading, 2):
            yield int.from_bytes(ticket, "big")

    def close(self) -> None:
        """Once no more are taken."""
        os.close(self._reading)


class _SecondProcess:
    """The second process, as the first one sees it. It tells into a file, so that neither waits for the other."""

    def __init__(self, session: pytest.Session, tickets: _Tickets) -> None:
        self._session, self.tickets = session, tickets
        self._told = tempfile.TemporaryFile("ab", buffering=0)  # noqa: SIM115 - closed by `close`
        self._reading = Path(f"/proc/self/fd/{self._told.fileno()}").open("rb", buffering=0)  # noqa: SIM115 - the same
        self._unread = b""
        self._unfinished: dict[str, pytest.Item] = {}
        ready, tell_ready = os.pipe()
        self._pid: int | None = os.fork()
        if self._pid == 0:
            _Teller(session, self._told).run(tickets, tell_ready)
        os.close(tell_ready)
        os.read(ready, 1)
        os.close(ready)

    def report(self) -> None:
        """Tell here what it has told so far."""
        self._unread += self._reading.read()
        while len(self._unread) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._unread[:_LENGTH], "big")
            if len(self._unread) < end:
                break
            what, told = pickle.loads(self._unread[_LENGTH:end])  # noqa: S301 - written by ourselves
            self._unread = self._unread[end:]
            self._report_one(what, told)

    def _report_one(self, what: str, told: Any) -> None:  # noqa: ANN401 - see _Teller
        hook = self._session.config.hook
        if what == "taken":
            self._unfinished |= {item.nodeid: item for item in self.tickets.files[told]}
        elif what == "warning":
            told["warning_message"] = warnings.WarningMessage(**told["warning_message"])
            hook.pytest_warning_recorded.call_historic(kwargs=told)
        else:
            report = hook.pytest_report_from_serializable(config=self._session.config, data=told)
            if report.when == "teardown":
                self._unfinished.pop(report.nodeid, None)
            hook.pytest_runtest_logreport(report=report)

    def wait(self) -> None:
        """Until it has ended; a test of which it has not told the end has failed."""
        assert self._pid is not None
        _, status = os.waitpid(self._pid, 0)
        self._pid = None
        self.report()
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)
        for item in self._unfinished.values():
            said = f"the second process ended ({os.waitstatus_to_exitcode(status)}) before this test had"
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", said, "call")
            self._session.config.hook.pytest_runtest_logreport(report=report)

    def close(self) -> None:
        """End it where it still runs, as Ctrl-C would."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGINT)
            os.waitpid(self._pid, 0)
        self.tickets.close()
        self._reading.close()
        self._told.close()


class _Teller:
    """The second process, a copy of the first: a plugin of its own pytest that tells in the terminal's place."""

    def __init__(self, session: pytest.Session, told: BinaryIO) -> None:
        self._session, self._told = session, told

    def run(self, tickets: _Tickets, tell_ready: int) -> NoReturn:
        """Run tests until none is left."""
        config, code, leave = self._session.config, 1, os._exit
        try:
            capture = config.pluginmanager.get_plugin("capturemanager")
            if capture is not None and capture.is_globally_capturing():
                capture.stop_global_capturing()  # the file that it writes into is the first process's
                capture.start_global_capturing()
            config.get_terminal_writer()._file = Path(os.devnull).open("w")  # noqa: SIM115 - until the end
            config.pluginmanager.register(self)
            os.close(tell_ready)
            for _ in _run(self._session, self._take(tickets)):
                pass
            code = 0
        except (pytest.Session.Failed, pytest.Session.Interrupted, KeyboardInterrupt):
            code = 0  # the first process knows why
        finally:
            leave(code)

    def _take(self, tickets: _Tickets) -> Iterator[pytest.Item]:
        for number in tickets.take_numbers():
            self._tell("taken", number)
            yield from tickets.files[number]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        config = self._session.config
        self._tell("report", config.hook.pytest_report_to_serializable(config=config, report=report))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: object
    ) -> None:
        message: Mapping[str, object] = {
            "message": str(warning_message.message),
            "category": warning_message.category,
            "filename": warning_message.filename,
            "lineno": warning_message.lineno,
        }
        self._tell("warning", {"warning_message": message, "when": when, "nodeid": nodeid, "location": location})

    def _tell(self, what: str, told: object) -> None:
        text = pickle.dumps((what, told))
        left = len(text).to_bytes(_LENGTH, "big") + text
        while left:  # by the file's own method: a test may have put something in the place of os.write
            left = left[self._told.write(left) :]
