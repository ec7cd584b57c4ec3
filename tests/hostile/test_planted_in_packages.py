"""Attack: links where the packages' scripts make and remove folders, so that others' files are changed or removed.

The scripts run as they are, as root, over a /var of the test's own; what they call of the service manager is left out.
"""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "packaging/debian"
TMPFILES = ROOT / "config/smtpguard.tmpfiles"
CALLED = ("deb-systemd-helper", "deb-systemd-invoke", "systemctl", "py3compile", "py3clean", "smtpguard")
# A /var of their own, in which whatever is wanted is planted, and then the script.
RUN = 'mount -t tmpfs none /var && mkdir -p /var/log /var/lib && cd "$1" && sh -ec "$2" && shift 2 && "$@"'

pytestmark = pytest.mark.kernel


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir(0o755)
    for name in ("state.db", "events.log", "index.php"):
        (folder / name).write_text("theirs")
        os.chown(folder / name, 61102, 61102)
    os.chown(folder, 61102, 61102)
    return folder


def run(tmp_path: Path, planted: str, *words: str) -> subprocess.CompletedProcess[str]:
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    for name in CALLED:
        (programs / name).write_text("#!/bin/sh\nexit 0\n")
        (programs / name).chmod(0o755)
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", RUN, "sh", str(tmp_path), planted, *words],
        env={"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def look(victim: Path) -> list[tuple[str, int, int, int]]:
    found = [victim, *sorted(victim.iterdir())]
    return [(path.name, path.stat().st_mode, path.stat().st_uid, path.stat().st_size) for path in found]


PLANTED = [
    "ln -s $PWD/victim /var/lib/smtpguard; ln -s $PWD/victim /var/log/smtpguard",
    "for folder in log lib; do mkdir /var/$folder/smtpguard; ln -s $PWD/victim /var/$folder/smtpguard/sub; done",
]


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("script", [("prerm", "remove"), ("postrm", "remove"), ("postrm", "purge")])
def test_what_removes_follows_no_link(tmp_path: Path, victim: Path, planted: str, script: tuple[str, str]) -> None:
    before = look(victim)
    done = run(tmp_path, planted, "sh", str(SCRIPTS / script[0]), script[1])
    assert done.returncode == 0, done.stderr
    assert look(victim) == before


@pytest.mark.parametrize(
    "planted",
    [
        "ln -s $PWD/victim /var/log/smtpguard; chown -h 61103:61103 /var/log/smtpguard",
        "mkdir /var/log/smtpguard; ln -s $PWD/victim/index.php /var/log/smtpguard/events.log",
        "mkdir /var/log/smtpguard; ln -s $PWD/victim/new /var/log/smtpguard/events.log",
        "mkdir /var/log/smtpguard; mkfifo /var/log/smtpguard/events.log",
    ],
)
def test_what_makes_the_folder_of_the_log_follows_none(tmp_path: Path, victim: Path, planted: str) -> None:
    """As postinst and the rpm's %post do."""
    before = look(victim)
    run(tmp_path, planted, "systemd-tmpfiles", "--create", str(TMPFILES))
    assert look(victim) == before


def test_it_does_make_it(tmp_path: Path) -> None:
    shown = "systemd-tmpfiles --create $0 && stat -c '%a %u %g' /var/log/smtpguard /var/log/smtpguard/events.log"
    done = run(tmp_path, "true", "sh", "-ec", shown, str(TMPFILES))
    assert done.stdout == "750 0 0\n640 0 0\n", done.stderr
