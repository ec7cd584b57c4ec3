"""Textual is loaded by the screen of `watch` alone: no other command, and no daemon, pays for it."""

import subprocess
import sys

HEAVY = "{'textual', 'rich', 'asyncio'}"


def loaded(statement: str) -> str:
    program = f"import sys\n{statement}\nprint(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()[-1]


def test_no_command_loads_it() -> None:
    every = "import importlib\nfrom smtpguard.cli import _COMMANDS\n"
    assert loaded(every + "for module, _ in _COMMANDS.values(): importlib.import_module(module)") == "[]"


def test_no_daemon_loads_it() -> None:
    assert loaded("import smtpguard.daemon.service, smtpguard.daemon.startup.handoff") == "[]"


def test_lines_do_not_load_it() -> None:
    """Where stdout is no terminal, the command goes to the end of its work without it."""
    words = "['watch', '--socket', '/nonexistent', '--source', 'replay']"
    call = f"try: main({words}, standalone_mode=False)\nexcept BaseException as error: print(error)"
    assert loaded(f"from smtpguard.cli import main\n{call}") == "[]"


def test_the_screen_loads_it() -> None:
    assert "textual" in loaded("import smtpguard.tui.app")
