"""Answers of another kind, as a daemon of before an update gives them, or a newer one: told clearly, no traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smtpguard import __version__
from smtpguard.cli import main
from smtpguard.cli.status_check import UNKNOWN
from smtpguard.errors import NoDaemonError

COMMANDS: dict[str, list[str]] = {
    "status": ["status"], "status -v": ["status", "-v"], "blocks": ["blocks"], "block": ["block", "web01"],
    "allow": ["allow", "web01", "--for", "1h"], "off": ["off"], "on": ["on"], "watch": ["watch", "-f", "/dev/null"],
    "why": ["why", "root"], "why --at": ["why", "root", "--at", "1h"], "why --ticket": ["why", "root", "--ticket"],
    "events": ["events"], "events --csv": ["events", "--csv"], "events --src": ["events", "--src", "198.51.100.1"],
    "incidents": ["incidents"], "incidents --csv": ["incidents", "--csv"], "close": ["incidents", "close", "ab"],
    "unwatch": ["incidents", "unwatch", "web01"], "report": ["report"], "report html": ["report", "--format", "html"],
    "note": ["note", "web01", "words"], "unblock": ["unblock", "web01"], "reload": ["reload"],
    "nft": ["nft", "ensure"],
}  # fmt: skip
ROW = {"time": "2026-02-18T13:39:28+01:00", "time_ns": 1, "last_ns": 1, "user": "web01", "uid": 1001, "kind": "block"}
ODD: list[dict[str, Any]] = [
    {},
    {"items": 5, "text": 5, "status": 5, "live": 5, "past": 5, "name": 5, "rows": 5, "overrides": 5},
    {"items": [5], "text": None, "status": {}, "live": {}, "past": {}, "name": [], "rows": [5], "overrides": [[5]]},
    {"items": [{}], "text": [], "status": {"troubles": 5}, "live": None, "past": {"events": 5}, "name": "x",
     "rows": [[1]], "overrides": [[{}]], "count": "x", "sums": [1]},
    {"items": [ROW], "text": {}, "status": {"troubles": [], "mode": "new", "version": "9"}, "rows": [["x"] * 9],
     "overrides": [], "source": {"users": [{}]}, "watched": [{}], "off": {}, "more": True},
]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SMTPGUARD_SOCKET", raising=False)
    path = tmp_path / "g.yaml"
    places = {"state": {"path": str(tmp_path / "s.db")}, "control": {"socket": str(tmp_path / "s.sock")}}
    path.write_text(json.dumps({"version": 1, **places}), "utf-8")
    return path


def answer(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], version: str | None = None) -> None:
    def ask(_path: str, verb: str, timeout_s: float = 5, **_: object) -> dict[str, Any]:
        if verb == "status" and timeout_s == 1:  # which smtpguard it is
            if version is None:
                raise NoDaemonError("nobody")
            return {"status": {"version": version}}
        return json.loads(json.dumps(found))  # type: ignore[no-any-return]

    monkeypatch.setattr("smtpguard.control.client.ask", ask)
    monkeypatch.setattr("smtpguard.control.client.subscribe", lambda *_, **__: iter([found]))


def run(config: Path, words: list[str]) -> Result:
    return CliRunner().invoke(main, [words[0], "--config", str(config), *words[1:]])


@pytest.mark.parametrize("found", ODD)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_answer_ends_in_a_traceback(
    config: Path, monkeypatch: pytest.MonkeyPatch, command: str, found: dict[str, Any]
) -> None:
    answer(monkeypatch, found)
    result = run(config, COMMANDS[command])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    if result.exit_code:
        assert result.stderr.startswith("smtpguard: "), result.stderr


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (
            "0.0.1",
            f"the guard is smtpguard 0.0.1, this command {__version__}, and can't read its answer: KeyError: 'items'",
        ),
        (__version__, "the guard's answer is not what this command reads: KeyError: 'items' (blocks.py:"),
        (None, "if smtpguard was updated: systemctl restart smtpguard; else report this"),
    ],
)
def test_who_answers_otherwise_is_named_with_what_to_do(
    config: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, told: str
) -> None:
    answer(monkeypatch, {}, version)
    result = run(config, ["blocks"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"smtpguard: {config.with_name('s.sock')}: ")
    assert told in result.stderr
    assert "systemctl restart smtpguard" in result.stderr


def test_an_attempt_of_the_stream_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, {"uid": 5}, "0.0.1")
    result = run(config, COMMANDS["watch"])
    assert result.exit_code == 1
    assert "the guard is smtpguard 0.0.1, this command" in result.stderr
    assert "not an item of the live stream: 'account' (watch_item.py:" in result.stderr


@pytest.mark.parametrize("found", ODD)
def test_a_monitor_hears_that_it_is_not_known(
    config: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]
) -> None:
    """A traceback ends with 1: a warning."""
    answer(monkeypatch, found)
    result = run(config, ["status", "--check"])
    assert result.exit_code == UNKNOWN
    assert result.stdout.startswith("SMTPGUARD UNKNOWN - ")
    assert result.stdout.count("\n") == 1


def test_a_mistake_of_a_command_s_own_is_none_of_the_daemon_s(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def err(_: str | None) -> None:
        raise KeyError("mine")

    monkeypatch.setattr("smtpguard.settings.load.load_settings", err)
    assert isinstance(run(config, ["check"]).exception, KeyError)
