"""The watch over a test's daemons sees each way in which one can go wrong."""

import signal
import subprocess
import sys

import pytest

from tests.support.daemon_watch import DaemonWatch, fail_with

ENDLESS = "import signal; print('up', flush=True); signal.pause()"
CLEAN = (
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True)\n"
    "while True: time.sleep(0.02)"  # pause() may begin just behind the signal
)


def start(watch: DaemonWatch, program: str) -> subprocess.Popen[str]:
    daemon = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    watch.add(daemon)
    assert daemon.stdout is not None
    with daemon.stdout:
        daemon.stdout.readline()
    return daemon


def test_one_that_ends_at_sigterm_is_well() -> None:
    watch = DaemonWatch()
    start(watch, CLEAN)
    assert watch.end_all() == []


def test_one_that_ended_unasked_is_found() -> None:
    watch = DaemonWatch()
    start(watch, "raise SystemExit(0)").wait()
    assert watch.end_all() == ["daemon 1 of the test ended unasked: 0"]


def test_one_that_was_killed_by_the_test_is_no_finding_and_another_that_died_is() -> None:
    watch = DaemonWatch()
    killed = start(watch, ENDLESS)
    watch.may_end(killed, signal.SIGKILL)
    killed.kill()
    start(watch, "raise SystemExit(3)").wait()
    assert watch.end_all() == ["daemon 2 of the test ended unasked: 3"]


def test_one_that_was_told_to_end_but_died_of_something_else_is_found() -> None:
    watch = DaemonWatch()
    daemon = start(watch, "import sys; sys.exit(1)")
    watch.may_end(daemon, signal.SIGTERM)
    daemon.wait()
    assert watch.end_all() == ["daemon 1 of the test exited with 1, not 0"]


def test_one_that_does_not_end_cleanly_is_found() -> None:
    watch = DaemonWatch()
    start(watch, ENDLESS)
    assert watch.end_all() == ["daemon 1 of the test exited with -15, not 0"]


def test_one_that_may_end_in_any_way_is_no_finding() -> None:
    watch = DaemonWatch()
    watch.may_end(start(watch, "raise SystemExit(78)"))
    assert watch.end_all() == []


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "Exception in thread names-of-destinations:",
        "Exception ignored in: <function f at 0x7f>",
        "/x/y.py:3: ResourceWarning: unclosed file",
        "2026-11-28 21:30:55,695 ERROR source bpf has died: gone",
    ],
)
def test_words_that_fail_a_test(line: str) -> None:
    assert len(DaemonWatch().judge_words(f"2026-11-28 21:30:55,695 INFO source bpf leads\n{line}\n")) == 1


def test_an_expected_error_is_none_and_excuses_no_other() -> None:
    watch = DaemonWatch()
    watch.expect_errors(["^source bpf has died"])
    said = "2026-11-28 21:30:55,695 ERROR source bpf has died: gone\n2026-11-28 21:30:55,700 ERROR nft: lost\n"
    (found,) = watch.judge_words(said)
    assert "nft: lost" in found
    with pytest.raises(pytest.fail.Exception, match="nft: lost"):
        fail_with([found], said)
    fail_with([], said)


def test_the_trace_of_an_expected_error_is_expected_and_no_other() -> None:
    watch = DaemonWatch()
    watch.expect_errors(["the part journal"])
    trace = "Traceback (most recent call last):\n  File x\nRuntimeError: broken\n"
    said = f"2026-11-28 21:30:55,695 ERROR the part journal has failed\n{trace}2026-11-28 21:30:55,700 INFO fine\n"
    assert watch.judge_words(said) == []
    assert len(watch.judge_words(said + trace)) == 1
    assert len(watch.judge_words(said.replace("journal", "engine"))) == 2


def test_what_a_tenant_says_in_a_line_is_not_the_daemons_error() -> None:
    said = "2026-11-28 21:30:55,695 WARNING web01 said 2026-11-28 21:30:55,695 ERROR oh Traceback (most recent\n"
    assert DaemonWatch().judge_words(said) == []
