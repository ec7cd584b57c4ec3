"""The BPF program while there is one: who has to know when it comes, changes or goes. Decides nothing itself."""

import contextlib
import logging

from smtpguard.actions.tell_server import Explain, TellServer
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.loop import Loop
from smtpguard.errors import EnforceError
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.settings import Settings
from smtpguard.sources.base import Source
from smtpguard.sources.bpf.source import BpfSource
from smtpguard.sources.bpf.tell_hooks import TellHooks

log = logging.getLogger(__name__)

_RETRY_NS = 3 * NS
"""How often a responder that found no port is tried again."""


class BpfLifecycle:
    """What a source of BPF brings with it: refusals before any packet, exact limits, answers to refused senders.

    Args:
        settings: The configuration in force.
        enforcement: Whose means grow by it.
        explain: Knows what a refused sender is told.
        loop: Where the responder to refused senders lives.
        now: CLOCK_BOOTTIME in nanoseconds.
        stack: What has to be undone at the end.

    Attributes:
        trouble: Why refused senders are not told why though they ought to be; None when all is well.
    """

    def __init__(
        self,
        settings: Settings,
        enforcement: Enforcement,
        explain: Explain,
        loop: Loop,
        now: ClockNs,
        stack: contextlib.ExitStack,
    ) -> None:
        self._settings = settings
        self._enforcement = enforcement
        self._explain = explain
        self._now = now
        self._loop = loop
        self._source: BpfSource | None = None
        self._telling: TellHooks | None = None
        self._responder: TellServer | None = None
        self.trouble: str | None = None
        self._retry_ns: int | None = None
        stack.callback(self._close_responder)

    def source_opened(self, source: Source) -> None:
        """A source was opened and has proved itself; only one of BPF matters here."""
        if not isinstance(source, BpfSource):
            return
        self._source = source
        self._enforcement.attach(source)
        self.refresh()

    def source_closed(self, source: Source) -> None:
        """A source goes."""
        if not isinstance(source, BpfSource):
            return
        self._source = self._telling = None
        self._enforcement.detach()

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration."""
        self._settings = settings
        self.refresh()

    def refresh(self) -> None:
        """Tell refused senders why, or do not, as `block.verdict` says; without the responder they are just refused."""
        before, self.trouble, self._retry_ns = self.trouble, None, None
        if self._settings.block_verdict != "tell":
            self._stop_telling()
            return
        if self._source is None or self._telling is not None:
            return
        telling = TellHooks(self._source.guard)
        try:
            if self._responder is None:
                self._responder = TellServer(self._find_told, self._explain, self._now)
                self._loop.add(self._responder, "tell")
            telling.start(self._responder.port)
        except EnforceError as error:
            self.trouble = str(error)
            self._retry_ns = self._now() + _RETRY_NS
            if self.trouble != before:
                log.warning("refused senders are not told why: %s", error)
        else:
            self._telling = telling

    def on_time(self, now_ns: int) -> None:
        """Try again what did not work: who holds all the responder's ports may have let one go."""
        if self._retry_ns is not None and now_ns >= self._retry_ns:
            self.refresh()

    def _stop_telling(self) -> None:
        """Refuse without a word: nobody is led to the responder any more, and nothing of it stays."""
        if self._telling is not None:
            self._telling.stop()
            self._telling = None
        if self._responder is not None:
            self._loop.remove(self._responder)
            self._close_responder()

    def _close_responder(self) -> None:
        if self._responder is not None:
            self._responder.close()
            self._responder = None

    def _find_told(self, cookie: int) -> int | None:
        return self._telling.find_owner(cookie) if self._telling is not None else None
