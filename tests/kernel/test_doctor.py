"""doctor against the real kernel: it changes nothing, and finds what the test put there."""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel


@pytest.fixture
def netns() -> Iterator[list[str]]:
    """A network namespace of our own, as a prefix of commands."""
    name = f"sg-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=30)
    try:
        yield ["nsenter", f"--net=/run/netns/{name}"]
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True, timeout=30)


REDIRECT = """table ip nat {
    chain smtp { tcp dport { 25, 587 } meta skuid != 0 redirect to :25; }
    chain OUTPUT { type nat hook output priority -100; jump smtp; }
}
"""


def read_modules() -> list[str]:
    """Names of the loaded modules; a kernel without any has no such file."""
    path = Path("/proc/modules")
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def diagnose(prefix: list[str], config: Path) -> dict[str, dict[str, str]]:
    argv = [*prefix, sys.executable, "-m", "smtpguard", "doctor", "--json", "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def read_ruleset(prefix: list[str]) -> str:
    return subprocess.run(
        [*prefix, "nft", "list", "ruleset"], capture_output=True, text=True, timeout=30, check=True
    ).stdout


def test_finds_a_redirect_and_changes_nothing(netns: list[str], tmp_path: Path) -> None:
    config = tmp_path / "g.yaml"
    config.write_text(f"log: {{path: {tmp_path}/log/e.log}}\nstate: {{path: {tmp_path}/state/s.db}}\n")
    assert diagnose(netns, config)["redirects"]["level"] == "ok"
    subprocess.run([*netns, "nft", "-f", "-"], input=REDIRECT, text=True, timeout=30, check=True)
    before = read_ruleset(netns), read_modules()
    found = diagnose(netns, config)
    assert found["redirects"]["found"] == "ports 25 587 are redirected by a nat rule"
    assert (read_ruleset(netns), read_modules()) == before
    assert list(tmp_path.iterdir()) == [config]


def test_bpf_loads_here(netns: list[str], tmp_path: Path) -> None:
    config = tmp_path / "g.yaml"
    config.write_text("")
    found = diagnose(netns, config)
    assert found["bpf"]["level"] in ("ok", "note"), found["bpf"]
    assert found["bpf"]["found"].startswith("loads; attaches to /")
    assert found["sources"]["found"] == "bpf"
    config.write_text(f"cgroup: {tmp_path}")
    found = diagnose(netns, config)
    assert found["bpf"]["level"] == "bad"
    assert "not a cgroup v2 directory" in found["bpf"]["found"]
