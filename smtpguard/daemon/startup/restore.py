"""What the guard knows at the start: blocks from state, and what the kernel still holds.

Missing elements are restored. Unknown ones are adopted (source `admin`, the kernel's end) where the table is the one
that an earlier run has made; a table of another boot, namespace or handle was loaded by somebody else, and goes. A
block that the guard or fail2ban made in earnest is not carried on in dry run: there nobody is refused but by a person's
word.
"""

import logging

from smtpguard.actions.nft.elements import list_claims
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.daemon.adoption import Adoption
from smtpguard.daemon.enforce.identity import Identity
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.record.window_saver import Keeping
from smtpguard.daemon.serve.orders import Orders
from smtpguard.errors import EnforceError
from smtpguard.model import Block, Subject
from smtpguard.state.statements import block_key
from smtpguard.state.store import Loaded
from smtpguard.text import render_user

log = logging.getLogger(__name__)


def restore(
    orders: Orders, keeping: Keeping, loaded: Loaded, *, nft: NftEnforcer, adoption: Adoption, identity: Identity
) -> None:
    """Bring the engine in step with state and kernel.

    Args:
        orders: What puts blocks and allowances in force.
        keeping: What takes windows back.
        loaded: What state held.
        nft: The table, which may be there from an earlier run.
        adoption: What makes blocks of elements that nobody knows.
        identity: Which table is ours.
    """
    guard = orders.guard
    for row in loaded.allowances:
        orders.restore_allowance(row)
    keeping.restore_windows(loaded.windows)
    guard.journal.restore_incidents(loaded.incidents, guard.account_of)
    lifted = _restore_blocks(orders, loaded)
    try:
        _take_elements(orders, nft, adoption, identity, lifted)
    except EnforceError as error:
        log.warning("what the kernel holds can't be read: %s", error)


def _take_elements(
    orders: Orders, nft: NftEnforcer, adoption: Adoption, identity: Identity, lifted: set[Subject]
) -> None:
    """Take over what is in the table of an earlier run, or take a table away that is none."""
    guard = orders.guard
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
        if any(b.kind == deny.kind and deny.port in b.reaches for b in guard.engine.blocks_of(deny.subject)):
            continue
        if deny.subject in lifted:
            user = render_user(deny.subject.id, guard.account_of(deny.subject).name)
            log.warning("%s was blocked by the guard: let go, this is a dry run", user)
            ranges = ((first, first + count - 1) for first, count in deny.ranges)
            nft.clear(deny.reach, [(deny.subject.id, deny.subject.id), *ranges])
        else:
            unlisted.append(deny)
    if unlisted and not identity.is_known:
        log.warning("the state does not know the nft table that is there: who is in it is adopted")
    for deny in unlisted:
        adoption.take_over(deny.reach, tuple(list_claims(deny)), reason="found in the nft set")


def restore_late(orders: Orders, switch: OffSwitch, loaded: Loaded) -> None:
    """Take what a file held that could not be read at the start: locked, or on a disk that came late.

    What people said meanwhile is newer. Windows stay as they are now: what was counted since would be counted twice.

    Args:
        orders: What puts blocks and allowances in force.
        switch: The panic switch.
        loaded: What state held.
    """
    guard = orders.guard
    log.warning("the state could be read at last: what it held is in force")
    for row in loaded.switches:
        if not switch.is_off:
            switch.restore(row)
    allowed = {allowance.subject for allowance in guard.engine.allowances()}
    for allowance in loaded.allowances:
        if Subject(id=allowance.uid) not in allowed:
            orders.restore_allowance(allowance)
    _restore_blocks(orders, loaded)
    guard.freed.clear()
    guard.enforcement.refresh("state")


def _whom(block: Block) -> set[tuple[Subject | None, str | None]]:
    """What a block is ended by: its source's word or all sources', for its user or for everybody."""
    return {(block.subject, None), (block.subject, block.source), (None, None)}


def _restore_blocks(orders: Orders, loaded: Loaded) -> set[Subject]:
    """Put blocks in force again; whom they are not, because it is a dry run now."""
    guard = orders.guard
    dry_run = guard.settings.dry_run
    now_ns = guard.now()
    lifted: set[Subject] = set()
    kept = 0
    for block in loaded.live_blocks(guard.wall.offset_ns):
        held = guard.engine.blocks_of(block.subject)
        newer = [b for b in held if (b.source, b.kind, b.ports) == (block.source, block.kind, block.ports)]
        if newer:  # the state came late, and what was said meanwhile holds, under the same key if the name is the same
            if block.name not in [b.name for b in newer]:
                guard.state.delete(block_key(block))
        elif block.until_ns <= now_ns or (guard.freed and not guard.freed.isdisjoint(_whom(block))):
            guard.state.delete(block_key(block))
        elif block.source != "admin" and dry_run != (block.mode == "dry-run"):
            guard.state.delete(block_key(block))
            if dry_run:  # else it only would have been, and the kernel holds nothing of it
                lifted.add(block.subject)
        else:
            orders.restore(block)
            kept += 1
    if kept:
        log.info("%d blocks and throttles restored", kept)
    return lifted
