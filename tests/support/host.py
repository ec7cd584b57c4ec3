"""A guarded host for end-to-end tests: the laboratory, a sink, the real daemon and tenants' programs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import yaml

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4, Lab
from smtpguard.errors import GuardError
from smtpguard.interpreter import module_environment
from tests.support.daemon_watch import DaemonWatch, fail_with
from tests.support.starter import find_starter
from tests.support.starter import start as start_warm

SMTPGUARD = [sys.executable, "-m", "smtpguard"]
CLIENT = [sys.executable, "-m", "smtpguard.demo.client"]
SPAMMER, INNOCENT, OTHER = ("web01", 61101), ("web02", 61102), ("web03", 61103)
ROOT, POSTFIX, SHARED = ("root", 0), ("postfix", 89), ("webapps", 804)
SUBUIDS = (700_000, 65_536)
"""The spammer's subordinate uids."""
_LINE = re.compile(r'(\w+)=("[^"]*"|\S+)')


T = TypeVar("T")
PATIENCE = float(os.environ.get("SMTPGUARD_TEST_PATIENCE", "1"))
"""How many times as long as usual something may take: 5 while coverage measures the daemon."""


def wait_for(look: Callable[[], T | None], seconds: float = 10) -> T:
    """Poll until something is there; fails the test when it does not come.

    The last look begins when the time is over: who stood still meanwhile has looked too early.
    """
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        is_last = time.monotonic() >= deadline
        found = look()
        if found:
            return found
        assert not is_last, f"did not happen within {seconds} s"
        time.sleep(0.01)


def read_lines(path: Path) -> list[str]:
    """The whole lines of a log: of one that is written across two pages half may be there for a moment."""
    try:
        text = path.read_text("ascii")
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()


@dataclass(frozen=True)
class Outcome:
    """What became of a tenant's connections."""

    ok: int
    refused: int
    errors: dict[str, int]
    first_refused: int | None
    passed: list[int]


class WarmLab(Lab):
    """A laboratory whose programs the starter forks.

    Attributes:
        is_cold: They are executed from nothing, as out of a shell.
    """

    is_cold = False

    def __enter__(self) -> Self:
        find_starter()
        return super().__enter__()

    def _open(
        self, argv: Sequence[str], *, stdout: int | IO[Any] | None, stderr: int | IO[Any] | None
    ) -> subprocess.Popen[str]:
        if self.is_cold:
            return super()._open(argv, stdout=stdout, stderr=stderr)
        return start_warm(argv, module_environment(), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)


