"""What the daemon loads before it is asked anything: every module stays in its memory for months."""

import subprocess
import sys
from types import ModuleType

import pytest

from smtpguard.daemon.startup import late_modules

LOAD = """
import sys
from smtpguard.daemon.startup.late_modules import load_late
load_late()
from smtpguard.daemon.service import serve
from smtpguard.daemon.startup.handoff import receive
print("\\n".join(sorted(sys.modules)))
"""
"""As smtpguard/daemon/__main__.py does."""
WITH_THE_FIRST_QUESTION = frozenset(
    {"history", "history_page", "host_history", "own_history", "past_blocks", "user_history"}
)
"""Of smtpguard.state: what reads the history."""
OF_COMMANDS = frozenset({"cli", "doctor", "demo", "report", "setup", "standalone", "tui", "notify"})
"""Rooms that only commands, and the notifying process, load."""
TOO_LARGE = frozenset(
    {
        *("asyncio", "bz2", "click", "email", "html", "http", "jinja2", "jsonschema", "lzma", "markupsafe"),
        *(
            "multiprocessing",
            "publicsuffixlist",
            "random",
            "rich",
            "shutil",
            "ssl",
            "subprocess",
            "tempfile",
            "textual",
            "yaml",
        ),
    }
)
"""Of other people's: what has a use in commands alone, or where something rare happens."""


@pytest.fixture(scope="module")
def loaded() -> frozenset[str]:
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True, timeout=60)
    return frozenset(done.stdout.split())


def test_what_reads_the_history_comes_with_the_first_question(loaded: frozenset[str]) -> None:
    assert "smtpguard.state.store" in loaded
    assert not {f"smtpguard.state.{name}" for name in WITH_THE_FIRST_QUESTION} & loaded


def test_what_is_of_commands_stays_with_them(loaded: frozenset[str]) -> None:
    assert not {name for name in loaded if name.startswith("smtpguard.") and name.split(".")[1] in OF_COMMANDS}


def test_nothing_large_is_loaded_that_is_rarely_needed(loaded: frozenset[str]) -> None:
    assert not TOO_LARGE & loaded


def test_what_dataclasses_hardly_ever_asks_is_not_executed(loaded: frozenset[str]) -> None:
    """A dataclass without a docstring asks `inspect` for one, which takes 0.7 MB with all that it imports."""
    assert "inspect" in loaded, "in its place, ready to be executed"
    assert not {"ast", "dis", "opcode"} & loaded


def test_a_stand_in_becomes_the_module_when_something_of_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "colorsys"
    monkeypatch.setattr(late_modules, "RARELY_USED", (name,))
    monkeypatch.delitem(sys.modules, name, raising=False)
    late_modules.load_late()
    before = sys.modules[name]
    assert type(before) is not ModuleType
    assert before.rgb_to_hsv(1, 1, 1) == (0, 0, 1)
    assert type(sys.modules[name]) is ModuleType
    assert before.hsv_to_rgb is sys.modules[name].hsv_to_rgb, "whoever imported it before"
