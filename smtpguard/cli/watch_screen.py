"""The full screen of `watch`: makes its parts. What is imported here no other command needs, and no daemon has."""

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from smtpguard.cli.messages import print_message

_BROUGHT = Path(__file__).parent.parent / "_screen"
"""Where packages keep Textual and what it needs: distributions have it too old, and other programs shall not see it."""


def can_show_screen() -> bool:
    """Whether somebody looks who can press keys, at a terminal that can be drawn on, and Textual is here."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        return False
    if _BROUGHT.is_dir() and str(_BROUGHT) not in sys.path:
        sys.path.insert(0, str(_BROUGHT))
    if importlib.util.find_spec("textual") is None:
        from smtpguard.interpreter import install_command

        text = f"smtpguard: lines only: the screen needs Textual: {install_command('textual>=8.2')}"
        print_message(text)
        return False
    return True


def show_screen(config_path: str | None, socket_path: str | None, sources: Sequence[str]) -> None:
    """Show it until somebody quits.

    Args:
        config_path: --config.
        socket_path: --socket.
        sources: --source: of our own, whatever daemon runs.

    Raises:
        PrivilegeError: The socket is not for this user, or none answers and a source of our own needs root.
    """
    from smtpguard.cli.answers import ask
    from smtpguard.cli.common import find_socket, warn_broken
    from smtpguard.control.watch_item import TOPIC
    from smtpguard.errors import ConfigError, NoDaemonError, PrivilegeError
    from smtpguard.settings.load import load_settings, read_shipped
    from smtpguard.tui.app import WatchApp
    from smtpguard.tui.desk import GuardDesk
    from smtpguard.tui.feed import GuardFeed
    from smtpguard.tui.garbage import rare_collections
    from smtpguard.tui.screen_model import ScreenModel

    socket = find_socket(config_path, socket_path)
    if not sources:
        try:
            ask(socket, TOPIC)
        except NoDaemonError:
            if os.geteuid() != 0:
                raise PrivilegeError(
                    "no daemon answers, and a source of its own needs root", fix="run it as root"
                ) from None
    try:
        settings = load_settings(config_path)
    except ConfigError as error:
        settings = read_shipped()
        warn_broken(error, "connections are shown as by the shipped defaults")
    own = [word for source in sources for word in ("--source", source)] + ["--socket", socket]
    own += ["--config", config_path] if config_path is not None else []
    feed = GuardFeed(socket, own if os.geteuid() == 0 else None, is_own_wanted=bool(sources))
    feed.start()
    try:
        model = ScreenModel(time.time_ns(), ports=sorted(settings.ports))
        with rare_collections():
            WatchApp(feed, GuardDesk(socket), model, time.time_ns).run()
    finally:
        feed.close()
