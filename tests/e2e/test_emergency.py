"""Emergency commands with the real daemon, when somebody has just broken the configuration; and without a daemon."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import OTHER, SMTPGUARD, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

TYPING_ERROR = "dry_rnu: false\n"
NO_YAML = "ports: [25\n\x00"


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as made:
        made.start()
        yield made


def ask(host: Host, *words: str) -> str:
    """A command without --config that is told of the daemon by its environment; what it says on stderr."""
    places = [f"SMTPGUARD_CONFIG={host.config}", f"SMTPGUARD_SOCKET={host.lab.directory}/control.sock"]
    done = host.lab.run(["env", *places, *SMTPGUARD, *words])
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stderr


@pytest.mark.parametrize("spoil", [TYPING_ERROR, NO_YAML], ids=["typing error", "no YAML"])
def test_all_of_them_work_on_a_running_guard(host: Host, spoil: str) -> None:
    path = Path(host.config)
    path.write_text(path.read_text() + spoil)
    assert host.cli("check").returncode == 78
    assert host.cli("reload").returncode == 78
    user = SPAMMER[0]
    ask(host, "status")
    ask(host, "block", user, "--for", "10m")
    assert host.connect(SPAMMER).refused == 1
    ask(host, "blocks")
    ask(host, "unblock", user)
    assert host.connect(SPAMMER).ok == 1
    ask(host, "block", user, "--for", "10m")
    ask(host, "off")
    assert host.connect(SPAMMER).ok == 1
    ask(host, "on")
    assert host.connect(SPAMMER).refused == 1
    ask(host, "allow", user, "--for", "1h")
    assert host.connect(SPAMMER).ok == 1


def test_the_file_is_named_where_it_is_looked_at(host: Host) -> None:
    path = Path(host.config)
    path.write_text(path.read_text() + TYPING_ERROR)
    for words in (("status",), ("blocks",), ("block", SPAMMER[0]), ("unblock", SPAMMER[0])):
        done = host.cli(*words)
        assert done.returncode == 0, done.stderr
        assert "unknown key 'dry_rnu'; did you mean 'dry_run'?\nsmtpguard: the configuration is broken" in done.stderr


def test_watch_without_a_daemon_shows_by_the_shipped_defaults(host: Host) -> None:
    host.stop(signal.SIGKILL)
    Path(host.config).write_text(NO_YAML)
    out = host.lab.directory / "lines"
    host.lab.start([*SMTPGUARD, "watch", "--config", host.config, "--source", "nflog", "-f", str(out)])

    def is_shown() -> bool:
        host.connect(SPAMMER)
        return out.exists() and f"UID={SPAMMER[1]}" in out.read_text()

    wait_for(is_shown, 15)


def test_unblock_without_a_daemon_frees_in_kernel_and_state(host: Host) -> None:
    assert host.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
    host.stop(signal.SIGKILL)
    assert host.connect(SPAMMER).ok == 0, "nft goes on without the daemon"
    path = Path(host.config)
    good = path.read_text()
    path.write_text(good + TYPING_ERROR)
    done = host.cli("unblock", SPAMMER[0])
    assert done.returncode == 0, done.stderr
    assert "unknown key 'dry_rnu'" in done.stderr
    assert SPAMMER[0] in done.stdout
    assert host.connect(SPAMMER).ok == 1
    told = host.cli("unblock", SPAMMER[0]).stdout
    assert told.startswith(f"{SPAMMER[0]} is not blocked by smtpguard (no daemon is running). ")
    path.write_text(good)
    host.start()
    assert host.connect(SPAMMER).ok == 1, "the state file has no block left"
    assert SPAMMER[0] not in host.cli("blocks").stdout


def test_unblock_means_the_same_with_and_without_a_daemon(host: Host) -> None:
    """The words of both are compared: one implementation says them."""
    said = []
    for daemon in (True, False):
        jail = ["--source", "fail2ban:mx", "--uid", str(SPAMMER[1])]
        assert host.cli("block", *jail, "--at", str(time.time()), "--for", "600", "--", SPAMMER[0]).returncode == 0
        assert host.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
        assert host.cli("block", OTHER[0], "--for", "10m").returncode == 0
        if not daemon:
            host.stop(signal.SIGKILL)
        words = [["unblock", *jail, "--", SPAMMER[0]]] * 2
        words += [["unblock", "no-such-user"], ["unblock", *jail, "--", "somebody"]]
        answers = [host.cli(*line) for line in words]
        assert host.connect(SPAMMER).ok == 0, "the administrator's block is not the jail's"
        answers += [host.cli("unblock", "--all"), host.cli("unblock", "--all")]
        assert (host.connect(SPAMMER).ok, host.connect(OTHER).ok) == (1, 1)
        said.append([(done.returncode, re.split(r" ?[.:(]", done.stdout)[0], done.stderr) for done in answers])
        assert [done.returncode for done in answers] == [0, 0, 1, 1, 0, 0]
        assert answers[0].stdout == f"{SPAMMER[0]}: the block of fail2ban:mx ended\n"
        assert answers[1].stdout == f"{SPAMMER[0]}: no block of fail2ban:mx\n"
        assert answers[4].stdout.startswith(f"{SPAMMER[0]}, {OTHER[0]} may send again. ")
    assert said[0] == said[1]
