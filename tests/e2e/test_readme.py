"""Each command line of the README is run here; a new one without a test fails."""

import re
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.host import SMTPGUARD, SPAMMER, Host

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = sorted(
    {
        line.strip().removeprefix("# ")
        for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
        if line.strip().startswith("# ")
    }
)
AUDIT_LOG = """\
type=SYSCALL msg=audit(1771418368.123:7): arch=c000003e syscall=42 success=no exit=-115 a0=5 a1=7ffd0000 a2=10 a3=0 \
items=0 ppid=1 pid=4242 auid=4294967295 uid=61101 gid=61101 euid=61101 suid=61101 fsuid=61101 egid=61101 sgid=61101 \
fsgid=61101 tty=(none) ses=4294967295 comm="php-fpm" exe="/usr/sbin/php-fpm8.2" key="smtp"
type=SOCKADDR msg=audit(1771418368.123:7): saddr=02000019CB0071090000000000000000
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(rules=[{"name": "burst", "count": "connections", "limit": 30, "window": "10m", "block": "30m"}]) as made:
        made.start()
        yield made


def run(host: Host, command: str) -> subprocess.CompletedProcess[str]:
    """A command as an administrator would type it, with the laboratory's configuration and log."""
    words = re.findall(
        r'"[^"]*"|\S+', command.replace("/var/log/audit/audit.log", str(host.lab.directory / "audit.log"))
    )
    words = [word.strip('"') for word in words]
    environment = ["env", f"SMTPGUARD_CONFIG={host.config}"]
    assert words[0] == "smtpguard"
    return host.lab.run([*environment, *SMTPGUARD, *words[1:]])


def succeeds(host: Host, command: str) -> None:
    done = run(host, command)
    assert done.returncode == 0, done.stderr


def explains(host: Host, command: str) -> None:
    done = run(host, command)
    assert done.returncode == 0, done.stderr
    assert "web01" in done.stdout.splitlines()[0] + done.stdout.splitlines()[1]


def writes_to_the_customer(host: Host, command: str) -> None:
    done = run(host, command)
    assert done.returncode == 0, done.stderr
    assert "web01" in done.stdout
    assert "uid" not in done.stdout


def notes(host: Host, command: str) -> None:
    succeeds(host, command)
    for shown in ("smtpguard why web01", "smtpguard events --user web01 --since 1h"):
        assert "called, mends the shop today" in run(host, shown).stdout


def reports(host: Host, command: str) -> None:
    succeeds(host, command)
    assert "WHAT THIS REPORT CAN'T SEE" in run(host, command).stdout


def make_target(_host: Host, command: str) -> None:
    """The target exists and does what it says; running `make test` within itself would not end."""
    target = command.removeprefix("make ")
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = {"run": "smtpguard run --dry-run", "test": "pytest"}[target]
    assert expected in done.stdout


def runs_dry(host: Host, _command: str) -> None:
    with Host() as other:
        other.start("--dry-run")
        assert "dry run" in other.cli("status").stdout
        assert other.connect(SPAMMER, 50).refused == 0
        assert other.stop() == 0
    assert host.cli("status").returncode == 0


def watches(host: Host, _command: str) -> None:
    child = host.lab.start([*SMTPGUARD, "watch", "--config", host.config])
    assert child.stdout is not None
    for _ in range(20):
        host.connect(SPAMMER)
        if select.select([child.stdout], [], [], 0.3)[0]:
            break
    assert "EVENT=CONNECT" in child.stdout.readline()
    child.terminate()


def replays(host: Host, command: str) -> None:
    (host.lab.directory / "audit.log").write_text(AUDIT_LOG)
    done = run(host, command)
    assert done.returncode == 0, done.stderr
    assert "web01" in done.stdout


def not_exempt_or_exempt(host: Host, command: str) -> None:
    assert run(host, command).returncode == 0
    assert run(host, "smtpguard exempt -- web01").returncode == 1


def doctor(host: Host, command: str) -> None:
    done = run(host, command)
    assert done.returncode in (0, 1)
    assert "bpf" in done.stdout


def setup(host: Host, _command: str) -> None:
    root = host.lab.directory / "root"
    root.mkdir()
    done = host.lab.run([*SMTPGUARD, "setup", "--root", str(root), "--yes"])
    assert done.returncode == 0, done.stderr
    assert (root / "etc/fail2ban/filter.d/smtpguard.conf").exists()


def demo(_host: Host, _command: str) -> None:
    done = subprocess.run([*SMTPGUARD, "demo"], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    shape = [re.sub(r"[\d:.T+-]+|EXE=\S+|PROC=\S+|ATTR=\S+|CWD=\S+|\s+", "", line) for line in done.stdout.splitlines()]
    printed = README[README.index("```\nA web host with two sites") + 4 :]
    printed = printed[: printed.index("\n```")]
    told = [re.sub(r"[\d:.T+-]+|EXE=\S+|PROC=\S+|ATTR=\S+|CWD=\S+|\s+", "", line) for line in printed.splitlines()]
    assert shape == told, "the README shows the demonstration as it is printed"


def fail2ban_status(_host: Host, command: str) -> None:
    """Run against a real fail2ban, with real bans, in test_fail2ban_pass.py; a jail of that name is what it needs."""
    jail = command.rsplit(maxsplit=1)[-1]
    assert f"[{jail}]" in (ROOT / "jails/smtpguard.conf").read_text()


TESTS: dict[str, Callable[[Host, str], None]] = {
    "make run": make_target,
    "make test": make_target,
    "make demo": demo,
    "smtpguard check": succeeds,
    "smtpguard doctor": doctor,
    "smtpguard run --dry-run": runs_dry,
    "smtpguard status": succeeds,
    "smtpguard blocks": succeeds,
    "smtpguard watch": watches,
    "smtpguard replay /var/log/audit/audit.log": replays,
    "smtpguard unblock web01": succeeds,
    "smtpguard unblock --all": succeeds,
    'smtpguard block web01 --for 2h --reason "phishing kit, ticket 4711"': succeeds,
    "smtpguard allow web01 --for 24h --limit 500/1h": succeeds,
    "smtpguard allow web01 --end": succeeds,
    "smtpguard why web01": explains,
    "smtpguard why web01 --customer": writes_to_the_customer,
    "smtpguard events --user web01 --since yesterday": succeeds,
    "smtpguard incidents --open": succeeds,
    "smtpguard report --since 24h": reports,
    'smtpguard note web01 "called, mends the shop today"': notes,
    "smtpguard off": succeeds,
    "smtpguard on": succeeds,
    "smtpguard reload": succeeds,
    "smtpguard exempt -- postfix": not_exempt_or_exempt,
    "smtpguard nft show": succeeds,
    "smtpguard setup": setup,
    "fail2ban-client status smtpguard": fail2ban_status,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line_of_the_readme(host: Host, command: str) -> None:
    assert command in TESTS, "a command in the README that nothing tests"
    TESTS[command](host, command)


def test_nothing_is_tested_that_the_readme_does_not_say() -> None:
    assert sorted(TESTS) == COMMANDS
