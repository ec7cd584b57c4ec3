"""What finds out more about attempts: started with the guard, each only where the configuration wants it.

The looker's helpers are forked first: before any thread, before privileges are given up, while the process is small.
"""

import contextlib
import logging

from smtpguard.enrich.looker import Looker
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.errors import SourceError
from smtpguard.settings import Settings

log = logging.getLogger(__name__)


class Enrichers:
    """Those that run.

    Args:
        stack: What has to be undone at the end.

    Attributes:
        looker: Looks at processes; None where nobody does.
        rdns: Asks for names of destinations; None where nobody does.
        trouble: Why processes are not looked at though they ought to be; None when all is well.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.looker: Looker | None = None
        self.rdns: ReverseDns | None = None
        self.trouble: str | None = None

    def fork(self, settings: Settings) -> None:
        """Start what has helpers."""
        if not settings.attribution_process:
            return
        looker = Looker(php=settings.attribution_php)
        try:
            looker.start()
        except SourceError as error:
            log.warning("processes are not looked at: %s", error)
            self.trouble = str(error)
            return
        self.looker = looker
        self._stack.callback(looker.close)

    def start(self, settings: Settings) -> None:
        """Start what needs no privilege."""
        if settings.attribution_rdns:
            self.rdns = ReverseDns()
            self.rdns.start()
            self._stack.callback(self.rdns.close)
