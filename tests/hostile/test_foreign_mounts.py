"""Attack 13: in a mount namespace of their own a tenant lays files over another's path, and the log names the other."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smtpguard.enrich.looker.collect_evidence import gather
from smtpguard.enrich.looker.inspect_process import look
from smtpguard.enrich.looker.php_fpm import FpmReader
from smtpguard.enrich.looker.protocol import Attribution, Question
from tests.support.host import INNOCENT, SPAMMER, Host, wait_for
from tests.support.processes import read_process
from tests.victims import enter_mount_namespace, forge_cmdline, victim

pytestmark = pytest.mark.kernel

ATTACKER, OTHER = 61801, 61802
MS_BIND, NEW_USER_AND_MOUNTS = 4096, 0x1002_0000
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def homes() -> Iterator[Path]:
    """Two tenants' folders with a script each, as everybody finds them."""
    top = Path(tempfile.mkdtemp(prefix="smtpguard-test-homes-"))
    try:
        top.chmod(0o755)
        for name, uid in (("web01", ATTACKER), ("web02", OTHER)):
            (top / name).mkdir()
            (top / name / "send.py").write_text(f"# of {name}\n")
            for path in (top / name, top / name / "send.py"):
                os.chown(path, uid, uid)
        yield top
    finally:
        shutil.rmtree(top)


def unshare_as_tenant() -> None:
    """What `unshare --user --map-root-user --mount` does, as the tenant."""
    os.setresgid(ATTACKER, ATTACKER, ATTACKER)
    os.setresuid(ATTACKER, ATTACKER, ATTACKER)
    assert _libc.prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE: else /proc/self belongs to root
    assert _libc.unshare(NEW_USER_AND_MOUNTS) == 0
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {ATTACKER} 1")
    Path("/proc/self/gid_map").write_text(f"0 {ATTACKER} 1")


