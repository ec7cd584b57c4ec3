"""`off` and `on`: the panic switch, as people ask for it."""

from smtpguard.clock import render_moment
from smtpguard.control.answer import Answer
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.serve.asker import Asker
from smtpguard.daemon.serve.requests import OffRequest, Request
from smtpguard.errors import GuardError
from smtpguard.model import NS

OFF_NS = 4 * 3600 * NS
"""How long the guard is off for which no time was said: whoever forgets it is guarded again by the next shift."""


class SwitchCommand:
    """Switches.

    Args:
        switch: The panic switch.
        enforcement: Whether the kernel follows.
    """

    def __init__(self, switch: OffSwitch, enforcement: Enforcement) -> None:
        self._switch = switch
        self._enforcement = enforcement

    def off(self, request: OffRequest, asker: Asker, /) -> Answer:
        """Lift everything; what the kernel did not do is no success."""
        span_ns = None if request.ever else request.for_ns or OFF_NS
        lifted = self._switch.switch_off(span_ns, by=asker.who)
        until_ns = self._switch.until_ns
        tail = f"until {render_moment(until_ns / NS)}" if until_ns is not None else "until `smtpguard on`"
        if not lifted:
            trouble = self._enforcement.health.table_trouble
            what = f"OFF {tail}. But the nft table can't be removed, and may still refuse: {trouble}"
            raise GuardError(what, fix="it is tried again every second")
        return {"text": f"OFF {tail}: nobody is refused, watching goes on. Switch on: smtpguard on"}

    def on(self, request: Request, asker: Asker, /) -> Answer:
        """Refuse again."""
        del request
        if not self._switch.is_off and self._switch.is_known:
            return {"text": "It is on already."}
        if not self._switch.switch_on(by=asker.who):
            trouble = self._enforcement.health.table_trouble
            what = f"ON. But the nft table can't be put back: {trouble}"
            raise GuardError(what, fix="it is tried again every second")
        return {"text": "ON. Blocks are in force again for the rest of their time."}
