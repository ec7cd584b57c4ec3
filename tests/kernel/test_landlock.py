"""A process that gave up writing writes where it said, and nowhere else; so does all that it starts."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpguard.daemon.outlet.frames import HelperSettings
from smtpguard.kernel import landlock
from smtpguard.kernel.landlock import read_version, restrict_writing
from smtpguard.notify.confinement import Confinement
from smtpguard.notify.spool import Letter, Spool
from smtpguard.notify.text_file import TextFile
from smtpguard.settings.notify import NotifySettings
from tests.fakes.namespaces import run_forked

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def version() -> int:
    if not (found := read_version()):
        pytest.skip("Landlock")
    return found


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(PermissionError):
        call()


def test_files_are_written_made_and_removed_where_it_said_and_nowhere_else(tmp_path: Path, version: int) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for path in (inside, outside):
        path.mkdir()
        (path / "old").write_text("old")

    def body() -> None:
        assert restrict_writing([str(inside)]) == version
        (inside / "old").write_text("new")
        (inside / "fresh").write_text("new")
        (inside / "fresh").rename(inside / "other")
        (inside / "other").unlink()
        Path(os.devnull).write_text("x")
        assert (outside / "old").read_text() == "old"
        refused(lambda: (outside / "old").write_text("new"))
        refused((outside / "fresh").touch)
        refused((outside / "old").unlink)
        refused(lambda: (outside / "link").symlink_to("old"))
        with pytest.raises(OSError, match="cross-device"):
            os.link(outside / "old", inside / "linked")
        script = f"open({str(outside / 'old')!r}, 'w')"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "Permission denied" in done.stderr
        if version >= 6:
            refused(lambda: os.kill(os.getppid(), 0))
        child = subprocess.Popen(["/bin/sleep", "60"])
        child.send_signal(signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL

    run_forked(body)
    assert (outside / "old").read_text() == "old"


def test_the_notifying_process_keeps_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "figures").mkdir()
    figures = str(tmp_path / "figures" / "x.prom")
    settings = HelperSettings(
        state_path=str(tmp_path / "state" / "state.db"),
        control_socket="/s",
        values={"notify": NotifySettings(mail="root"), "metrics_textfile": figures},
    )

    def body() -> None:
        duty = Confinement(lambda: 0)
        duty.configure(settings)
        assert duty.report() == {"text": f"writes in {tmp_path}/state and {tmp_path}/figures only"}
        spool = Spool(str(tmp_path / "state" / "notify-state.db"))
        assert spool.trouble is None
        spool.add([Letter(id="a", channel="x", thread="", kind="test", body="y" * 100_000, made_s=0)])
        spool.remove(1)
        spool.close()
        file = TextFile(figures, begin=b"# ")
        file.write(b"# 1", mode=0o644)
        file.write(b"# 2", mode=0o640, gid=0)
        file.remove()
        refused((tmp_path / "x").touch)

    run_forked(body)


def test_a_kernel_without_it_goes_on_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(landlock, "_CREATE", 100_000)  # no such system call
    assert read_version() == 0
    assert restrict_writing([str(tmp_path)]) == 0
    (tmp_path / "x").touch()
