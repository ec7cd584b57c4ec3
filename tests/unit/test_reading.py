"""The configuration is read in a process of its own; whatever becomes of that is an error with a reason."""

import subprocess
import sys
from pathlib import Path

import pytest

from smtpguard.errors import ConfigError
from smtpguard.settings import load_in_child
from smtpguard.settings.load_in_child import read_settings_apart


def write(folder: Path, text: str) -> str:
    path = folder / "smtpguard.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    assert read_settings_apart(write(tmp_path, "version: 1\nports: [25, 26]\n")).ports == {25, 26}


def test_a_bad_file_is_named_with_what_is_wrong_in_it(tmp_path: Path) -> None:
    path = write(tmp_path, "version: 1\nprots: [25]\n")
    with pytest.raises(ConfigError, match="prots") as caught:
        read_settings_apart(path)
    assert str(caught.value).startswith(f"{path}:2: ")


@pytest.mark.parametrize("program", ["import sys; sys.exit(3)", "", "print('x')"])
def test_a_reader_that_fails_is_no_configuration(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_in_child, "module_argv", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(ConfigError, match="the configuration can't be read"):
        read_settings_apart(None)


def test_one_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **more: object) -> None:
        raise subprocess.TimeoutExpired("reader", float(str(more["timeout"])))

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ConfigError, match="timed out after 30"):
        read_settings_apart(None)
