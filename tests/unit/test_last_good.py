"""Never down over a file: keys that left, the last good configuration in the state, places of a file that is wrong."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from smtpguard.daemon.startup import configuration
from smtpguard.daemon.startup.configuration import load_for_service
from smtpguard.errors import ConfigError, StateError
from smtpguard.settings import Settings, load
from smtpguard.settings.load import load_settings, load_text, read_shipped
from smtpguard.settings.removed import KEPT_MINORS, REMOVED, Removed, drop_removed, is_accepted
from smtpguard.settings.salvage import salvage_places
from smtpguard.state.last_good import FACT, KeptConfiguration, LastGood, parse_kept, read_kept, render_kept
from smtpguard.state.open_file import open_state
from smtpguard.state.rows import FactRow
from tests.support.zone import local_zone

_zone = local_zone("UTC")

GOOD = "dry_run: false\nrules: [{name: one, count: connections, limit: 5, window: 1m}]\n"
KEPT = KeptConfiguration(text=GOOD, path="/etc/x.yaml", version="0.1.0", wall_ns=1_770_000_000 * 10**9)
LEFT = {
    "speed": Removed(left=(0, 1), use="take it out"),
    "log.colour": Removed(left=(0, 1), use="use log.path"),
    "rules[].colour": Removed(left=(0, 1), use="take it out"),
    "users[].rules.*.colour": Removed(left=(0, 1), use="take it out"),
}


# Keys that left


@pytest.mark.parametrize(
    ("left", "version", "accepted"),
    [
        ((0, 2), "0.2.0", True),
        ((0, 2), "0.3.7", True),
        ((0, 2), "0.4.0", False),
        ((0, 2), "0.1.9", False),
        ((0, 9), "1.0.0", True),
        ((0, 9), "1.1.0", False),
        ((0, 9), "2.0.0", False),
        ((1, 0), "0.9.0", False),
    ],
)
def test_a_key_that_left_is_accepted_for_two_minor_versions(
    left: tuple[int, int], version: str, accepted: bool
) -> None:
    assert is_accepted(Removed(left=left, use="x"), version) is accepted


def test_entries_that_accept_nothing_any_more_are_taken_out() -> None:
    assert all(is_accepted(entry, "0.1.0") for entry in REMOVED.values())
    assert KEPT_MINORS == 2


def test_keys_that_left_are_dropped_wherever_they_stand() -> None:
    given = {
        "speed": 3,
        "log": {"colour": "red", "path": "/x"},
        "rules": [{"name": "a"}, {"name": "b", "colour": 1}, 7],
        "users": [{"rules": {"a": {"colour": 1, "limit": 2}}}],
    }
    found, warnings = drop_removed(given, "0.2.0", LEFT)
    assert found == {
        "log": {"path": "/x"},
        "rules": [{"name": "a"}, {"name": "b"}, 7],
        "users": [{"rules": {"a": {"limit": 2}}}],
    }
    assert given["speed"] == 3, "what was given is not changed"
    assert {warning.path for warning in warnings} == {
        ("speed",),
        ("log", "colour"),
        ("rules", 1, "colour"),
        ("users", 0, "rules", "a", "colour"),
    }
    assert drop_removed(given, "0.3.0", LEFT) == (given, ())
    oddities: list[object] = [None, [], "text", {"log": None, "rules": None, "users": 1}]
    for odd in oddities:
        assert drop_removed(odd, "0.2.0", LEFT) == (odd, ())


def test_a_file_with_a_key_that_left_loads_and_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("speed: 3\n" + GOOD)
    with pytest.raises(ConfigError, match="unknown key 'speed'"):
        load_settings(str(path))
    monkeypatch.setattr(load, "drop_removed", lambda given, version: drop_removed(given, version, LEFT))
    settings = load_settings(str(path))
    (warning,) = settings.warnings
    assert warning.startswith(f"{path}:1: the key 'speed' is not heeded since version 0.1: take it out")
    assert [rule.name for rule in settings.rules] == ["one"]
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert result.exit_code == 0
    assert f"warning: {warning}" in result.stdout


# What the state keeps


def keep(path: Path, value: bytes) -> None:
    with closing(open_state(str(path), wall_ns=1, max_bytes=10_000_000).connection) as connection:
        connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (FACT, value))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "state.db"
    keep(path, render_kept(KEPT).encode())
    return path


def test_what_was_kept_comes_back(state: Path) -> None:
    assert read_kept(str(state)) == KEPT
    assert parse_kept(render_kept(KEPT)) == KEPT


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"text": 3, "path": null, "version": "1", "wall_ns": 1}',
        b'{"text": null, "path": null, "version": "1", "wall_ns": true}',
        b'{"text": null, "path": null, "version": null, "wall_ns": 1}',
        b"[" * 100_000,
        b'{"text": "' + b"x" * 3_000_000 + b'", "path": null, "version": "1", "wall_ns": 1}',
    ],
    ids=range(9),
)
def test_nothing_else_does(state: Path, value: bytes) -> None:
    keep(state, value)
    with pytest.raises(StateError):
        read_kept(str(state))


def test_a_state_that_others_could_have_written_is_not_believed(state: Path) -> None:
    state.chmod(0o666)
    with pytest.raises(StateError, match="others could have written"):
        read_kept(str(state))
    state.chmod(0o600)
    state.parent.chmod(0o777)
    with pytest.raises(StateError, match="everybody may write"):
        read_kept(str(state))
    state.parent.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(state, 12345, 0)
        with pytest.raises(StateError, match="others could have written"):
            read_kept(str(state))


def test_a_state_that_can_not_be_read(tmp_path: Path, state: Path) -> None:
    for path in (tmp_path / "none" / "state.db", tmp_path / "none.db"):
        with pytest.raises(StateError):
            read_kept(str(path))
    with closing(sqlite3.connect(state)) as connection:
        connection.execute("DROP TABLE facts")
    with pytest.raises(StateError, match="no such table"):
        read_kept(str(state))
    state.write_bytes(b"no database at all" * 100)
    with pytest.raises(StateError):
        read_kept(str(state))
    state.unlink()
    state.symlink_to("/etc/passwd")
    with pytest.raises(StateError, match="others could have written"):
        read_kept(str(state))


class Facts:
    def __init__(self) -> None:
        self.puts: list[tuple[str, str]] = []

    def put(self, row: FactRow) -> None:
        self.puts.append((row.name, row.value))


def test_only_what_is_new_is_written() -> None:
    facts = Facts()
    kept = LastGood({}, facts)
    kept.keep(load_text(GOOD, "/x"), 5)
    kept.keep(load_text(GOOD, "/x"), 6)
    assert len(facts.puts) == 1
    LastGood(dict(facts.puts), facts).keep(load_text(GOOD, "/x"), 7)
    assert len(facts.puts) == 1
    kept.keep(Settings(), 8)
    assert parse_kept(facts.puts[-1][1]) == KeptConfiguration(text=None, path=None, version="0.1.0", wall_ns=8)


# What a service starts with


def write(tmp_path: Path, state: Path, text: str) -> str:
    path = tmp_path / "g.yaml"
    path.write_text(f"state:\n  path: {state}\n{text}")
    return str(path)


def test_a_good_file_is_what_it_is(tmp_path: Path, state: Path) -> None:
    path = write(tmp_path, state, GOOD)
    assert load_for_service(path) == (load_settings(path), None)


@pytest.mark.parametrize("wrong", ["dryrun: true\n", "rules: [\n", "ports: [0]\nsources: 7\n", "\tx: 1\n", "a: *b\n"])
def test_a_wrong_file_brings_up_the_last_good_one(tmp_path: Path, state: Path, wrong: str) -> None:
    settings, why = load_for_service(write(tmp_path, state, wrong))
    assert settings == load_text(GOOD, "/etc/x.yaml")
    assert why is not None
    assert why.startswith("THE CONFIGURATION FILE IS WRONG: the last good one is in force, of 2026-02-02 ")
    assert f"{tmp_path}/g.yaml:" in why
    assert "\n" not in why


def test_shipped_defaults_may_have_been_the_last_good_ones(tmp_path: Path, state: Path) -> None:
    keep(state, render_kept(KeptConfiguration(text=None, path=None, version="0.1.0", wall_ns=1)).encode())
    settings, why = load_for_service(write(tmp_path, state, "dryrun: 1\n"))
    assert settings == read_shipped()
    assert why is not None
    assert "the last good one" in why


def test_without_a_good_one_the_shipped_defaults_watch(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last good one of an older version may hold what is wrong today; the places of the file hold all the same."""
    keep(state, render_kept(KeptConfiguration(text="speed: 3\n", path="/x", version="0.0.9", wall_ns=1)).encode())
    for wrong in ("control:\n  socket: /run/x.sock\nrules: [", "control: {socket: /run/x.sock}\ndryrun: 1"):
        settings, why = load_for_service(write(tmp_path, state, wrong))
        assert settings.dry_run
        assert (settings.control_socket, settings.state_path) == ("/run/x.sock", str(state))
        assert settings.rules == read_shipped().rules
        assert why is not None
        assert "THE SHIPPED DEFAULTS are in force and nobody is refused" in why
        assert "unknown key 'speed'" in why
    state.write_bytes(b"damaged" * 1000)
    settings, why = load_for_service(write(tmp_path, state, "dryrun: 1\n"))
    assert settings.dry_run
    assert why is not None
    assert "not a database" in why
    read = Mock(side_effect=StateError("can't be read: No such file or directory"))
    monkeypatch.setattr(configuration, "read_kept", read)  # where a guard is installed, its state is there
    settings, why = load_for_service(str(tmp_path / "gone.yaml"))
    assert settings.state_path == read_shipped().state_path
    read.assert_called_once_with(read_shipped().state_path)
    assert why is not None
    assert "no such file" in why


def test_an_older_version_that_is_still_good_is_said(tmp_path: Path, state: Path) -> None:
    keep(state, render_kept(KeptConfiguration(text=GOOD, path="/x", version="0.0.9", wall_ns=1)).encode())
    _, why = load_for_service(write(tmp_path, state, "dryrun: 1\n"))
    assert why is not None
    assert "by smtpguard 0.0.9" in why


def test_places_of_a_section_that_is_wrong_itself_are_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("control: {socket: relative}\nnft:\n  table: other\ncgroup: /sys/fs/cgroup/x\nlog: 7\nrules: [")
    settings = salvage_places(str(path))
    assert settings.control_socket == read_shipped().control_socket
    assert (settings.nft_table, settings.cgroup, settings.log_path) == (
        "other",
        "/sys/fs/cgroup/x",
        read_shipped().log_path,
    )


def test_by_hand_a_wrong_file_is_refused(tmp_path: Path, state: Path) -> None:
    result = CliRunner().invoke(main, ["run", "--config", write(tmp_path, state, "dryrun: 1\n")])
    assert result.exit_code == 78
