"""What is told to be typed where a library is missing: it has to reach the interpreter that runs this."""

import sys
import sysconfig
from pathlib import Path

import pytest

from smtpguard import interpreter
from smtpguard.interpreter import install_command


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter of a system, no virtual environment; the folder of its standard library."""
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    return tmp_path


def test_a_checkout_has_its_own_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/root/smtpguard/.venv")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "path", [interpreter._DEBIANS])
    assert install_command("textual>=8.2", debian="x") == "/root/smtpguard/.venv/bin/pip install 'textual>=8.2'"


def test_debian_has_its_own_packages(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sys, "path", [interpreter._DEBIANS])
    assert install_command("apprise", debian="apprise") == "apt-get install apprise"
    assert install_command("a") == "/usr/bin/python3 -m pip install --break-system-packages a"


def test_elsewhere_it_is_the_pip_of_this_interpreter(system: Path) -> None:
    assert install_command("apprise", debian="apprise") == "/usr/bin/python3 -m pip install apprise"
    assert list(system.iterdir()) == []


def test_no_text_tells_to_install_what_has_our_name() -> None:
    """Nobody holds that name on PyPI: whoever takes it would have code in a root daemon."""
    top = Path(interpreter.__file__).parents[1]
    files = [*top.glob("*.md"), *top.glob("docs/**/*.md"), *top.glob("smtpguard/**/*.py"), *top.glob("config/**/*")]
    texts = {path: path.read_text("utf-8") for path in files if path.is_file()}
    assert len(texts) > 300
    told = [str(path) for path, text in texts.items() if "install smtpguard[" in text.replace("'", "").replace('"', "")]
    assert told == []
