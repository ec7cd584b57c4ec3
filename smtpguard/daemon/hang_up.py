"""SIGHUP: the terminal that the guard was started from is gone, or an administrator wants a reload."""

import logging
import os

from smtpguard.actions.eventlog import EventLog
from smtpguard.daemon.loop import Loop
from smtpguard.daemon.record.recorder import Recorder
from smtpguard.daemon.serve.reload import Reload, Reloaded
from smtpguard.errors import GuardError

log = logging.getLogger(__name__)


class HangUp:
    """What a SIGHUP does.

    Args:
        loop: Which ends with the terminal.
        events: The event log, which is opened again: logrotate may have moved it.
        reload: What reads the configuration again.
        recorder: Keeps the history of what was done.
        had_terminal: Whether the guard was started from a terminal.
    """

    def __init__(self, loop: Loop, events: EventLog, reload: Reload, recorder: Recorder, *, had_terminal: bool) -> None:
        self._loop = loop
        self._events = events
        self._reload = reload
        self._recorder = recorder
        self._had_terminal = had_terminal

    def take(self) -> None:
        """One has come."""
        if self._had_terminal and not is_terminal(0):
            self._loop.stop()
            return
        self._events.reopen()
        self._reload.request(self._note)

    def _note(self, answer: Reloaded | GuardError) -> None:
        if isinstance(answer, Reloaded):
            self._recorder.change("reload", by="SIGHUP", reason=answer.text)
        tell_reload(answer)


def tell_reload(answer: Reloaded | GuardError) -> None:
    """Say in the service's log what came of a reload that nobody waits for."""
    if isinstance(answer, Reloaded):
        if (unmet := answer.as_error()) is not None:
            log.error("%s", unmet)
        else:
            log.info("%s", answer.text)
    else:
        log.error("%s. The old configuration stays active.", str(answer).removesuffix("."))


def is_terminal(descriptor: int) -> bool:
    """Whether a descriptor is a terminal that is still there."""
    try:
        return os.isatty(descriptor) and bool(os.ttyname(descriptor))
    except OSError:
        return False
