"""A real fail2ban for tests: unpacked, in the foreground, on its own socket, database, log and configuration.

Its configuration is the stock one as Debian ships it, with every stock jail switched off, and the project's filters,
jails and action copied where an administrator would put them.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.servers import UnavailableError, Unpacked, require
from tests.support.host import wait_for

PROJECT = Path(__file__).resolve().parent.parent.parent
START_S = 20.0
"""How long a server may take to answer: it imports a lot, and machines in CI are slow."""


@dataclass(slots=True, kw_only=True)
class Fail2ban:
    """One instance with everything it writes below `home`.

    Attributes:
        home: Folder of its own.
        unpacked: Where the program is.
        python: The interpreter it runs in.
        log: The event log that its jails watch.
        path_first: A folder put first on the PATH of its actions.
        settings: More environment for its actions.
        enter: Makes of an argv one that runs elsewhere, in a laboratory.
    """

    home: Path
    unpacked: Unpacked
    python: str
    log: Path
    path_first: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)
    enter: Callable[[list[str]], list[str]] = lambda argv: argv
    _process: subprocess.Popen[bytes] | None = None

    @property
    def conf(self) -> Path:
        """Its configuration folder, as /etc/fail2ban."""
        return self.home / "etc"

    @property
    def socket(self) -> Path:
        """Its control socket."""
        return self.home / "sock"

    def environment(self) -> dict[str, str]:
        """What the program and its actions are given."""
        env = self.unpacked.environment() | self.settings
        if self.path_first is not None:
            env["PATH"] = f"{self.path_first}:{env['PATH']}"
        return env

    def prepare(self) -> None:
        """Lay out the configuration."""
        shutil.copytree(self.unpacked.path("etc/fail2ban"), self.conf)
        for shipped in (self.conf / "jail.d").iterdir():
            shipped.unlink()
        for kind, target in (("filters", "filter.d"), ("jails", "jail.d"), ("jails/action.d", "action.d")):
            for file in (PROJECT / kind).glob("*.conf"):
                shutil.copy(file, self.conf / target)
        (self.conf / "fail2ban.local").write_text(
            f"[Definition]\nloglevel = INFO\nlogtarget = {self.home}/fail2ban.log\nsocket = {self.socket}\n"
            f"pidfile = {self.home}/pid\ndbfile = {self.home}/db.sqlite3\n"
        )
        for file in (self.conf / "jail.d").iterdir():
            file.write_text(file.read_text().replace("/var/log/smtpguard/events.log", str(self.log)))

    def configure(self, jails: dict[str, dict[str, str]]) -> None:
        """Override jail settings, as an administrator does: in a file that is read later."""
        text = "".join(
            f"[{jail}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
            for jail, values in jails.items()
        )
        number = len(list((self.conf / "jail.d").iterdir()))
        (self.conf / "jail.d" / f"zz-local-{number}.conf").write_text(text)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        argv = [self.python, str(self.unpacked.path("usr/bin/fail2ban-server")), *self._where(), "-f", "start"]
        with (self.home / "stdout").open("ab") as out:
            self._process = subprocess.Popen(self.enter(argv), env=self.environment(), stdout=out, stderr=out)
        wait_for(self._answers, START_S)

    def _answers(self) -> bool:
        process = self._process
        if process is not None and process.poll() is not None:
            said = (self.home / "stdout").read_text() + self.journal()
            pytest.fail(f"fail2ban-server ended with {process.returncode}:\n{said[-3000:]}")
        if not self.socket.exists():
            return False
        # It answers before it has its jails, which it takes all at once.
        done = self.client("status", check=False)
        return done.returncode == 0 and re.search(r"Jail list:\s*\S", done.stdout) is not None

    def stop(self) -> None:
        """Stop the server as its unit does, and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            self.client("stop", check=False)
        try:
            process.wait(timeout=START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=START_S)

    def run(self, program: str, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of fail2ban's programs."""
        argv = [self.python, str(self.unpacked.path(f"usr/bin/{program}")), *args]
        done = subprocess.run(
            self.enter(argv), env=self.environment(), capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            pytest.fail(f"{program} {' '.join(args)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def client(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run fail2ban-client against this instance."""
        return self.run("fail2ban-client", *self._where(), *args, check=check)

    def _where(self) -> list[str]:
        return ["-c", str(self.conf), "-s", str(self.socket), "-p", str(self.home / "pid")]

    def banned(self, jail: str = "smtpguard") -> list[str]:
        """Names that `fail2ban-client status JAIL` lists, sorted."""
        shown = self.client("status", jail).stdout
        found = re.search(r"Banned IP list:\s*(.*)", shown)
        assert found is not None, shown
        return sorted(found.group(1).split())

    def wait_banned(self, *names: str, jail: str = "smtpguard") -> None:
        """Wait until exactly these are banned."""
        wait_for(lambda: self.banned(jail) == sorted(names), START_S)

    def journal(self) -> str:
        """The server's own log."""
        file = self.home / "fail2ban.log"
        return file.read_text() if file.exists() else ""

    def append(self, *lines: str) -> None:
        """Write event log lines as the daemon does: one write() a line, to a file opened for appending."""
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            for line in lines:
                os.write(handle, line.encode("ascii") + b"\n")
        finally:
            os.close(handle)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def write_client(self, folder: Path) -> None:
        """Put a `fail2ban-client` for this instance on a path, as an administrator has it."""
        argv = [self.python, str(self.unpacked.path("usr/bin/fail2ban-client")), *self._where()]
        env = shlex.join(f"{name}={self.environment()[name]}" for name in ("PYTHONPATH", "PYTHONPYCACHEPREFIX"))
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "fail2ban-client"
        program.write_text(f'#!/bin/sh\nexec env {env} {shlex.join(argv)} "$@"\n')
        program.chmod(0o755)


@cache
def _find_python() -> str:
    """Asked once: it imports all that a server does."""
    return require("fail2ban").python("fail2ban.server.server", "fail2ban.client.fail2bancmdline")


def fail2ban_below(home: Path) -> Fail2ban:
    """An instance laid out below a folder, not started; skips when no fail2ban can be had or run here."""
    unpacked = require("fail2ban")
    try:
        python = _find_python()
    except UnavailableError as error:
        pytest.skip(f"lacks fail2ban: {error}")
    home.mkdir(parents=True, exist_ok=True)
    log = home / "events.log"
    log.touch(mode=0o640)
    instance = Fail2ban(home=home, unpacked=unpacked, python=python, log=log)
    instance.prepare()
    return instance


def recording_stub(folder: Path, name: str = "smtpguard") -> Callable[[], list[Sequence[str]]]:
    """Put a program on a path that records the argv it is called with and succeeds; `exempt` knows nobody.

    Returns:
        A function that gives the calls so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{name}.calls"
    program = folder / name
    # Each argument ends in a unit separator, each call in a line break; one write a call.
    program.write_text(
        "#!/bin/sh\n"
        f"""{{ printf '%s\\037' "$@"; echo; }} | dd of='{record}' bs=65536 oflag=append conv=notrunc """
        "iflag=fullblock 2>/dev/null\n"
        '[ "$1" != exempt ]\n'
    )
    program.chmod(0o755)

    def calls() -> list[Sequence[str]]:
        if not record.exists():
            return []
        return [tuple(call.split("\x1f")[:-1]) for call in record.read_text().split("\n") if call]

    return calls
