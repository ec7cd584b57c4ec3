"""What is asked before anything is done to a user: who, what, until when. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Literal

from smtpguard.text import render_duration
from smtpguard.tui.facts import Held
from smtpguard.tui.users import name_state
from smtpguard.tui.view import show_until

Deed = Literal["block", "unblock", "allow"]
SPANS_S = (600, 3600, 4 * 3600, 86_400, 7 * 86_400, 30 * 86_400)
_USUAL: dict[Deed, int] = {"block": 1, "allow": 3, "unblock": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """Shall it be done?

    Attributes:
        deed: What.
        user, uid: To whom.
        span: Which of SPANS_S.
        held: What is in force for them.
    """

    deed: Deed
    user: str
    uid: int
    span: int
    held: tuple[Held, ...] = ()

    @classmethod
    def begin(cls, deed: Deed, user: str, uid: int, held: Sequence[Held]) -> "Confirmation":
        """With the time that is usual."""
        return cls(deed=deed, user=user, uid=uid, span=_USUAL[deed], held=tuple(held))

    @property
    def for_s(self) -> int:
        """For how long, in seconds."""
        return SPANS_S[self.span]

    def lengthen(self, steps: int) -> "Confirmation":
        """For a longer time, or a shorter one for less than nothing."""
        return replace(self, span=max(0, min(self.span + steps, len(SPANS_S) - 1)))

    def render(self, now_s: float, zone: tzinfo | None) -> list[str]:
        """It, as lines for people.

        Args:
            now_s: Wall time.
            zone: In which times are told; None for the local one.
        """
        whom = f"{self.user} (uid {self.uid})"
        until = show_until(now_s + self.for_s, now_s, zone)
        span = f"for {render_duration(self.for_s)}, until {until}"
        stands = [f"{name_state(one)} until {show_until(one.until, now_s, zone)} by {one.by}" for one in self.held]
        now = ["Now: " + "; ".join(stands[:2])] if stands else ["Now: nothing is in force for them."]
        keys = "y: do it   n: leave it" + ("" if self.deed == "unblock" else "   + -: longer, shorter")
        match self.deed:
            case "block":
                asked = [f"BLOCK {whom}", span, "All SMTP ports are refused, in dry run too."]
            case "allow":
                asked = [f"ALLOW {whom}", span, "Ten times the limits; blocks of theirs end."]
            case _:
                asked = [f"UNBLOCK {whom}", "All their blocks end now, all counters go back to 0."]
        return [*asked, *now, "", keys]
