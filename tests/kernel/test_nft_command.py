"""`smtpguard nft` without a guard, in a namespace; what a running guard makes of it is an end-to-end test."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from tests.support.netlab import run

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    import os

    name = f"sgx-{os.urandom(3).hex()}"
    run("ip", "netns", "add", name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    try:
        yield name
    finally:
        run("ip", "netns", "delete", name)


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "smtpguard.yaml"
    values = {
        "version": 1,
        "dry_run": False,
        "cap": {"rate": "60/minute", "burst": 30},
        "exempt": {"uids": ["4000-4009"], "destinations": ["192.0.2.0/24"]},
        "control": {"socket": str(tmp_path / "nobody.sock")},
        "nft": {"table": "guard_of_test"},
    }
    path.write_text(json.dumps(values))
    return str(path)


def smtpguard(netns: str, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = ["nsenter", f"--net=/run/netns/{netns}", *prefix, sys.executable, "-m", "smtpguard", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def ruleset(netns: str) -> str:
    command = ["nsenter", f"--net=/run/netns/{netns}", "nft", "list", "ruleset"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def test_ensure_show_remove(netns: str, config: str) -> None:
    before = ruleset(netns)
    done = smtpguard(netns, "nft", "show", "--config", config)
    assert done.returncode == 0
    assert done.stderr == "table inet guard_of_test is not there; this would be loaded:\n"
    assert "add element inet guard_of_test exempt4 {" in done.stdout
    assert ruleset(netns) == before, "showing changes nothing"

    for _ in range(2):
        done = smtpguard(netns, "nft", "ensure", "--config", config)
        assert (done.returncode, done.stdout, done.stderr) == (
            0,
            "table inet guard_of_test is in place (no guard is running)\n",
            "",
        )
    loaded = ruleset(netns)
    assert "192.0.2.0/24" in loaded
    assert "4000-4009" in loaded
    assert "limit rate over 60/minute burst 30 packets" in loaded
    done = smtpguard(netns, "nft", "--config", config, "show")
    assert (done.returncode, done.stderr) == (0, "")
    assert _timeless(done.stdout) == _timeless(loaded)

    for _ in range(2):
        done = smtpguard(netns, "nft", "remove", "--config", config)
        assert (done.returncode, done.stdout) == (0, "table inet guard_of_test is removed (no guard is running)\n")
    assert ruleset(netns) == before


def test_remove_takes_a_killed_guards_watch_table_too_and_nothing_else(netns: str, config: str) -> None:
    command = ["nsenter", f"--net=/run/netns/{netns}", "nft", "-f", "-"]
    for table in ("guard_of_test_watch", "guard_of_test_other", "smtpguard"):
        subprocess.run(command, input=f"table inet {table} {{ }}", text=True, check=True, timeout=20)
    smtpguard(netns, "nft", "remove", "--config", config)
    assert [line.split()[2] for line in ruleset(netns).splitlines() if line.startswith("table")] == [
        "guard_of_test_other",
        "smtpguard",
    ]


@pytest.mark.parametrize("verb", ["show", "ensure", "remove"])
def test_without_the_capability_it_says_so_and_exits_4(netns: str, config: str, verb: str) -> None:
    prefix = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    done = smtpguard(netns, "nft", verb, "--config", config, prefix=prefix)
    assert (done.returncode, done.stdout) == (4, "")
    assert "CAP_NET_ADMIN" in done.stderr
    assert done.stderr.count("\n") == 1


def test_show_would_reads_no_kernel(config: str) -> None:
    result = CliRunner().invoke(main, ["nft", "show", "--would", "--config", config])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "table inet guard_of_test {" in result.stdout


def test_bad_configuration_exits_78(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("nft: {nothing: x}")
    for verb in ("show", "ensure", "remove"):
        assert CliRunner().invoke(main, ["nft", verb, "--config", str(path)]).exit_code == 78


def _timeless(text: str) -> str:
    """A listing without what is left of the guard's last word to the cap."""
    return re.sub(r"expires \w+", "expires", text)
