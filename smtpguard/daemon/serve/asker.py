"""Who asks through the control socket, as what answers has to know it, and what they hear of a kernel behind."""

from dataclasses import dataclass

from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.errors import GuardError
from smtpguard.text import join_sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks.

    Attributes:
        who: For the log.
        user: Their login name, for the history.
        is_member: Whether they are a member of control.group only.
    """

    who: str
    user: str
    is_member: bool


def not_carried_out(text: str, enforcement: Enforcement) -> GuardError:
    """What to answer where the kernel does not do yet what was asked for.

    Args:
        text: What was done.
        enforcement: What is wrong.
    """
    troubles = "; ".join(enforcement.health.troubles())
    what = join_sentences(text, f"But the kernel does not carry it out yet: {troubles}")
    return GuardError(what, fix="it is tried again")
