"""The cache of unpacked servers: the second time without apt, never a half-written tree, and a reason when lacking."""

import json
from pathlib import Path

import pytest

from tests import servers
from tests.servers import UnavailableError, unpack


def put_manifest(folder: Path, name: str) -> Path:
    home = folder / name
    (home / "root/usr/bin").mkdir(parents=True)
    (home / "root/usr/bin/tool").write_text("#!/bin/sh\n")
    (home / "manifest.json").write_text(json.dumps({"packages": {name: "1.0"}, "root": None}))
    return home


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.mark.usefixtures("no_programs")
def test_cached_tree_needs_no_apt(tmp_path: Path) -> None:
    put_manifest(tmp_path, "tool")
    unpacked = unpack("tool", folder=tmp_path)
    assert unpacked.packages == {"tool": "1.0"}
    assert unpacked.path("usr/bin/tool").read_text() == "#!/bin/sh\n"
    assert unpacked.environment()["PATH"].startswith(str(tmp_path / "tool/root/usr/bin"))
    with pytest.raises(UnavailableError, match=r"usr/bin/other is in none of tool"):
        unpacked.path("usr/bin/other")


@pytest.mark.usefixtures("no_programs")
def test_without_apt_and_cache_the_reason_names_both(tmp_path: Path) -> None:
    with pytest.raises(
        UnavailableError, match=r"apt-get and dpkg-deb are not here, and .*/tool holds no unpacked copy"
    ):
        unpack("tool", folder=tmp_path)


@pytest.mark.usefixtures("no_programs")
def test_cache_that_can_not_be_written_still_serves_what_it_holds(tmp_path: Path) -> None:
    put_manifest(tmp_path, "tool")
    (tmp_path / ".lock").mkdir()
    assert unpack("tool", folder=tmp_path).packages == {"tool": "1.0"}
    with pytest.raises(UnavailableError, match=r"not unpacked yet, and .* can't be written: Is a directory"):
        unpack("other", folder=tmp_path)


@pytest.mark.usefixtures("no_programs")
def test_half_written_tree_is_not_believed(tmp_path: Path) -> None:
    (put_manifest(tmp_path, "tool") / "manifest.json").write_text('{"packages": {"to')
    with pytest.raises(UnavailableError):
        unpack("tool", folder=tmp_path)


@pytest.mark.usefixtures("no_programs")
def test_require_skips_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "unpack", lambda *names, alone: unpack(*names, folder=tmp_path, alone=alone))
    with pytest.raises(pytest.skip.Exception, match="lacks tool: apt-get"):
        servers.require("tool")


def test_failed_look_up_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(names: tuple[str, ...], folder: Path, *, alone: bool) -> servers.Unpacked:
        asked.append((names, folder, alone))
        raise UnavailableError("no network")

    monkeypatch.setattr(servers, "_unpack", refuse)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="no network"):
            unpack("tool", folder=tmp_path)
    assert len(asked) == 1


def test_interpreter_is_chosen_by_trying(tmp_path: Path) -> None:
    put_manifest(tmp_path, "tool")
    unpacked = unpack("tool", folder=tmp_path)
    assert Path(unpacked.python("json", "socket")).exists()
    with pytest.raises(UnavailableError, match=r"no Python here can run no_such_module .*ModuleNotFoundError"):
        unpacked.python("no_such_module")
