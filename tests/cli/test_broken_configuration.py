"""A broken configuration: what an administrator needs in an emergency works, what would act on the file refuses."""

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smtpguard.cli import _COMMANDS, main
from smtpguard.control.protocol import parse_request, render_line
from smtpguard.settings.load import load_places, read_defaults

USER = "web01"
NOTHING = {
    "uid": 1, "time": "2026-02-18T13:39:28+01:00", "hour": [0, 0], "day": [0, 0], "destinations": [], "scripts": [],
    "events": [], "incident": None, "evidence": {}, "blind": [],
}  # fmt: skip
"""What the history says of who has done nothing."""
NO_PART = {
    "rows": [], "items": [], "count": 0, "sums": [0, 0, 0, 0], "has_mail": False, "first_ns": None, "unknown": 0,
    "unnamed": [0, 0], "rdns": [], "ports": [], "has_more": False, "overrides": [],
}  # fmt: skip
"""What it says of a host where nothing happened."""
EMERGENCY = {
    "status": ["status", "--json"],
    "blocks": ["blocks"],
    "block": ["block", USER, "--for", "1h"],
    "unblock": ["unblock", USER],
    "allow": ["allow", USER, "--for", "1h"],
    "off": ["off"],
    "on": ["on"],
    "watch": ["watch", "-f", "/dev/null"],
    "why": ["why", USER],
    "events": ["events"],
    "incidents": ["incidents"],
    "report": ["report"],
    "note": ["note", USER, "seen"],
    "nft remove": ["nft", "remove"],
    "nft ensure": ["nft", "ensure"],  # the daemon's business, while there is one
}
"""What only asks the daemon."""
STRICT = {
    "run": ["run"],
    "check": ["check"],
    "reload": ["reload"],
    "replay": ["replay", "/dev/null"],
    "nft show": ["nft", "show"],
    "notify test": ["notify", "test"],
    "setup": ["setup", "--root", "{root}", "--yes"],
}
"""What acts on the configuration."""
OTHERS = {
    "exempt": "reads two sections: see test_exempt.py",
    "doctor": "tells what is wrong: see below",
    "demo": "has a configuration of its own",
}


