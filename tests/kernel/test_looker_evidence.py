"""Evidence from real processes: a PHP site, a detached process, and a tree that hangs whoever walks it."""

import hashlib
import os
import select
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.enrich.looker import Evidence, Looker, render_evidence
from smtpguard.enrich.looker.client import EVIDENCE
from smtpguard.model import NS, Connect
from tests.fastcgi import finish
from tests.php import listening, running_fpm
from tests.victims import forge_cmdline, hang_below, random_uid, victim

pytestmark = pytest.mark.kernel


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sg-evidence-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def looker() -> Iterator[Looker]:
    looker = Looker()
    looker.start()
    yield looker
    looker.close()


def gather(looker: Looker, uid: int, pid: int) -> Evidence:
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    event = Connect(time_ns=now, uid=uid, pid=pid, port=25, address=b"\x01\x02\x03\x04", sensor="bpf")
    ticket = looker.gather(event, time.monotonic_ns())
    end = time.monotonic() + 3 * EVIDENCE.deadline_ns / NS
    while True:
        assert time.monotonic() < end
        select.select(looker.filenos(), [], [], 0.02)
        looker.tick(time.monotonic_ns())
        looker.read(time.monotonic_ns())
        for found, evidence in looker.read_evidence():
            assert found == ticket
            return evidence


def test_a_site(looker: Looker, folder: Path) -> None:
    uid = random_uid()
    with running_fpm(folder, uid) as fpm, listening() as server:
        os.chown(fpm.www, uid, uid)
        connect = f'$s = stream_socket_client("tcp://127.0.0.1:{server.getsockname()[1]}"); fgets($s);'
        mailer = fpm.write("public_html/lib/mailer.php", f"function send() {{ {connect} }}")
        index = fpm.write("public_html/index.php", f'include "{mailer}"; send(); echo "done";')
        for path in (mailer, index, mailer.parent, index.parent):
            os.chown(path, uid, uid)
        time.sleep(0.03)  # times of files move once a tick, which may be 10 ms
        dropped = fpm.write("public_html/lib/dropped.php", "")
        os.chown(dropped, uid, uid)
        os.utime(dropped, (0, 0))
        request = fpm.request(index, REQUEST_URI="/contact?x=1")
        peer, _ = server.accept()
        (pid,) = fpm.workers()
        evidence = gather(looker, uid, pid)
        peer.sendall(b"221\r\n")
        peer.close()
        assert b"done" in finish(request)
    assert evidence.origin == "web"
    assert evidence.found.script == bytes(mailer) + b":2"
    assert evidence.titles[0].startswith(b"php-fpm: master process")
    named = {file.path: file for file in evidence.files}
    assert named[bytes(mailer)].owner == uid
    assert named[bytes(mailer)].sha256 == hashlib.sha256(f"<?php\nfunction send() {{ {connect} }}".encode()).hexdigest()
    assert bytes(index) in named
    assert evidence.root == bytes(fpm.www) or evidence.root == bytes(index.parent)
    assert evidence.newest[0].path == bytes(dropped), "by ctime: touch -d hides nothing"
    assert {file.path for file in evidence.newest} >= {bytes(mailer), bytes(index)}
    assert evidence.complete
    rendered = render_evidence(evidence)
    assert rendered["request"] == r"GET\x20shop.example/contact"


def test_a_process_whose_parents_are_gone(looker: Looker, folder: Path) -> None:
    uid = random_uid()
    (folder / "x.py").write_text("pass")
    os.chown(folder, uid, uid)

    def prepare() -> int:
        os.chdir(folder)
        forge_cmdline(b"python", b"x.py")
        return 0

    with victim(uid, prepare) as (pid, _):
        evidence = gather(looker, uid, pid)
    assert evidence.found.script == bytes(folder / "x.py")
    assert evidence.root == bytes(folder)
    assert [file.path for file in evidence.files if file.path.endswith(b".py")] == [bytes(folder / "x.py")]
    assert evidence.newest == (), "a file of root's in a tenant's folder is not the tenant's"
    assert evidence.cgroup is None or evidence.cgroup.startswith(b"/")


def test_a_tree_that_hangs_takes_nothing_away_of_what_was_found_before(looker: Looker, folder: Path) -> None:
    uid = 61008
    os.chown(folder, uid, uid)
    with victim(uid, lambda: hang_below(folder)) as (pid, _):
        began = time.monotonic()
        evidence = gather(looker, uid, pid)
        assert EVIDENCE.deadline_ns / NS <= time.monotonic() - began < 3 * EVIDENCE.deadline_ns / NS
        stats = looker.stats()
    assert (stats.evidence_late, stats.hanging) == (1, 1)
    assert (evidence.found.cwd, evidence.found.attr) == (bytes(folder), "live")
    assert evidence.titles
    assert (evidence.root, evidence.complete) == (None, False)
