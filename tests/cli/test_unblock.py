"""smtpguard unblock: by whoever can do it in that moment."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result

from smtpguard.cli import main
from smtpguard.errors import BusyError, NoDaemonError


class Host:
    """What daemon and lock say, one answer after the other; the last one for good."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.ask, self.alone = Mock(), Mock()
        self._path = tmp_path / "g.yaml"
        self._path.write_text("users: nonsense")
        seconds = itertools.count()
        monkeypatch.setattr("smtpguard.control.client.ask", self.ask)
        monkeypatch.setattr("smtpguard.standalone.unblock.unblock", self.alone)
        monkeypatch.setattr("smtpguard.cli.unblock.time", Mock(monotonic=lambda: next(seconds)))
        monkeypatch.delenv("SMTPGUARD_SOCKET", raising=False)

    def answers(self, *asked: object, alone: object) -> None:
        told = (item if isinstance(item, Exception) else {"text": item} for item in asked)
        self.ask.side_effect = _then_the_last(told)
        self.alone.side_effect = _then_the_last(iter([alone]))

    def unblock(self) -> Result:
        return CliRunner().invoke(main, ["unblock", "web01", "--config", str(self._path)])


def _then_the_last(answers: Iterator[object]) -> Iterator[object]:
    for answer in answers:
        yield answer
    yield from itertools.repeat(answer)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    return Host(monkeypatch, tmp_path)


NOBODY = NoDaemonError("no daemon answers", where="/run/x.sock", fix="start it")
BUSY = BusyError("another smtpguard (pid 7) guards table smtpguard", where="/run/lock", fix="stop it")


def test_a_guard_that_is_just_starting_is_waited_for(host: Host) -> None:
    """It has its lock, and no socket yet: neither answered, and the user stayed blocked."""
    host.answers(NOBODY, NOBODY, "web01 may send again.", alone=BUSY)
    result = host.unblock()
    assert (result.exit_code, result.stdout) == (0, "web01 may send again.\n")
    assert host.ask.call_count == 3
    assert result.stderr.count("the configuration is broken: table inet smtpguard") == 1


def test_one_that_ends_again_is_done_without(host: Host) -> None:
    host.answers(NOBODY, alone=BUSY)
    host.alone.side_effect = [BUSY, "web01 may send again."]
    assert host.unblock().stdout == "web01 may send again.\n"


def test_one_that_never_answers_is_named_in_the_end(host: Host) -> None:
    host.answers(NOBODY, alone=BUSY)
    result = host.unblock()
    assert result.exit_code == 3
    assert "/run/x.sock: no daemon answers, though a guard runs: another smtpguard (pid 7) guards" in result.stderr
    assert "--socket names where another one answers" in result.stderr
    assert "stop it" not in result.stderr
