"""Attack 1: root types a command in a tenant's directory, in which modules with our and Python's names are planted."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.cli import main
from smtpguard.interpreter import safe_path
from tests.support.host import Host

PROGRAM = str(Path(sys.executable).with_name("smtpguard"))
PLANTED = (
    *("smtpguard/__init__", "smtpguard/daemon/__init__", "smtpguard/daemon/__main__", "smtpguard/cli/__init__"),
    *("pickle", "click/__init__", "yaml/__init__", "jsonschema/__init__", "json/__init__", "logging/__init__"),
    *("sqlite3/__init__", "ctypes/__init__", "subprocess", "signal", "nftables", "sitecustomize", "usercustomize"),
)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A directory of a tenant's, full of modules each of which leaves a mark where it was run from."""
    home = tmp_path / "home"
    for module in PLANTED:
        path = home / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(tmp_path / 'mark')!r}, 'a').write({module!r} + '\\n')\n")
    yield home
    mark = tmp_path / "mark"
    assert not mark.exists(), f"code of the directory ran as root: {mark.read_text().split()}"


def test_no_command_imports_from_the_directory(trap: Path) -> None:
    for name in main.commands:
        done = subprocess.run(
            [PROGRAM, name, "--help"], cwd=trap, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


def test_checking_and_replaying_there(trap: Path) -> None:
    (trap / "g.yaml").write_text("version: 1\n")
    (trap / "g.yaml").chmod(0o600)
    (trap / "audit.log").write_text("")
    for words in (["check", "--config", "g.yaml"], ["replay", "audit.log"], ["doctor"], ["exempt", "--", "root"]):
        subprocess.run([PROGRAM, *words], cwd=trap, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.kernel
def test_run_and_reload_there(trap: Path) -> None:
    """With a relative path, too: the daemon leaves the directory and finds its file again."""
    with Host() as host:
        relative = os.path.relpath(host.config, trap)
        shell = f'cd "{trap}" && exec "{PROGRAM}" run --config "{relative}"'
        with (host.lab.directory / "stderr").open("a") as stderr:
            host.daemon = host.lab.start(["sh", "-c", shell], stderr=stderr)
        host.wait_ready()
        assert Path(f"/proc/{host.daemon.pid}/cwd").readlink() == Path("/")
        host.configure(log={"path": f"{host.lab.directory}/events.log"}, dry_run=True)
        done = host.cli("reload")
        assert done.returncode == 0, done.stderr
        assert host.stop() == 0


@pytest.mark.kernel
def test_the_demo_there(trap: Path) -> None:
    child = subprocess.Popen([PROGRAM, "demo"], cwd=trap, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    text, _ = child.communicate(timeout=120)
    assert child.returncode == 0, text


def test_what_is_handed_on_of_the_search_path(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    handed = safe_path(["", ".", "lib", str(tmp_path), str(link), "/usr/lib/python3"], str(tmp_path))
    assert handed[0] == str(Path(__file__).resolve().parents[2])
    assert handed[1:] == ["/usr/lib/python3"]


def test_modules_are_started_in_one_way_only() -> None:
    """`"-m"` stands in interpreter.py alone."""
    package = Path(__file__).resolve().parents[2] / "smtpguard"
    places = [str(path.name) for path in package.rglob("*.py") if '"-m"' in path.read_text("utf-8")]
    assert places == ["interpreter.py"]
