"""Whether the kernel's uid sets hold what the list says, and no more: looked at, told, and mended.

Who is in the list and not in the set is put back. Who is in the set and not in the list was put there by hand, and
a person has blocked them from then on (`adoption`). What comes with a table that somebody loads over ours is none: it
has another handle, and is replaced by ours as a whole.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

from smtpguard.actions.base import Reach
from smtpguard.actions.nft.difference import Difference
from smtpguard.actions.nft.elements import Element, Interval
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.errors import EnforceError
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.text import render_count

log = logging.getLogger(__name__)

_FRESH_NS = NS
_MAX_TOLD = 5
_CHEAP_NS = 20_000_000
"""A look that takes longer is not made again for each `status`."""
_DEAR_NS = 60 * NS


class Adopter(Protocol):
    """Makes blocks of what a person has put into a set."""

    def __call__(self, reach: Reach, strangers: tuple[Element, ...], *, who: str) -> None:
        """Take over, or take out who can't be blocked."""
        ...


class ShowUid(Protocol):
    """Names users."""

    def __call__(self, uid: int, /) -> str:
        """The user of a uid, for people."""
        ...


class SetComparison:
    """Compares, as Enforcement asks for it.

    Args:
        nft: The table.
        adopt: What makes blocks of strangers.
        now: CLOCK_BOOTTIME in nanoseconds.
        show: Names uids for people; None to show the numbers.

    Attributes:
        looked_ns: When it was looked at last; None for never.
        differences: What could not be mended, for people.
        trouble: Why nobody could look; None when all is well.
        mended: How often something had to be mended.
    """

    def __init__(self, nft: NftEnforcer, *, adopt: Adopter, now: ClockNs, show: ShowUid | None = None) -> None:
        self._nft = nft
        self._adopt = adopt
        self._now = now
        self._show = show or show_uid
        self._cost_ns = 0
        self._is_busy = False
        self.looked_ns: int | None = None
        self.differences: tuple[str, ...] = ()
        self.trouble: str | None = None
        self.mended = 0

    def compare(self, *, reason: str, who: str = "") -> None:
        """Look, and mend what differs.

        Args:
            reason: `heal`, `changed` (by somebody else), `time`, or `status` (a look that is fresh will do).
            who: Who has changed it, where that is known.
        """
        if self._is_busy or (reason == "status" and self._is_fresh()):
            return
        self._is_busy = True
        try:
            self._look(reason, who)
        except EnforceError as error:
            if str(error) != self.trouble:
                log.error("can't compare the kernel's sets with the list: %s", error)  # noqa: TRY400 - one line for people
            self.trouble = str(error)
        else:
            self.trouble = None
        finally:
            self._is_busy = False

    def _is_fresh(self) -> bool:
        if self.looked_ns is None:
            return False
        age_ns = self._now() - self.looked_ns
        return age_ns < (_DEAR_NS if self._cost_ns > _CHEAP_NS else _FRESH_NS)

    def _look(self, reason: str, who: str) -> None:
        begun_ns = self._now()
        nft = self._nft
        if reason != "heal" and (state := nft.check()) != "whole":
            if reason == "changed":  # its deed has been told as well, or will be: it is healed
                return
            log.warning("The nft table is %s, nobody knows by whom. It is back, with every block.", state)
            nft.restore()
            self.mended += 1
        found = nft.compare()
        if any(difference.strangers or difference.longer or difference.missing for difference in found.values()):
            self.mended += 1
            for reach, difference in found.items():
                self._mend(reach, difference, who=who, by_hand=reason == "changed")
            found = nft.compare()
        before, self.differences = (
            self.differences,
            tuple(render_difference(reach, difference, self._show) for reach, difference in found.items()),
        )
        for text in self.differences:
            if text not in before:
                log.warning("OUT OF SYNC: %s", text)
        self.looked_ns = self._now()
        self._cost_ns = self.looked_ns - begun_ns

    def _mend(self, reach: Reach, difference: Difference, *, who: str, by_hand: bool) -> None:
        if difference.missing:
            count, names = _list(difference.missing, f"{_DONE[reach.kind]} user", self._show)
            log.warning("%s missing in the kernel, and put back: %s", count, names)
        strangers = difference.strangers
        ours = [*difference.missing]
        if by_hand:
            strangers += difference.longer
        else:  # a suspended host: the kernel's timeouts stood still meanwhile
            ours += [(element.first, element.last) for element in difference.longer]
        if ours:
            self._nft.put_back(reach, ours)
        if strangers:
            self._adopt(reach, strangers, who=who)


_DONE = {"block": "blocked", "throttle": "throttled"}
_REPAIR = "Repair: smtpguard nft ensure"
_FREE = "Let them send: smtpguard unblock --all"


def render_difference(reach: Reach, difference: Difference, show: ShowUid) -> str:
    """What differs and could not be mended, for people: who, what that means, what to type.

    Args:
        reach: In which set.
        difference: What.
        show: Names uids.
    """
    done = _DONE[reach.kind]
    where = "" if reach.port is None else f" (port {reach.port})"
    strangers = [(element.first, element.last) for element in difference.strangers]
    longer = [(element.first, element.last) for element in difference.longer]
    texts = []
    if difference.missing:
        who = _list(difference.missing, f"{done} user", show)
        texts.append(f"{who[0]} missing in the kernel{where}: {who[1]}. {_REPAIR}")
    if strangers:
        who = _list(strangers, "user", show)
        texts.append(f"{who[0]} {done} in the kernel and not listed{where}: {who[1]}. {_FREE}")
    if longer:
        who = _list(longer, "user", show)
        texts.append(f"{who[0]} {done} in the kernel for longer than listed{where}: {who[1]}. {_REPAIR}")
    if difference.uncounted:
        texts.append(f"{difference.uncounted} users more {done} in the kernel than listed{where}. {_FREE}")
    return ". ".join(texts)


def show_uid(uid: int) -> str:
    """A uid where nobody knows its name."""
    return f"uid {uid}"


def _list(intervals: Sequence[Interval], what: str, show: ShowUid) -> tuple[str, str]:
    """How many there are, with their verb, and the first ones by name."""
    count = sum(last - first + 1 for first, last in intervals)
    names = [show(a) if a == b else f"uids {a}-{b}" for a, b in intervals[:_MAX_TOLD]]
    more = f" and {len(intervals) - _MAX_TOLD} more" if len(intervals) > _MAX_TOLD else ""
    return f"{render_count(count, what)} {'is' if count == 1 else 'are'}", ", ".join(names) + more
