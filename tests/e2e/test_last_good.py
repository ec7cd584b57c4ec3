"""A slip of the pen unguards nobody: the unit's own command line, the real daemon, and a file that is wrong."""

import shlex
import signal
from pathlib import Path

import pytest

from smtpguard.control.client import ask
from smtpguard.errors import GuardError
from smtpguard.resources import shipped
from tests.support.host import INNOCENT, OTHER, SMTPGUARD, SPAMMER, Host, wait_for
from tests.support.past import count_blocks

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "30m"}
WRONG = "THE CONFIGURATION FILE IS WRONG"
BROKEN = {"unknown key": "dryrun: true\n", "no yaml": "users: [\n"}


def unit_command() -> list[str]:
    """ExecStart of the unit, with this smtpguard in place of the installed one."""
    unit = (shipped("config") / "smtpguard.service").read_text("utf-8")
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    program, *words = shlex.split(line.removeprefix("ExecStart="))
    assert program == "/usr/bin/smtpguard"
    return [*SMTPGUARD, *words]


def start_as_service(host: Host) -> None:
    """Start it, and wait until it answers and has found its sources: ready it is not while the file is wrong."""
    host.start(ready=False, command=unit_command())

    def look() -> bool:
        assert host.daemon is not None
        assert host.daemon.poll() is None, host.stderr()
        try:
            status = ask(f"{host.lab.directory}/control.sock", "status")["status"]
        except GuardError:
            return False
        return any(source["state"] == "leads" for source in status["sources"])

    wait_for(look, 30)


def first_line(host: Host) -> tuple[int, str]:
    shown = host.cli("status", "--socket", f"{host.lab.directory}/control.sock")
    return shown.returncode, shown.stdout.splitlines()[0]


# tests/unit/test_last_good.py has every kind of a wrong file.
@pytest.mark.parametrize("kind", ["unknown key", pytest.param("no yaml", marks=pytest.mark.long)])
def test_the_last_good_configuration_goes_on(kind: str) -> None:
    with Host(rules=[RULE]) as host:
        host.expect_errors(WRONG, "not reloaded")
        start_as_service(host)
        wait_for(lambda: first_line(host)[0] == 0)
        assert host.connect(SPAMMER, 8).ok == 5
        # nftables hears of a verdict 20 ms after the log; a kill before that leaves the block to the next start.
        wait_for(lambda: str(SPAMMER[1]) in host.nft("list", "set", "inet", "smtpguard", "blocked"))
        wait_for(lambda: count_blocks(host.lab.directory / "state.db") == 1)  # the configuration was before it
        host.stop(signal.SIGKILL)
        good = Path(host.config).read_text("utf-8")
        Path(host.config).write_text(good + BROKEN[kind], "utf-8")
        by_hand = host.lab.run([*SMTPGUARD, "run", "--config", host.config])
        assert by_hand.returncode == 78
        start_as_service(host)
        code, line = first_line(host)
        assert code == 3
        assert line.startswith(f"!! {WRONG}: the last good one is in force, of ")
        assert f"{host.config}:" in line
        assert host.connect(SPAMMER).refused == 1, "who was blocked is"
        assert host.connect(INNOCENT, 8).ok == 5, "the rules of before hold, enforced"
        assert any(f"ERROR {WRONG}" in row and f"{host.config}:" in row for row in host.stderr().splitlines())
        reload = host.cli("reload", "--socket", f"{host.lab.directory}/control.sock")
        assert reload.returncode != 0
        assert first_line(host)[0] == 3, "a file that is still wrong changes nothing"
        host.stop(signal.SIGKILL)
        start_as_service(host)
        assert first_line(host)[0] == 3, "the last good one is no worse for it"
        Path(host.config).write_text(good.replace("limit: 5", "limit: 3"), "utf-8")
        assert host.cli("reload").returncode == 0
        code, line = first_line(host)
        assert code == 0
        assert WRONG not in line
        assert host.connect(OTHER, 8).ok == 3, "what the mended file says is in force"
        assert host.connect(SPAMMER).refused == 1


def test_where_the_state_can_not_be_read_either_it_watches() -> None:
    with Host(rules=[RULE]) as host:
        host.expect_errors(WRONG)
        state = host.lab.directory / "state.db"
        state.write_bytes(b"no database at all" * 1000)
        state.chmod(0o600)
        with Path(host.config).open("a") as file:
            file.write("dryrun: true\n")
        start_as_service(host)
        code, line = first_line(host)
        assert code == 3
        assert "THE SHIPPED DEFAULTS are in force and nobody is refused" in line
        assert host.connect(SPAMMER, 20).ok == 20
        wait_for(lambda: len(host.events("CONNECT")) == 20)
        host.configure()
        assert host.cli("reload").returncode == 0
        assert first_line(host)[0] == 0
        assert host.connect(INNOCENT, 8).ok == 5