@contextmanager
def tenant(homes: Path, *, lay_over: bool, folder: str = "web02") -> Iterator[int]:
    """A process of the attacker in a mount namespace of its own that claims to run a script."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            unshare_as_tenant()
            if lay_over:
                assert _libc.mount(bytes(homes / "web01"), bytes(homes / "web02"), None, MS_BIND, None) == 0
            os.chdir(homes / folder)
            forge_cmdline(b"python", bytes(homes / folder / "send.py"))
            os.write(writer, b"+")
            time.sleep(60)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"+", "the tenant's process could not be set up"
        yield pid
    finally:
        os.close(reader)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def question(pid: int, uid: int = ATTACKER) -> Question:
    return Question(pid=pid, uids=(uid,), time_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**9)


def ask(pid: int, uid: int = ATTACKER) -> tuple[Attribution, list[Attribution]]:
    early: list[Attribution] = []
    found = look(question(pid, uid), early.append, FpmReader())
    return found, early


def test_the_victims_path_is_marked(homes: Path) -> None:
    path = bytes(homes / "web02" / "send.py")
    with tenant(homes, lay_over=True) as pid:
        found, early = ask(pid)
    assert (found.attr, found.script, found.cwd) == (
        "guess",
        b"foreign-mntns:" + path,
        b"foreign-mntns:" + bytes(homes / "web02"),
    )
    assert found.exe == bytes(Path("/proc/self/exe").readlink()), "the host's own binary is what it is"
    assert early[0].cwd == b"foreign-mntns:" + bytes(homes / "web02"), "also when the rest comes late"


def test_so_is_all_of_the_evidence(homes: Path) -> None:
    told: list[Any] = []
    with tenant(homes, lay_over=True) as pid:
        evidence = gather(replace(question(pid), evidence=True), told.append, FpmReader())
    for one in (*told, evidence):
        paths = [one.found.script, one.found.cwd, one.root, *(file.path for file in (*one.files, *one.newest))]
        named = [path for path in paths if path is not None and bytes(homes) in path]
        assert named
        assert all(path.startswith(b"foreign-mntns:") for path in named), named


def test_who_lays_nothing_over_anything_is_told_as_ever(homes: Path) -> None:
    """Sandboxes that browsers and builds use are such namespaces too."""
    with tenant(homes, lay_over=False, folder="web01") as pid:
        found, _ = ask(pid)
    assert (found.script, found.cwd) == (bytes(homes / "web01" / "send.py"), bytes(homes / "web01"))


def test_a_namespace_that_root_made_is_not_foreign(homes: Path) -> None:
    def prepare() -> int:
        enter_mount_namespace()
        assert _libc.mount(bytes(homes / "web01"), bytes(homes / "web02"), None, MS_BIND, None) == 0
        forge_cmdline(b"python", bytes(homes / "web02" / "send.py"))
        return 0

    with victim(ATTACKER, prepare) as (pid, _):
        assert ask(pid)[0].script == bytes(homes / "web02" / "send.py")


def test_a_root_of_their_own_with_another_file_there_is_marked(homes: Path) -> None:
    inside = homes / "web01" / str(homes / "web02").lstrip("/")
    inside.mkdir(parents=True)
    (inside / "send.py").touch()
    os.chown(inside / "send.py", ATTACKER, ATTACKER)

    def prepare() -> int:
        forge_cmdline(b"python", bytes(homes / "web02" / "send.py"))
        os.chroot(homes / "web01")
        return 0

    with victim(ATTACKER, prepare) as (pid, _):
        assert ask(pid)[0].script == b"own-root:" + bytes(homes / "web02" / "send.py")


def test_a_title_that_names_another_users_file_says_whose_it_is(homes: Path) -> None:
    def prepare() -> int:
        forge_cmdline(b"python", bytes(homes / "web02" / "send.py"))
        return 0

    with victim(ATTACKER, prepare) as (pid, _):
        found, _ = ask(pid)
    assert (found.attr, found.script) == ("guess", b"of-uid-%d:" % OTHER + bytes(homes / "web02" / "send.py"))


def test_a_tenants_own_php_cgi_proves_nothing(homes: Path, tmp_path: Path) -> None:
    """Its environment is what the tenant gave it, and its name is the tenant's choice."""
    tmp_path.chmod(0o755)
    program = homes / "web01" / "php-cgi"
    shutil.copy(Path("/bin/sleep").resolve(), program)
    os.chown(program, ATTACKER, ATTACKER)
    for folder, script in (("web01", b""), ("web02", b"of-uid-%d:" % OTHER)):
        path = homes / folder / "send.py"
        child = subprocess.Popen(
            [program, "60"], user=ATTACKER, env={"GATEWAY_INTERFACE": "CGI/1.1", "SCRIPT_FILENAME": str(path)}
        )
        try:
            # Popen returns before the new program's environment is in its place (execve, close-on-exec).
            wait_for(lambda pid=child.pid: b"SCRIPT_FILENAME" in read_process(pid, "environ"))  # type: ignore[misc]
            found, _ = ask(child.pid)
        finally:
            child.kill()
            child.wait()
        assert (found.attr, found.script) == ("guess", script + bytes(path))


CONNECT = """
import os, socket, sys, time
sys.path[:0] = {path!r}
from tests.hostile.test_foreign_mounts import MS_BIND, NEW_USER_AND_MOUNTS, _libc
from tests.victims import forge_cmdline
os.setresgid({uid}, {uid}, {uid})
os.setresuid({uid}, {uid}, {uid})
_libc.prctl(4, 1, 0, 0, 0)
assert _libc.unshare(NEW_USER_AND_MOUNTS) == 0
assert _libc.mount({own!r}, {other!r}, None, MS_BIND, None) == 0
os.chdir({other!r})
forge_cmdline(b"python", {other!r} + b"/send.py")
sock = socket.create_connection(("192.0.2.2", 25), 5)
sock.recv(100)
print("connected", flush=True)
time.sleep(60)
"""


def test_the_log_does_not_name_the_victim(homes: Path) -> None:
    with Host() as host:
        for name, (_, uid) in (("web01", SPAMMER), ("web02", INNOCENT)):
            for path in (homes / name, homes / name / "send.py"):
                os.chown(path, uid, uid)
        host.start()
        words = CONNECT.format(path=sys.path, uid=SPAMMER[1], own=bytes(homes / "web01"), other=bytes(homes / "web02"))
        child = host.lab.start([sys.executable, "-c", words, "x" * 200], inside=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "connected\n"
        (event,) = wait_for(lambda: host.events("CONNECT"))  # while it is there to be looked at
    assert event["UID"] == str(SPAMMER[1])
    for name in ("SCRIPT", "CWD"):
        assert not event[name].startswith("/"), event
    assert event["CWD"].startswith("foreign-mntns:") or event["ATTR"] == "-", event
