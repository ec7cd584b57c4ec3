"""`nft ensure` and `nft remove`, where a daemon runs."""

import logging

from smtpguard.control.answer import Answer
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.record.recorder import Recorder
from smtpguard.daemon.serve.asker import Asker
from smtpguard.daemon.serve.requests import NftRequest
from smtpguard.errors import GuardError

log = logging.getLogger(__name__)


class NftCommand:
    """Does it.

    Args:
        guard: The configuration in force.
        enforcement: What follows.
        recorder: What is written down of it.
    """

    def __init__(self, guard: Guard, enforcement: Enforcement, recorder: Recorder) -> None:
        self._guard = guard
        self._enforcement = enforcement
        self._recorder = recorder

    def __call__(self, request: NftRequest, asker: Asker, /) -> Answer:
        """Put the table there, or take it away: what was removed so is not healed."""
        do, enforcement = request.do, self._enforcement
        table = f"table inet {self._guard.settings.nft_table}"
        log.warning("nft %s asked by %s", do, asker.who)
        self._recorder.change("nft", by="admin", reason=do)
        enforcement.healing = do == "ensure"
        if not enforcement.refresh("table"):
            raise GuardError(f"{table}: {enforcement.health.table_trouble}", fix="it is tried again every second")
        if do == "remove":
            return {"text": f"{table} is removed. It comes back with: smtpguard nft ensure"}
        if not enforcement.is_refusing():
            return {"text": f"{table} is not needed: this is a dry run, and nobody is blocked by hand."}
        return {"text": f"{table} is in place"}
