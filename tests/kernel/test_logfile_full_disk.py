"""The event log on a file system that really fills up."""

from pathlib import Path

import pytest

from smtpguard.actions.logfile import LogFile
from tests.fakes.clock import FakeClock
from tests.fakes.namespaces import enter_tmpfs, fill, run_forked

pytestmark = pytest.mark.kernel


def test_a_full_disk_loses_no_line_and_breaks_none(tmp_path: Path) -> None:
    def body() -> None:
        enter_tmpfs(tmp_path, "256k")
        clock = FakeClock()
        log = LogFile(str(tmp_path / "events.log"), monotonic=clock.monotonic_ns)
        log.open()
        log.write(b"before")
        ballast = fill(tmp_path)
        long_lines = [b"%d-" % n + b"x" * 1500 for n in range(20)]
        for line in long_lines:
            log.write(line)
            clock.advance(1.5)
        assert log.failed > 0
        assert log.short > 0
        assert log.waiting > 0
        ballast.unlink()
        clock.advance(1.5)
        assert log.write(b"after")
        assert (tmp_path / "events.log").read_bytes().split(b"\n") == [b"before", *long_lines, b"after", b""]
        assert log.error is None
        assert log.dropped == 0

    run_forked(body)
