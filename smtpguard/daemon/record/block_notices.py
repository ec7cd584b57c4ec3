"""Each beginning and end of a block or throttle that is enforced, as one line of the service's log that stands alone.

A throttle lets go and takes hold again many times a minute. For people that is one throttle, from the first attempt
refused until it has refused nothing for a minute; the event log has each for itself.
"""

import logging
from collections import Counter
from dataclasses import dataclass

from smtpguard.clock import WallMap
from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.daemon.record.notices import gravity_of, render_end, render_throttled_again, render_verdict
from smtpguard.hooks import ClockNs
from smtpguard.model import NS, Account, Block, Subject, Verdict

log = logging.getLogger(__name__)

CALM_NS = 60 * NS
"""A throttle that has held nobody back for so long is over."""
MAX_HELD = 20_000
MAX_LINES = 100
"""Lines within PER_NS: ten thousand blocks may end at once. The event log has them all."""
PER_NS = 10 * NS
_LOOK_NS = 5 * NS
_Key = tuple[Subject, str, str, str | None]


@dataclass(slots=True, kw_only=True)
class _Held:
    """A block or throttle as people see it.

    Attributes:
        block: As it was first.
        account: Whose.
        until_ns: When it ends, as far as is known.
        refused: How many attempts of theirs had been refused before.
        is_told: Whether its beginning was said.
    """

    block: Block
    account: Account
    until_ns: int
    refused: int
    is_told: bool


class BlockNotices:
    """Says them, as it is told what is carried out.

    Args:
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        refused: How many attempts were refused since the start, by subject.
    """

    def __init__(self, wall: WallMap, now: ClockNs) -> None:
        self._wall = wall
        self._now = now
        self._held: dict[_Key, _Held] = {}
        self._throttles = 0
        self._look_ns = 0
        self._since_ns = 0
        self._lines = 0
        self._left_out = 0
        self.refused: Counter[Subject] = Counter()

    def hold(self, block: Block, account: Account) -> None:
        """A block or throttle is carried out: a new one, or one that goes on."""
        if block.mode != "enforce":
            return
        held = self._held.get(_key(block))
        if held is not None:
            held.until_ns = block.until_ns
            return
        if len(self._held) >= MAX_HELD:
            return
        before = self.refused[block.subject]
        self._held[_key(block)] = _Held(
            block=block, account=account, until_ns=block.until_ns, refused=before, is_told=block.renewed
        )
        self._throttles += block.kind == "throttle"
        if block.renewed:  # of which no verdict speaks
            self._say(render_throttled_again(block, account))

    def begin(self, entry: Entry) -> int:
        """Say what an attempt has begun; the gravity of the gravest of it, 0 if it has begun nothing.

        Args:
            entry: It, with what was found out of its script.
        """
        gravity = 0
        for block in entry.blocks:
            for verdict in entry.verdicts:
                if block.mode == verdict.mode == "enforce" and block.rule == verdict.rule:
                    gravity = max(gravity, gravity_of(verdict))
                    self._begin(block, verdict, entry)
        return gravity

    def _begin(self, block: Block, verdict: Verdict, entry: Entry) -> None:
        held = self._held.get(_key(block))
        if held is not None:
            if held.is_told and block.kind == "throttle":
                return
            held.is_told = True
        text = render_verdict(
            verdict,
            entry.connect,
            entry.account,
            offset_ns=self._wall.offset_ns,
            now_ns=self._now(),
            is_left=False,
        )
        self._say(text)

    def end(self, block: Block, account: Account, *, by: str, reason: str, refused: int | None = None) -> None:
        """Say that a block has ended; of a throttle only where somebody ended it, as it may take hold again.

        Args:
            block: It.
            account: Whose.
            by: Who ended it, or "time".
            reason: Why.
            refused: How many attempts of theirs had been refused when it ended: an unblock counts anew; None for now.
        """
        if block.kind == "throttle" and by == "time":
            return
        held = self._held.pop(_key(block), None)
        if held is not None:
            self._throttles -= block.kind == "throttle"
        self._say_end(held or block, account, by=by, reason=reason, refused=refused)

    def next_deadline(self) -> int | None:
        """When it is looked whether a throttle is over, or lines were left out."""
        if self._throttles or self._left_out:
            return self._look_ns
        return None

    def on_time(self, now_ns: int) -> None:
        """Say which throttles are over, and how many lines were left out."""
        if now_ns < self._look_ns:
            return
        self._look_ns = now_ns + _LOOK_NS
        over = [
            (key, held)
            for key, held in self._held.items()
            if held.block.kind == "throttle" and held.until_ns + CALM_NS <= now_ns
        ]
        for key, held in over:
            del self._held[key]
            self._throttles -= 1
            self._say_end(held, held.account, by="time", reason="", refused=None)
        if self._left_out and now_ns - self._since_ns >= PER_NS:
            log.warning("%d more blocks began or ended: see the event log", self._left_out)
            self._left_out, self._lines, self._since_ns = 0, 0, now_ns

    def _say_end(self, held: "_Held | Block", account: Account, *, by: str, reason: str, refused: int | None) -> None:
        block = held.block if isinstance(held, _Held) else held
        total = self.refused[block.subject] if refused is None else refused
        ended_ns = min(self._now(), held.until_ns)
        text = render_end(
            account,
            kind=block.kind,
            ports=block.ports,
            cause=f"by {block.source}" if block.rule is None else f"rule {block.rule}",
            by=by,
            reason=reason,
            lasted_ns=ended_ns - block.since_ns,
            refused=total - held.refused if isinstance(held, _Held) else None,
        )
        self._say(text)

    def _say(self, text: str) -> None:
        now_ns = self._now()
        if now_ns - self._since_ns >= PER_NS and not self._left_out:
            self._since_ns, self._lines = now_ns, 0
        self._lines += 1
        if self._lines > MAX_LINES:
            self._left_out += 1
        else:
            log.warning("%s", text)


def _key(block: Block) -> _Key:
    return (block.subject, block.source, block.kind, block.rule)
