"""The Debian package: its contents, and its life in a copy of this system that nothing outlives.

The copy is an overlay of the running system in a mount namespace of its own, so dpkg and the maintainer scripts run for
real, and the machine stays as it is.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import require
from tests.support import documents
from tests.support.fake_daemon import FakeDaemon
from tests.support.host import wait_for
from tests.support.programs import run
from tests.support.terminal import Terminal

PROJECT = Path(__file__).resolve().parent.parent.parent
LIBRARIES = (
    "python3-click",
    "python3-yaml",
    "python3-jsonschema",
    "python3-nftables",
    "python3-jinja2",
    "python3-prometheus-client",
)
CONFFILES = {
    "/etc/smtpguard/smtpguard.yaml",
    "/etc/logrotate.d/smtpguard",
    "/etc/fail2ban/filter.d/smtpguard.conf",
    "/etc/fail2ban/filter.d/smtpguard-connect.conf",
    "/etc/fail2ban/action.d/smtpguard.conf",
    "/etc/fail2ban/jail.d/smtpguard.conf",
}


@pytest.fixture(scope="module")
def package(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("lacks dpkg-deb")
    out = tmp_path_factory.mktemp("deb")
    return Path(run(sys.executable, str(PROJECT / "packaging/deb.py"), str(wheel), str(out)).strip())


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("unpacked")
    run("dpkg-deb", "-x", str(package), str(root))
    run("dpkg-deb", "-e", str(package), str(root / "DEBIAN"))
    return root


def test_same_wheel_same_package(wheel: Path, package: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        again = run(sys.executable, str(PROJECT / "packaging/deb.py"), str(wheel), str(tmp_path)).strip()
    finally:
        os.umask(before)
    assert Path(again).read_bytes() == package.read_bytes()


def test_unpacked_program_runs_with_debians_libraries(unpacked: Path) -> None:
    libraries = require(*LIBRARIES)
    env = libraries.environment()
    env["PYTHONPATH"] = f"{unpacked}/usr/lib/python3/dist-packages:{env['PYTHONPATH']}"
    python = libraries.python("click", "yaml", "jsonschema", "jinja2")
    program = str(unpacked / "usr/bin/smtpguard")
    version = re.search(r"(?m)^Version: (.+)$", (unpacked / "DEBIAN/control").read_text())
    assert version is not None
    assert run(python, program, "--version", env=env).strip() == f"smtpguard, version {version[1]}"
    assert ": ok: dry run;" in run(
        python, program, "check", "--config", str(PROJECT / "config/smtpguard.yaml"), env=env
    )


def test_unpacked_screen_runs_in_a_terminal_with_what_the_package_brings(unpacked: Path, tmp_path: Path) -> None:
    """Debian's own Textual and Rich are too old: the package's are for this command alone, and come first for it."""
    libraries = require(*LIBRARIES)
    env = libraries.environment()
    modules = unpacked / "usr/lib/python3/dist-packages"
    env["PYTHONPATH"] = f"{modules}:{env['PYTHONPATH']}"
    program = [libraries.python("click", "yaml", "jsonschema"), str(unpacked / "usr/bin/smtpguard")]
    with FakeDaemon(tmp_path) as daemon:
        watch = [*program, "watch", "--config", str(PROJECT / "config/smtpguard.yaml"), "--socket", daemon.path]
        with Terminal(tmp_path, watch, env=env) as terminal:
            terminal.wait("DRY RUN: nobody is refused", "0 seen")
            daemon.publish_at(20)
            # Whose row is seen depends on when one looks: they go by.
            wait_for(lambda: any("web" in line and "SMTP-ALT" in line for line in terminal.lines()))
            daemon.publish_at(0)
            terminal.press("2")
            terminal.wait("LAST MINUTE")
            terminal.press("q")
            wait_for(lambda: not terminal.is_open())
    statement = "import smtpguard.cli.status, sys; print([path for path in sys.path if '_screen' in path])"
    assert run(program[0], "-c", statement, env=env).strip() == "[]", "no other command sees them"


def test_what_the_screen_needs_is_what_was_pinned(unpacked: Path) -> None:
    pinned = re.findall(r"(?m)^([a-z-]+)==(\S+) --hash", (PROJECT / "packaging/screen.txt").read_text())
    screen = unpacked / "usr/lib/python3/dist-packages/smtpguard/_screen"
    brought = {path.name.removesuffix(".dist-info").replace("_", "-") for path in screen.glob("*.dist-info")}
    assert brought == {f"{name}-{version}" for name, version in pinned}
    assert not [path for path in screen.rglob("*") if path.suffix in (".so", ".pth")], "pure, and loaded by nobody else"
    for info in screen.glob("*.dist-info"):
        assert re.search(r"(?im)^License|^Classifier: License", (info / "METADATA").read_text()), info.name


def test_brings_no_mail_server_and_no_cron_to_a_bare_system(unpacked: Path) -> None:
    """apt installs what is recommended, too: logrotate recommends cron and mailx, and mailx a mail server."""
    text = (unpacked / "DEBIAN/control").read_text()
    fields = dict(line.split(": ", 1) for line in text.splitlines() if re.match(r"[A-Z][\w-]+: ", line))
    assert "Recommends" not in fields
    assert fields["Suggests"] == "fail2ban, logrotate"
    needed = {re.split(r"[ (]", name)[0] for name in fields["Depends"].split(", ")}
    python = {f"python3-{name}" for name in ("click", "yaml", "jsonschema", "nftables", "jinja2", "prometheus-client")}
    assert needed == {"python3", "nftables", "libbpf1", "init-system-helpers", *python}


def test_documents_are_those_of_the_tree(unpacked: Path) -> None:
    folder = unpacked / "usr/share/doc/smtpguard"
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == {*documents.list_documents(), "copyright", "changelog.gz"}


def test_metadata_wants_what_debian_calls_by_its_name(unpacked: Path) -> None:
    """`pip check` on the host finds all that it asks for."""
    (metadata,) = unpacked.rglob("smtpguard-*.dist-info/METADATA")
    wanted = re.findall(r"(?m)^Requires-Dist: ([\w-]+)(?!.*extra)", metadata.read_text())
    assert {name.lower() for name in wanted} == {"click", "pyyaml", "jsonschema", "jinja2", "prometheus-client"}


def test_every_file_below_etc_is_a_conffile(unpacked: Path) -> None:
    there = {"/" + str(path.relative_to(unpacked)) for path in (unpacked / "etc").rglob("*") if path.is_file()}
    assert set((unpacked / "DEBIAN/conffiles").read_text().split()) == there == CONFFILES


def test_files_belong_to_root_and_nobody_else_may_write_them(package: Path) -> None:
    for line in run("dpkg-deb", "-c", str(package)).splitlines():
        mode, owner = line.split()[:2]
        assert owner == "root/root", line
        assert mode[5] == mode[8] == "-", line


def test_unit_runs_the_program_of_the_package(unpacked: Path) -> None:
    unit = (unpacked / "usr/lib/systemd/system/smtpguard.service").read_text()
    assert "\nExecStart=/usr/bin/smtpguard run --service\n" in unit
    assert os.access(unpacked / "usr/bin/smtpguard", os.X_OK)


def test_checksums_are_those_of_the_files(unpacked: Path) -> None:
    if shutil.which("md5sum") is None:
        pytest.skip("lacks md5sum")
    subprocess.run(["md5sum", "--quiet", "-c", "DEBIAN/md5sums"], cwd=unpacked, timeout=60, check=True)


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_parse(unpacked: Path, script: str) -> None:
    run("sh", "-n", str(unpacked / "DEBIAN" / script))
    assert os.access(unpacked / "DEBIAN" / script, os.X_OK)


@pytest.mark.parametrize("words", [(), ("x.whl", "."), ("smtpguard-1.whl",)])
def test_wrong_words_are_answered_with_the_usage(words: tuple[str, ...]) -> None:
    argv = [sys.executable, str(PROJECT / "packaging/deb.py"), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: ")


LIFE = r"""
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
root=$1/root
mkdir -p "$root/proc" "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
# What a smtpguard that ran on this machine left behind is none of the package's business.
rm -rf "$root/etc/smtpguard" "$root/var/log/smtpguard" "$root/var/lib/smtpguard"
cp "$2" "$root/package.deb"
cp -a "$3/usr" "$root/"
within() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }
files() { within find /etc /usr /var -xdev \( -ipath '*smtpguard*' \) ! -path '*/dpkg/info/*' | sort; }
within dpkg --force-depends -i /package.deb >&2
echo "== version"; within smtpguard --version
echo "== check"; within smtpguard check
echo "== log"; within stat -c '%a %U %F' /var/log/smtpguard /var/log/smtpguard/events.log
echo "== enabled"; within readlink /etc/systemd/system/multi-user.target.wants/smtpguard.service
echo "dry_run: false" > "$root/etc/smtpguard/smtpguard.yaml"
within dpkg --force-depends --force-confold -i /package.deb >&2
echo "== kept"; cat "$root/etc/smtpguard/smtpguard.yaml"
within smtpguard --version >/dev/null
within dpkg -r smtpguard >&2
echo "== removed"; files
within dpkg -P smtpguard >&2
echo "== purged"; files
"""


def test_life_of_the_package(package: Path, tmp_path: Path) -> None:
    """Installed, installed again over an administrator's change, removed, purged: by dpkg, in an overlay."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("lacks root, or unshare")
    if not Path("/var/lib/dpkg/status").exists():
        pytest.skip("lacks dpkg's database")
    if Path("/usr/bin/smtpguard").exists():
        pytest.skip("smtpguard is installed here")
    libraries = require(*LIBRARIES)
    stage = tmp_path / "stage"
    stage.mkdir()
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", LIFE, "life"]
    said = run(*argv, str(stage), str(package), str(libraries.root))
    parts = {name: text.strip() for name, text in re.findall(r"== (\w+)\n((?:(?!== ).*\n)*)", said)}
    assert parts["version"].startswith("smtpguard, version ")
    assert parts["check"].startswith("/etc/smtpguard/smtpguard.yaml: ok: dry run;")
    assert parts["log"].splitlines() == ["750 root directory", "640 root regular empty file"]
    assert parts["enabled"].endswith("/systemd/system/smtpguard.service")
    assert parts["kept"] == "dry_run: false", "an administrator's change survives an upgrade"
    left = set(parts["removed"].splitlines())
    assert {name for name in left if not name.startswith(("/etc/", "/var/"))} == set()
    assert left >= CONFFILES
    assert parts["purged"] == ""
