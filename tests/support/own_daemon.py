"""The real daemon, as a test starts it within a program of its own."""

import logging
import sys

from smtpguard.daemon.service import Service, serve
from smtpguard.daemon.startup.handoff import Start
from smtpguard.errors import GuardError
from smtpguard.hooks import Task
from smtpguard.settings.load import load_settings


def run_daemon(config: str, begin: Task) -> int:
    """Run until a signal; the exit code.

    Args:
        config: The configuration's path.
        begin: Called once all is assembled, before the loop begins.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sound = Service.run

    def run(service: Service) -> None:
        begin()
        sound(service)

    setattr(Service, "run", run)  # noqa: B010 - a method is replaced
    try:
        serve(load_settings(config), Start(config_path=config))
    except GuardError as error:
        sys.stderr.write(f"smtpguard: {error}\n")
        return 1
    return 0