@dataclass
class Daemon:
    """Answers each request with what every command can show, and keeps what was asked."""

    path: str
    asked: list[str] = field(default_factory=list)

    def answer(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                verb, _ = parse_request(connection.makefile("rb").readline())
                self.asked += [verb] if self.asked[-1:] != [verb] else []  # a report asks part by part
                known: dict[str, Any] = {"live": None, "past": NOTHING, "name": USER}
                told = {"ok": True, "text": "done", "items": [], "status": {"ready": True}, **known, **NO_PART}
                connection.sendall(render_line(told))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(str(tmp_path / "c.sock"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(made.path)
        listener.listen()
        thread = threading.Thread(target=made.answer, args=[listener])
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def break_file(kind: str, path: Path) -> None:
    """Make a configuration that is broken in this way."""
    texts = {
        "a key that nobody knows": "dry_rnu: true\n",
        "a key in a section": "log: {pth: /x}\n",
        "a key in a rule": "rules: [{nme: x, count: connections, limit: 1, window: 1m}]\n",
        "a wrong value": "dry_run: perhaps\n",
        "a wrong socket": "control: {socket: run/c.sock}\n",
        "a bracket that is not closed": "ports: [25\ndry_run: true\n",
        "a list": "- dry_run\n",
    }
    if kind in texts:
        path.write_text(texts[kind])
    elif kind == "no text":
        path.write_bytes(b"\x7fELF\0\xff\xfe" * 100)
    elif kind == "no file":
        path.mkdir()
    elif kind == "written by others":
        path.write_text("dry_run: true\n")
        path.chmod(0o666)
    elif kind == "of somebody else, or unreadable":
        path.write_text("dry_run: true\n")
        if os.geteuid() == 0:
            os.chown(path, 61001, 61001)
        else:
            path.chmod(0)
    else:
        assert kind == "missing"


KINDS = (
    "a key that nobody knows", "a key in a section", "a key in a rule", "a wrong value", "a wrong socket",
    "a bracket that is not closed", "a list", "no text", "no file", "written by others",
    "of somebody else, or unreadable", "missing",
)  # fmt: skip


@pytest.fixture(params=KINDS)
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "g.yaml"
    break_file(request.param, path)
    return str(path)


def call(words: list[str], path: str) -> Result:
    head = 2 if words[0] in ("nft", "notify") else 1
    return CliRunner().invoke(main, [*words[:head], "--config", path, *words[head:]])


def test_every_command_is_in_the_table() -> None:
    tabled = {words[0] for words in (*EMERGENCY.values(), *STRICT.values())} | OTHERS.keys()
    assert tabled == set(_COMMANDS)


def default_socket(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Let the shipped default be this one."""
    defaults: dict[str, Any] = read_defaults()
    defaults["control"]["socket"] = path
    monkeypatch.setattr("smtpguard.settings.load.read_defaults", lambda: defaults)


@pytest.mark.parametrize("name", EMERGENCY)
def test_what_only_asks_works_and_names_the_file(
    name: str, broken: str, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    default_socket(monkeypatch, daemon.path)
    result = call(EMERGENCY[name], broken)
    assert (result.exit_code, daemon.asked) == (0, [name.split(maxsplit=1)[0]]), result.output
    assert broken in result.stderr
    assert f"smtpguard: the configuration is broken: the daemon is asked at {daemon.path}" in result.stderr


@pytest.mark.parametrize("name", EMERGENCY)
@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_socket_that_is_named_needs_no_file(
    name: str, by: str, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = EMERGENCY[name]
    if by == "option":
        monkeypatch.setenv("SMTPGUARD_SOCKET", str(tmp_path / "nobody"))  # the option wins
        words = [*words, "--socket", daemon.path]
    else:
        monkeypatch.setenv("SMTPGUARD_SOCKET", daemon.path)
    result = call(words, str(tmp_path / "missing.yaml"))
    assert (result.exit_code, result.stderr, daemon.asked) == (0, "", [name.split(maxsplit=1)[0]])


@pytest.mark.parametrize("name", EMERGENCY)
def test_a_typing_error_elsewhere_leaves_the_files_own_socket(name: str, daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(f"dry_rnu: true\ncontrol: {{socket: {daemon.path}}}\n")
    result = call(EMERGENCY[name], str(path))
    assert (result.exit_code, daemon.asked) == (0, [name.split(maxsplit=1)[0]])
    assert f"{path}:1: unknown key 'dry_rnu'; did you mean 'dry_run'?" in result.stderr


@pytest.mark.parametrize("name", EMERGENCY)
def test_a_right_file_says_nothing(name: str, daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(f"sources: [bpf]\ncap: null\ncontrol: {{socket: {daemon.path}}}\n")
    result = call(EMERGENCY[name], str(path))
    assert (result.exit_code, result.stderr, daemon.asked) == (0, "", [name.split(maxsplit=1)[0]])


@pytest.mark.parametrize("name", STRICT)
def test_what_acts_on_the_file_refuses(
    name: str, broken: str, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root").mkdir()
    words = [word.format(root=tmp_path / "root") for word in STRICT[name]]
    monkeypatch.setenv("SMTPGUARD_SOCKET", daemon.path)
    result = call(words, broken)
    assert (result.exit_code, daemon.asked) == (78, []), result.output
    assert broken in result.stderr


@pytest.mark.parametrize("verb", ["ensure", "remove"])
def test_nft_without_a_daemon_changes_nothing_by_a_broken_file(verb: str, broken: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["nft", verb, "--config", broken, "--socket", str(tmp_path / "nobody")])
    assert result.exit_code == 78


def test_doctor_tells(broken: str) -> None:
    result = call(["doctor"], broken)
    assert result.exit_code in (0, 1, 4)
    assert Path(broken).name in result.stdout


def test_places_that_are_right_are_used_beside_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(
        "dry_rnu: 1\nstate: {path: /x/state.db, keep: fortnight}\nnft: {table: other}\ncontrol: {verbs: 1}\n"
    )
    settings, problem = load_places(str(path), ["state", "nft", "control"])
    assert (settings.nft_table, settings.state_path) == ("other", "/var/lib/smtpguard/state.db")
    assert "state.keep" in str(problem)
    assert "dry_rnu" in str(problem)


@pytest.mark.parametrize("table", ["a b", "x; flush ruleset", "", "é"])
def test_a_name_that_nft_would_read_otherwise_is_not_used(table: str, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(f"nft: {{table: '{table}'}}\n", "utf-8")
    settings, problem = load_places(str(path), ["nft"])
    assert settings.nft_table == "smtpguard"
    assert "nft.table" in str(problem)
