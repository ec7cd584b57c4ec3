"""What the guard knows at the start: blocks from state, and what the kernel still holds.

Missing elements are restored, unknown ones adopted (source `admin`, the kernel's end), never removed. A block that the
guard or fail2ban made in earnest is not carried on in dry run: there nobody is refused but by a person's word.
"""

import logging

from smtpguard.actions.nft.apply import NftEnforcer
from smtpguard.daemon.guard import Guard
from smtpguard.errors import EnforceError
from smtpguard.model import Block, Subject
from smtpguard.state.store import Loaded
from smtpguard.text import render_user

log = logging.getLogger(__name__)


def restore(guard: Guard, loaded: Loaded, nft: NftEnforcer) -> None:
    """Bring the engine in step with state and kernel.

    Args:
        guard: Whose engine.
        loaded: What state held.
        nft: The table, which may be there from an earlier run.
    """
    for row in loaded.allowances:
        guard.restore_allowance(row)
    guard.restore_windows(loaded.windows)
    dry_run = guard.settings.dry_run
    now_ns = guard.now()
    lifted: set[Subject] = set()
    kept = 0
    for block in loaded.live_blocks(guard.wall.offset_ns):
        if block.until_ns <= now_ns:
            guard.state.delete_block(block)
        elif block.source != "admin" and dry_run != (block.mode == "dry-run"):
            guard.state.delete_block(block)
            lifted.add(block.subject)
        else:
            guard.restore(block)
            kept += 1
    if kept:
        log.info("%d blocks and throttles restored", kept)
    try:
        denies = nft.read_denies()
    except EnforceError as error:
        log.warning("what the kernel holds can't be read: %s", error)
        return
    for deny in denies:
        if any(block.kind == deny.kind for block in guard.engine.blocks_of(deny.subject)):
            continue
        user = render_user(deny.subject.uid, guard.account_of(deny.subject).name)
        if deny.subject in lifted:
            log.warning("%s was blocked by the guard: let go, this is a dry run", user)
            nft.apply_release(deny.subject, deny.kind)
            continue
        log.warning("%s is in the kernel's set and unknown here: adopted", user)
        adopted = Block(
            subject=deny.subject,
            name=guard.account_of(deny.subject).name,
            source="admin",
            kind=deny.kind,
            since_ns=now_ns,
            until_ns=deny.until_ns,
            mode="enforce",
            reason="found in the kernel's set",
        )
        guard.restore(adopted)
