"""`unblock` without a daemon: kernel and state file are changed directly, so that one command always frees.

Takes the instance's lock, so that no daemon starts in between and puts back what is being taken out.
"""

import os

from smtpguard.actions.fail2ban import apply_unban, parse_jail
from smtpguard.actions.nft.apply import NftEnforcer
from smtpguard.actions.nft.render import build_spec
from smtpguard.daemon.lock import InstanceLock
from smtpguard.daemon.places import state_paths
from smtpguard.enrich.accounts import Accounts
from smtpguard.errors import EnforceError, GuardError, PrivilegeError
from smtpguard.settings import Settings
from smtpguard.state.writer import StateWriter
from smtpguard.text import render_escaped, render_user, to_bytes

_FLUSH_S = 5.0


def unblock(settings: Settings, *, user: str | None, uid: int | None, everybody: bool, source: str | None) -> str:
    """End blocks in kernel and state.

    Args:
        settings: Where they are.
        user: Whom, as a person names him; None with `uid` or `everybody`.
        uid: Whom, by number.
        everybody: All of them.
        source: Only this source's block; None for all.

    Returns:
        What was done, for people.

    Raises:
        GuardError: It could not be done.
    """
    if os.geteuid() != 0:
        raise PrivilegeError("no daemon answers, and the kernel's sets are root's", fix="run it as root")
    accounts = Accounts(settings)
    wanted = None if everybody else _find(accounts, user, uid)
    with InstanceLock(settings):
        state = StateWriter(state_paths(settings))
        try:
            return _unblock(settings, accounts, state, wanted, source)
        finally:
            state.close(_FLUSH_S)


def _find(accounts: Accounts, user: str | None, uid: int | None) -> int:
    if uid is not None:
        return accounts.owner(uid)
    found = accounts.by_name(user or "")
    if found is None:
        raise GuardError(
            f"there is no user {render_escaped(to_bytes(user or ''), max_bytes=64)}", fix="a name, or uid:N"
        )
    return found.uid


def _unblock(settings: Settings, accounts: Accounts, state: StateWriter, wanted: int | None, source: str | None) -> str:
    rows = [row for row in state.start().blocks if wanted is None or row.uid == wanted]
    mine = [row for row in rows if source is None or row.source == source]
    kept = {(row.uid, row.kind) for row in rows if row not in mine}
    nft = NftEnforcer(build_spec(settings))
    freed = {row.uid for row in mine}
    for deny in nft.read_denies():
        uid = deny.subject.uid
        ours = wanted is None or uid == wanted
        if ours and (uid, deny.kind) not in kept and (source is None or uid in freed):
            nft.apply_release(deny.subject, deny.kind)
            freed.add(uid)
    for uid in freed if source is not None else freed | ({wanted} if wanted is not None else set()):
        state.delete_blocks(uid, source=source)
        if source is None:
            state.delete_escalation(uid, accounts.account(uid).name)
    for row in mine if source is None else ():
        jail = parse_jail(row.source)
        if jail is not None:
            try:
                apply_unban(jail, render_user(row.uid, row.name), timeout_s=_FLUSH_S)
            except EnforceError:
                continue  # fail2ban is not there either: nothing to tell
    users = sorted(render_user(uid, accounts.account(uid).name) for uid in freed)
    if not users:
        return "nobody to unblock: no block or throttle is in force (no daemon is running)"
    return f"{', '.join(users[:20])}: free (no daemon is running; the kernel and the state file were changed directly)"
