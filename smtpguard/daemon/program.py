"""The BPF program while there is one: who has to know when it comes, changes or goes. Decides nothing itself."""

import contextlib
import logging

from smtpguard.actions.tell import TellResponder
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.loop import Loop
from smtpguard.errors import EnforceError
from smtpguard.sources.base import Source
from smtpguard.sources.bpf.source import BpfSource
from smtpguard.sources.bpf.tell import Telling

log = logging.getLogger(__name__)


class Program:
    """What a source of BPF brings with it: refusals before any packet, exact limits, answers to refused senders.

    Args:
        guard: Whose means grow by it.
        loop: Where the responder to refused senders lives.
        stack: What has to be undone at the end.
    """

    def __init__(self, guard: Guard, loop: Loop, stack: contextlib.ExitStack) -> None:
        self._guard = guard
        self._loop = loop
        self._stack = stack
        self._telling: Telling | None = None
        self._responder: TellResponder | None = None

    def source_opened(self, source: Source) -> None:
        """A source was opened and has proved itself; only one of BPF matters here."""
        if not isinstance(source, BpfSource):
            return
        self._guard.enforcement.attach(source)
        if self._guard.settings.block_verdict == "tell":
            self._start_telling(source)

    def source_closed(self, source: Source) -> None:
        """A source goes."""
        if not isinstance(source, BpfSource):
            return
        self._telling = None
        self._guard.enforcement.detach()

    def _start_telling(self, source: BpfSource) -> None:
        """`block.verdict: tell`: refused senders are led to a responder that says why; without it, just refused."""
        self._telling = Telling(source.guard)
        try:
            if self._responder is None:
                self._responder = TellResponder(self._find_told, self._guard.explain, self._guard.now)
                self._stack.callback(self._responder.close)
                self._loop.add(self._responder, "tell")
            self._telling.start(self._responder.port)
        except EnforceError as error:
            log.warning("refused senders are not told why: %s", error)

    def _find_told(self, cookie: int) -> int | None:
        return self._telling.find_owner(cookie) if self._telling is not None else None
