"""`smtpguard watch`: every connection as a line, with and without a daemon; and the demonstration."""

import json
import re
import select
import subprocess
import time
from collections.abc import Iterator

import pytest

from smtpguard.demo.lab import PEER4
from smtpguard.demo.story import tell
from tests.support.host import INNOCENT, SMTPGUARD, SPAMMER, Host

pytestmark = pytest.mark.kernel


@pytest.fixture(params=["daemon", "alone"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(dry_run=True, attribution={"rdns": False}) as made:
        if request.param == "daemon":
            made.start()
        yield made


def watch(host: Host, *words: str) -> subprocess.Popen[str]:
    return host.lab.start([*SMTPGUARD, "watch", "--config", host.config, *words], inside=False)


def first_line(host: Host, child: subprocess.Popen[str]) -> str:
    """Attached within 2 s (three times that here): connections are made until one is seen."""
    assert child.stdout is not None
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        host.connect(SPAMMER, 1)
        if select.select([child.stdout], [], [], 0.2)[0]:
            return child.stdout.readline()
    raise AssertionError("nothing was shown within 6 s")


def test_guard_format_on_stdout(host: Host) -> None:
    line = first_line(host, watch(host, "-l"))
    assert re.match(r"\S+ USER=web01 UID=61101 EVENT=CONNECT PID=\d+ PORT=25 DST=192\.0\.2\.2 SENSOR=bpf ", line)


def test_classic_format(host: Host) -> None:
    line = first_line(host, watch(host, "--format", "classic"))
    assert re.fullmatch(
        r"\[[-\d]{10} [:\d]{8}\] USER=web01 {28} PID=\d+ +PROC=python\S* +PORT=25    DST=192\.0\.2\.2 +CWD=[/-]\n", line
    )


def test_json_format(host: Host) -> None:
    item = json.loads(first_line(host, watch(host, "--format", "json")))
    assert (item["user"], item["port"], item["dst"], item["result"]) == ("web01", 25, PEER4, "allowed")


def test_to_a_file_and_it_ends_on_sigterm(host: Host) -> None:
    path = host.lab.directory / "lines"
    child = watch(host, "-f", str(path))
    deadline = time.monotonic() + 6
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        host.connect(INNOCENT, 1)
    child.terminate()
    child.wait(20)
    lines = path.read_text("ascii").splitlines()
    assert lines
    assert all("USER=web02" in line for line in lines)


def test_it_ends_quietly_when_its_reader_goes(host: Host) -> None:
    stderr = host.lab.directory / "watch.err"
    with stderr.open("w") as sink:
        child = host.lab.start([*SMTPGUARD, "watch", "--config", host.config], stderr=sink)
    first_line(host, child)
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    deadline = time.monotonic() + 6
    while child.poll() is None and time.monotonic() < deadline:
        host.connect(SPAMMER, 1)
    assert child.poll() is not None, "still running"
    said = [line for line in stderr.read_text().splitlines() if " INFO " not in line]
    assert said == []


def test_it_ends_with_its_reader_where_nobody_connects(host: Host) -> None:
    stderr = host.lab.directory / "watch.err"
    with stderr.open("w") as sink:
        child = host.lab.start([*SMTPGUARD, "watch", "--config", host.config], stderr=sink)
    first_line(host, child)
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    child.wait(6)
    assert [line for line in stderr.read_text().splitlines() if " INFO " not in line] == []


def test_the_demonstration_plays(capsys: pytest.CaptureFixture[str]) -> None:
    del capsys
    story = "\n".join(tell())
    assert "Nothing of this is left on the host." in story
    assert re.search(r"shop17 +30 mails went out", story), "the limit is exact"
    assert re.search(r"shop17 .* 170 connections refused", story)
    assert re.search(r"shop17 +61017 +block .* guard +170 ", story), "the one over the limit is one of them"