class Host:
    """The laboratory with a sink, a configuration and, once started, the daemon."""

    def __init__(self, accounts: Mapping[str, int] | None = None, /, **settings: Any) -> None:  # noqa: ANN401 - YAML values
        self.lab = WarmLab(
            dict([SPAMMER, INNOCENT, OTHER, POSTFIX, SHARED]) | dict(accounts or {}),
            groups={"mailers": [OTHER[0]]},
            subuids={SPAMMER[0]: SUBUIDS},
        )
        self._settings = settings
        self.daemon: subprocess.Popen[str] | None = None
        self._sink: subprocess.Popen[str] | None = None
        self._watch = DaemonWatch()

    def __enter__(self) -> Self:
        self.lab.__enter__()
        try:
            self.start_sink()
            self.configure()
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if error is None:
                found = self._watch.end_all()
                fail_with(found + self._watch.judge_words(self.stderr()), self.stderr())
            elif self.daemon is not None:
                print("--- daemon said ---\n" + self.stderr())
                print("--- event log ---\n" + "\n".join(self.log_lines()[-40:]))
        finally:
            self.lab.close()

    def expect_errors(self, *patterns: str) -> None:
        """Say which ERROR lines of the daemon belong to the test (regular expressions); any other fails it."""
        self._watch.expect_errors(patterns)

    def expect_end(self) -> None:
        """Say that the daemon started last may end from here on; one that ends unasked fails the test."""
        assert self.daemon is not None
        self._watch.may_end(self.daemon)

    @property
    def config(self) -> str:
        return str(self.lab.directory / "smtpguard.yaml")

    def configure(self, **settings: Any) -> None:  # noqa: ANN401 - YAML values
        """Write the configuration; later calls change some keys."""
        self._settings |= settings
        directory = str(self.lab.directory)
        values: dict[str, Any] = {
            "version": 1,
            "dry_run": False,
            "cgroup": self.lab.cgroup,
            "log": {"path": f"{directory}/events.log"},
            "state": {"path": f"{directory}/state.db"},
            "control": {"socket": f"{directory}/control.sock"},
            **self._settings,
        }
        Path(self.config).write_text(yaml.safe_dump(values), "utf-8")

    def start_sink(self) -> None:
        """Start the peer's mail server. It gets ready beside the daemon; whatever connects waits for it."""
        self._sink = self.lab.start([sys.executable, str(Path(__file__).with_name("sink.py"))], net=self.lab.peer)

    def wait_for_sink(self) -> None:
        """Until the peer's mail server listens."""
        sink, self._sink = self._sink, None
        if sink is not None:
            assert sink.stdout is not None
            assert sink.stdout.readline() == "ready\n"

    def start(
        self, *words: str, ready: bool = True, command: Sequence[str] = (*SMTPGUARD, "run")
    ) -> subprocess.Popen[str]:
        """Start the daemon and wait until `status` says it is ready."""
        with (self.lab.directory / "stderr").open("a") as stderr:
            self.daemon = self.lab.start([*command, "--config", self.config, *words], stderr=stderr)
        self._watch.add(self.daemon)
        if ready:
            self.wait_ready()
        self.wait_for_sink()
        return self.daemon

    def time_start(self) -> float:
        """Start it from nothing; seconds until it was ready, without the time in which others had the processor."""
        self.lab.is_cold = True
        begun = time.monotonic()
        self.start()
        self.lab.is_cold = False
        return time.monotonic() - begun - self.read_waited()

    def read_waited(self) -> float:
        """Seconds in which the daemon's loop wanted to run and others had the processor."""
        assert self.daemon is not None
        _, waited_ns, _ = Path(f"/proc/{self.daemon.pid}/schedstat").read_text().split()
        return int(waited_ns) / 1e9

    def wait_ready(self, seconds: float = 30) -> None:
        """Wait until the daemon says it is ready; test_ready_within_two_seconds holds it to its bar."""

        def look() -> bool:
            assert self.daemon is not None
            assert self.daemon.poll() is None, f"the daemon ended: {self.daemon.returncode}\n{self.stderr()}"
            return self.is_ready()

        wait_for(look, seconds)

    def is_ready(self) -> bool:
        """What `status` exits 0 for, asked without starting Python anew: that would slow the daemon's own start."""
        try:
            return bool(ask(f"{self.lab.directory}/control.sock", "status")["status"]["ready"])
        except GuardError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.daemon is not None
        self._watch.may_end(self.daemon, number)
        os.kill(self.daemon.pid, number)
        return self.daemon.wait(10 * PATIENCE)

    def wait_for_beat(self) -> None:
        """Until the guard has just told the kernel that it lives: its limits hold for two seconds without it then."""
        while True:
            time.sleep(1.01 - time.clock_gettime(time.CLOCK_BOOTTIME) % 1)  # it does so at whole seconds
            for _ in range(2):  # an answer may come before that in the same turn of its loop; the second comes after
                self.is_ready()
            if time.clock_gettime(time.CLOCK_BOOTTIME) % 1 < 0.3:
                return

    def stop_signal(self, number: int) -> None:
        """Send the daemon a signal that does not end it; one that stops it has done so, in all its threads."""
        assert self.daemon is not None
        os.kill(self.daemon.pid, number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.daemon.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def stderr(self) -> str:
        path = self.lab.directory / "stderr"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a smtpguard command as root in the guarded namespace."""
        return self.lab.run([*SMTPGUARD, words[0], "--config", self.config, *words[1:]])

    def begin_cli(self, *words: str) -> subprocess.Popen[str]:
        """Start such a command, and do not wait for it."""
        return self.lab.start([*SMTPGUARD, words[0], "--config", self.config, *words[1:]])

    def nft(self, *words: str) -> str:
        done = self.lab.run(["nft", *words])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log_lines(self) -> list[str]:
        return read_lines(self.lab.directory / "events.log")

    def events(self, event: str | None = None) -> list[Mapping[str, str]]:
        """The event log as dictionaries, quotes removed."""
        rows = [{k: v.strip('"') for k, v in _LINE.findall(line)} for line in self.log_lines()]
        return [row for row in rows if event is None or row["EVENT"] == event]

    def begin(
        self, user: tuple[str, int], count: int = 1, rate: float = 0, port: int = 25, to: Sequence[str] = (PEER4,)
    ) -> subprocess.Popen[str]:
        """Start a tenant's program that opens connections."""
        self.wait_for_sink()
        words = ["connect", "--uid", str(user[1]), "--count", str(count), "--rate", str(rate), "--port", str(port)]
        return self.lab.start([*CLIENT, *words, "--list-passed", *to], inside=True)

    def outcome(self, child: subprocess.Popen[str]) -> Outcome:
        text, _ = child.communicate(timeout=60)
        found = json.loads(text)
        return Outcome(found["ok"], found["refused"], found["errors"], found["first_refused"], found["passed"])

    def connect(
        self, user: tuple[str, int], count: int = 1, rate: float = 0, port: int = 25, to: Sequence[str] = (PEER4,)
    ) -> Outcome:
        return self.outcome(self.begin(user, count, rate, port, to))

    def deliver(self, user: tuple[str, int], count: int, to: str = PEER4) -> Outcome:
        """Run a tenant's program that hands over a mail in each connection."""
        self.wait_for_sink()
        words = ["connect", "--uid", str(user[1]), "--count", str(count), "--deliver", "--list-passed", to]
        return self.outcome(self.lab.start([*CLIENT, *words], inside=True))

    def session(
        self, user: tuple[str, int], seconds: float = 10, to: str = PEER4, port: int = 25
    ) -> subprocess.Popen[str]:
        """Start a tenant's program that keeps one session open; returns when it is open."""
        self.wait_for_sink()
        words = ["session", "--uid", str(user[1]), "--seconds", str(seconds), "--port", str(port), to]
        child = self.lab.start([*CLIENT, *words], inside=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        return child
