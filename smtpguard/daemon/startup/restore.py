"""What the guard knows at the start: blocks from state, and what the kernel still holds.

Missing elements are restored. Unknown ones are adopted (source `admin`, the kernel's end) where the table is the one
that an earlier run has made; a table of another boot, namespace or handle was loaded by somebody else, and goes. A
block that the guard or fail2ban enforced is not carried on in dry run: there nobody is refused but by a person's
word.
"""

import logging

from smtpguard.actions.nft.elements import list_claims
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.clock import WallMap
from smtpguard.daemon.adoption import Adoption
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.enforce.identity import Identity
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.record.window_saver import Keeping
from smtpguard.daemon.serve.orders import Orders
from smtpguard.errors import EnforceError
from smtpguard.hooks import ClockNs
from smtpguard.model import Block, Subject
from smtpguard.policy.engine import Engine
from smtpguard.state.statements import block_key, key_of
from smtpguard.state.store import Loaded
from smtpguard.state.writer import StateWriter
from smtpguard.text import render_user

log = logging.getLogger(__name__)


class Restore:
    """Brings the engine in step with what was before: at the start, and once more where state could be read late only.

    Args:
        orders: What puts blocks and allowances in force.
        engine: What it has to know.
        enforcement: What follows it.
        journal: What takes incidents back.
        keeping: What takes windows back.
        state: Where what is over has to go.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        orders: Orders,
        *,
        engine: Engine,
        enforcement: Enforcement,
        journal: Journal,
        keeping: Keeping,
        state: StateWriter,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self._orders = orders
        self._engine = engine
        self._enforcement = enforcement
        self._journal = journal
        self._keeping = keeping
        self._state = state
        self._wall = wall
        self._now = now

    def take(self, loaded: Loaded, *, dry_run: bool, nft: NftEnforcer, adoption: Adoption, identity: Identity) -> None:
        """At the start: take what state and kernel hold.

        Args:
            loaded: What state held.
            dry_run: Whether nobody is refused now.
            nft: The table, which may be there from an earlier run.
            adoption: What makes blocks of elements that nobody knows.
            identity: Which table is ours.
        """
        for row in loaded.allowances:
            self._orders.restore_allowance(row)
        self._keeping.restore_windows(loaded.windows)
        self._journal.restore_incidents(loaded.incidents, self._orders.account_of)
        self._restore_escalation(loaded)
        lifted = self._restore_blocks(loaded, dry_run=dry_run)
        try:
            self._take_elements(nft, adoption, identity, lifted)
        except EnforceError as error:
            log.warning("what the kernel holds can't be read: %s", error)

    def take_late(self, loaded: Loaded, switch: OffSwitch, *, dry_run: bool) -> None:
        """Take what a file held that could not be read at the start: locked, or on a disk that came late.

        What people said meanwhile is newer. Windows stay as they are: what was counted since would be counted twice.

        Args:
            loaded: What state held.
            switch: The panic switch.
            dry_run: Whether nobody is refused now.
        """
        log.warning("the state could be read at last: what it held is in force")
        for row in loaded.switches:
            if not switch.was_switched:
                switch.restore(row)
        allowed = {allowance.subject for allowance in self._engine.allowances()}
        for allowance in loaded.allowances:
            subject = Subject(id=allowance.uid)
            if subject in allowed:
                continue  # the newer one is kept under the same key
            if subject in self._orders.unallowed:
                self._state.delete(key_of(allowance))
            else:
                self._orders.restore_allowance(allowance, is_late=True)
        self._restore_escalation(loaded)
        self._restore_blocks(loaded, dry_run=dry_run)
        self._orders.freed.clear()
        self._orders.unallowed.clear()
        self._enforcement.refresh("state")

    def _restore_escalation(self, loaded: Loaded) -> None:
        """How often users were blocked before, where their windows have not said so."""
        everybody = (None, None) in self._orders.freed
        freed = {row.uid for row in loaded.blocks} if everybody else set()
        now_ns = loaded.now_ns  # a clock that is behind makes nothing longer than it was meant to be
        ends: dict[int, int] = {}
        for block in loaded.blocks:  # a user may have several, a person's beside a rule's
            ends[block.uid] = max(ends.get(block.uid, 0), now_ns + block.until_ns - block.since_ns)
        for row in loaded.escalation:
            subject = Subject(id=row.uid)
            until_ns = min(row.last_ns, ends.get(row.uid, now_ns)) - self._wall.offset_ns
            if row.uid in freed:
                self._state.delete(key_of(row))
                continue
            if (subject, None) in self._orders.freed or not self._orders.account_of(subject).may_be(row.name):
                continue
            known = self._engine.memory.escalation(subject)
            if known is None or known.until_ns < until_ns:
                self._engine.memory.restore_escalation(subject, row.level, until_ns)

    def _take_elements(self, nft: NftEnforcer, adoption: Adoption, identity: Identity, lifted: set[Subject]) -> None:
        """Take over what is in the table of an earlier run, or take a table away that is none."""
        handle = nft.read_handle()
        if handle is None:
            return
        denies = nft.read_denies()
        if identity.is_known and not identity.is_ours(handle):
            nft.remove()
            log.warning("the nft table was loaded by somebody else, with %d elements: replaced by ours", len(denies))
            return
        unlisted = []
        for deny in denies:
            if any(b.kind == deny.kind and deny.port in b.reaches for b in self._engine.blocks_of(deny.subject)):
                continue
            if deny.subject in lifted:
                user = render_user(deny.subject.id, self._orders.account_of(deny.subject).name)
                log.warning("%s was blocked before this start and may send now: this is a dry run", user)
                ranges = ((first, first + count - 1) for first, count in deny.ranges)
                nft.clear(deny.reach, [(deny.subject.id, deny.subject.id), *ranges])
            else:
                unlisted.append(deny)
        if unlisted and not identity.is_known:
            log.warning("the state does not know the nft table that is there: who is in it is listed as blocked")
        for deny in unlisted:
            adoption.take_over(deny.reach, tuple(list_claims(deny)), reason="found in the nft set")

    def _restore_blocks(self, loaded: Loaded, *, dry_run: bool) -> set[Subject]:
        """Put blocks in force again; whom they are not, because it is a dry run now."""
        freed, now_ns = self._orders.freed, self._now()
        lifted: set[Subject] = set()
        kept = 0
        for block in loaded.live_blocks(self._wall.offset_ns):
            held = self._engine.blocks_of(block.subject)
            newer = [b for b in held if (b.source, b.kind, b.ports) == (block.source, block.kind, block.ports)]
            if (
                newer
            ):  # the state came late, and what was said meanwhile holds, under the same key if the name is the same
                if block.name not in [b.name for b in newer]:
                    self._state.delete(block_key(block))
            elif block.until_ns <= now_ns or (freed and not freed.isdisjoint(_whom(block))):
                self._state.delete(block_key(block))
            elif block.source != "admin" and dry_run != (block.mode == "dry-run"):
                self._state.delete(block_key(block))
                if dry_run:  # else it only would have been, and the kernel holds nothing of it
                    lifted.add(block.subject)
            else:
                self._orders.restore(block)
                kept += 1
        if kept:
            log.info("%d blocks and throttles restored", kept)
        return lifted


def _whom(block: Block) -> set[tuple[Subject | None, str | None]]:
    """What a block is ended by: its source's word or all sources', for its user or for everybody."""
    return {(block.subject, None), (block.subject, block.source), (None, None)}
