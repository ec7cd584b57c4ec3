"""Where the notifying process may write, and when it is started anew to write elsewhere."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from smtpguard.daemon.outlet.frames import HelperSettings, find_writable
from smtpguard.notify import confinement
from smtpguard.notify.confinement import Confinement
from smtpguard.settings.notify import NotifySettings


def settings(folder: Path, textfile: str | None = None, **notify: Any) -> HelperSettings:  # noqa: ANN401
    values = {"notify": NotifySettings(**notify), "metrics_textfile": textfile}
    return HelperSettings(state_path=str(folder / "state.db"), control_socket="/s", values=values)


@pytest.fixture
def restricted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def restrict(places: Collection[str]) -> int:
        found.append(tuple(places))
        return 7

    monkeypatch.setattr(confinement, "restrict_writing", restrict)
    return found


def test_it_writes_where_its_files_are() -> None:
    assert find_writable(settings(Path("/s"), mail="root")) == ("/s",)
    assert find_writable(settings(Path("/s"), "/m/x.prom")) == ("/s", "/m")
    assert find_writable(settings(Path("/s"), "/m/x.prom", hook=("/bin/x",))) is None


def test_a_hook_may_write_where_it_likes(tmp_path: Path, restricted: list[tuple[str, ...]]) -> None:
    duty = Confinement(lambda: 0)
    duty.configure(settings(tmp_path, hook=("/bin/x",)))
    assert restricted == []
    assert duty.report() == {"text": "no (a hook may write where it likes)"}
    assert duty.next_due_s() is None


def test_a_place_that_is_made_anew_needs_another_process(tmp_path: Path, restricted: list[tuple[str, ...]]) -> None:
    (tmp_path / "m").mkdir()
    duty = Confinement(lambda: 0)
    for _ in range(2):
        duty.configure(settings(tmp_path, str(tmp_path / "m" / "x.prom")))
    assert restricted == [(str(tmp_path), str(tmp_path / "m"))]
    duty.on_time(0)
    (tmp_path / "m").rename(tmp_path / "old")
    duty.on_time(60)
    (tmp_path / "m").mkdir()
    duty.on_time(61)
    with pytest.raises(SystemExit):
        duty.on_time(120)


@pytest.mark.parametrize("answer", [0, OSError("refused")])
def test_where_it_can_not_be_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    def restrict(_: object) -> object:
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(confinement, "restrict_writing", restrict)
    duty = Confinement(lambda: 0)
    duty.configure(settings(tmp_path))
    told = "this kernel has no Landlock" if answer == 0 else "refused"
    assert duty.report() == {"text": f"no ({told})"}
    duty.on_time(0)
