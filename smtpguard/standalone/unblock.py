"""`unblock` without a daemon: kernel and state file are changed directly, so that one command always frees.

Takes the instance's lock, so that no daemon starts in between and puts back what is being taken out.
"""

import os
import time
from collections.abc import Iterable

from smtpguard.actions.fail2ban import apply_unban, is_installed
from smtpguard.actions.nft.elements import list_bounds
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.actions.nft.render import build_spec
from smtpguard.daemon.serve.requests import UnblockRequest
from smtpguard.daemon.serve.unblock import Freed
from smtpguard.daemon.serve.unblock import unblock as serve_unblock
from smtpguard.daemon.startup.instance_lock import InstanceLock
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import EnforceError, GuardError, PrivilegeError
from smtpguard.model import Account
from smtpguard.panels.customers_on_demand import CustomersOnDemand
from smtpguard.settings import Settings
from smtpguard.state.columns import to_signed
from smtpguard.state.paths import state_paths
from smtpguard.state.rows import BlockRow
from smtpguard.state.statements import escalation_key
from smtpguard.state.store import Loaded
from smtpguard.state.writer import StateWriter
from smtpguard.text import join_sentences, render_user, to_bytes

_FLUSH_S = 5.0


def unblock(settings: Settings, *, user: str | None, uid: int | None, everybody: bool, source: str | None) -> str:
    """End blocks in kernel and state.

    Args:
        settings: Where they are.
        user: Whom, as a person names them; None with `uid` or `everybody`.
        uid: Whom, by number.
        everybody: All of them.
        source: Only this source's block; None for all.

    Returns:
        What was done, for people.

    Raises:
        GuardError: It could not be done.
    """
    if os.geteuid() != 0:
        raise PrivilegeError("no daemon answers, and only root may change the kernel's sets", fix="run it as root")
    accounts = AccountDirectory(settings, customers=CustomersOnDemand(settings))
    request = UnblockRequest(user=user or "", uid=uid, everybody=everybody, source=source or "")
    jails: list[tuple[str, str]] = []

    def remember(*, jail: str, known_as: str) -> None:
        jails.append((jail, known_as))

    with InstanceLock(settings, is_guard=False):
        state = StateWriter(state_paths(settings))
        loaded = _read(state)
        try:
            blocks = KeptBlocks(NftEnforcer(build_spec(settings)), state, loaded.blocks if loaded else (), accounts)
            done = serve_unblock(request, accounts=accounts, blocks=blocks, tell_fail2ban=remember)
        finally:
            is_written = state.close(_FLUSH_S if loaded is not None else 0.5)
    if loaded is None or not is_written:
        raise GuardError(
            join_sentences(
                done.text,
                f"But the state file could not be {'read' if loaded is None else 'written'}, "
                "so the guard may block them again when it starts",
            ),
            fix=f"see who holds {settings.state_path}, then run it again",
        )
    namesake = accounts.lookup.find_namesake(user or "") if source is None else None
    taken = "" if namesake is None else f"Note: {user} was taken as a uid; the account called {user} is uid:{namesake}"
    taken = taken or (f"Note: {whose}" if source is None and (whose := accounts.lookup.tell_domain(user or "")) else "")
    # Without the lock: fail2ban's action is an `unblock` of its own, and wants it.
    return join_sentences(done.text, taken, *[_unban(jail, name) for jail, name in jails])


class KeptBlocks:
    """What a guard left in the kernel and in its state file, as `unblock` ends it.

    Args:
        nft: The kernel's sets.
        state: The state file.
        rows: The blocks that it holds.
        accounts: Who is who.
    """

    how = "No daemon is running: kernel and state file were changed."
    where = "no daemon is running"

    def __init__(
        self, nft: NftEnforcer, state: StateWriter, rows: Iterable[BlockRow], accounts: AccountDirectory
    ) -> None:
        self._nft = nft
        self._state = state
        self._rows = list(rows)
        self._accounts = accounts

    def end(self, account: Account, *, source: str, reason: str) -> bool:
        """End one source's block; the kernel goes on refusing for what others have asked."""
        del reason
        rows = [row for row in self._rows if row.uid == account.uid]
        mine = [row for row in rows if row.source == source]
        kept = [row for row in rows if row not in mine]
        if mine:
            for deny in self._nft.read_denies():
                if deny.subject.id == account.uid and not any(row.accounts_for(deny.kind, deny.port) for row in kept):
                    self._nft.clear(deny.reach, list_bounds(deny))
            self._delete_blocks(account.uid, source)
        return bool(mine)

    def unblock(self, account: Account | None, *, reason: str) -> list[Freed]:
        """End all, what only the kernel knows too, and forget the escalation."""
        del reason
        rows = [row for row in self._rows if account is None or row.uid == account.uid]
        freed = [Freed(user=self._show(row.uid), source=row.source, ids=self._list_ids(row)) for row in rows]
        uids = {row.uid for row in rows} if account is None else {account.uid}
        held = self._nft.read_denies()
        if account is None:
            freed += [Freed(user=self._show(deny.subject.id), source=None) for deny in held]
            uids |= {deny.subject.id for deny in held}
            self._nft.clear_all()
        else:  # whatever the list says, also from within a range that somebody has put there
            if any(first <= account.uid <= last for deny in held for first, last in list_bounds(deny)):
                freed.append(Freed(user=self._show(account.uid), source=None))
            ranges = [(first, first + count - 1) for first, count in account.ranges]
            self._nft.clear_everywhere([(account.uid, account.uid), *ranges])
        for uid in uids:
            self._delete_blocks(uid)
            self._state.delete(escalation_key(uid, self._accounts.account(uid).name))
        return freed

    def _delete_blocks(self, uid: int, source: str | None = None) -> None:
        """Whatever name they are bound to; not those of other network namespaces."""
        for key in self._state.kept("blocks", uid):
            if key[2] == to_signed(None) and (source is None or key[4] == to_bytes(source)):
                self._state.delete(key)

    def _show(self, uid: int) -> str:
        return render_user(uid, self._accounts.account(uid).name)

    @staticmethod
    def _list_ids(row: BlockRow) -> tuple[str, ...]:
        return tuple(row.ids) or (render_user(row.uid, row.name),)


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
        return f"Note: {error}" if is_installed() else ""
    return ""
