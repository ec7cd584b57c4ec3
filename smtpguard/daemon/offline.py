"""`unblock` without a daemon: kernel and state file are changed directly, so that one command always frees.

Takes the instance's lock, so that no daemon starts in between and puts back what is being taken out.
"""

import os
import time
from collections.abc import Iterable

from smtpguard.actions.fail2ban import apply_unban, is_installed, parse_jail
from smtpguard.actions.nft.apply import NftEnforcer
from smtpguard.actions.nft.render import build_spec
from smtpguard.daemon.lock import InstanceLock
from smtpguard.daemon.places import state_paths
from smtpguard.enrich.accounts import Accounts
from smtpguard.errors import EnforceError, GuardError, PrivilegeError
from smtpguard.policy.subjects import subject_of
from smtpguard.settings import Settings
from smtpguard.state.rows import BlockRow
from smtpguard.state.store import Loaded
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
    wanted = None if everybody else _find(accounts, user, uid, from_fail2ban=source is not None)
    with InstanceLock(settings):
        state = StateWriter(state_paths(settings))
        loaded = _read(state)
        try:
            text, banned = _unblock(settings, accounts, state, loaded.blocks if loaded else (), wanted, source)
        finally:
            is_written = state.close(_FLUSH_S)
    if loaded is None or not is_written:
        raise GuardError(
            f"{text}; but the state file could not be {'read' if loaded is None else 'written'}, "
            "so the guard may block them again when it starts",
            fix=f"see who holds {settings.state_path}, then run it again",
        )
    # Without the lock: fail2ban's action is an `unblock` of its own, and wants it.
    return "; ".join([text, *filter(None, [_unban(jail, name) for jail, name in banned])])


def _read(state: StateWriter) -> Loaded | None:
    """What the state holds; None if it can't be had, because another process has it locked for longer than we wait."""
    loaded = state.start()
    deadline = time.monotonic() + _FLUSH_S
    while not state.is_read:
        late = state.take_late()
        if late is not None:
            return late
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    return loaded


def _unban(jail: str, user: str) -> str:
    """Tell fail2ban; what a person has to know if it can't be told, "" else."""
    try:
        apply_unban(jail, user)
    except EnforceError as error:
        return f"note: {error}" if is_installed() else ""
    return ""


def _find(accounts: Accounts, user: str | None, uid: int | None, *, from_fail2ban: bool) -> int:
    if uid is not None:
        return subject_of(accounts, uid).id
    if from_fail2ban and (namesake := accounts.find_namesake(user or "")) is not None:
        return namesake  # in a jail an account is called as in the event log
    found = accounts.by_name(user or "")
    if found is None:
        raise GuardError(
            f"there is no user {render_escaped(to_bytes(user or ''), max_bytes=64)}", fix="a name, or uid:N"
        )
    return found.uid


def _unblock(
    settings: Settings,
    accounts: Accounts,
    state: StateWriter,
    known: Iterable[BlockRow],
    wanted: int | None,
    source: str | None,
) -> tuple[str, list[tuple[str, str]]]:
    """What was done, for people, and the jails with those they had banned."""
    rows = [row for row in known if wanted is None or row.uid == wanted]
    mine = [row for row in rows if source is None or row.source == source]
    kept = {(row.uid, row.kind) for row in rows if row not in mine}
    nft = NftEnforcer(build_spec(settings))
    freed = {row.uid for row in mine}
    for deny in nft.read_denies():
        uid = deny.subject.id
        ours = wanted is None or uid == wanted
        if ours and (uid, deny.kind) not in kept and (source is None or uid in freed):
            nft.apply_release(deny.subject, deny.kind)
            freed.add(uid)
    for uid in freed if source is not None else freed | ({wanted} if wanted is not None else set()):
        state.delete_blocks(uid, source=source)
        if source is None:
            state.delete_escalation(uid, accounts.account(uid).name)
    banned = [
        (jail, known_as)
        for row in mine
        if source is None and (jail := parse_jail(row.source)) is not None
        for known_as in row.ids or (render_user(row.uid, row.name),)
    ]
    users = sorted(render_user(uid, accounts.account(uid).name) for uid in freed)
    if not users:
        return "nobody to unblock: no block or throttle is in force (no daemon is running)", banned
    shown = ", ".join(users[:20])
    return f"{shown}: free (no daemon is running; the kernel and the state file were changed directly)", banned
