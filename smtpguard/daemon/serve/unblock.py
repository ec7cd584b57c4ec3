"""`unblock`, said once: whom a request means, what becomes of their blocks, and what people and fail2ban are told.

Where the blocks are is somebody else's business: a running guard has them (handlers.py), or only the kernel and the
state file do (standalone/unblock.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smtpguard.actions.fail2ban import parse_jail
from smtpguard.daemon.serve.requests import BlockRequest, Request, UnblockRequest, UserRequest
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import GuardError
from smtpguard.model import Account
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.text import render_look, render_user, render_words

MAX_REASON = 500
_MAX_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """One block or throttle that ended.

    Attributes:
        user: Whose, as the event log writes them.
        source: Who had asked for it; None where that is not known.
        ids: What they are called where it was asked for; empty for as the event log writes them.
        was_dry: Nothing was refused by it.
    """

    user: str
    source: str | None
    ids: Sequence[str] = ()
    was_dry: bool = False


class Blocks(Protocol):
    """Where the blocks are, and how they end there."""

    how: str
    """What else an end does there, a sentence for people."""
    where: str
    """Where was looked, for people; "" where it goes without saying."""

    def end(self, account: Account, *, source: str, reason: str) -> bool:
        """End one source's block of an account, and nothing else; whether there was one."""

    def unblock(self, account: Account | None, *, reason: str) -> Sequence[Freed]:
        """End all blocks and throttles of an account, of everybody for None, and forget what led to them."""


class ForgetInJail(Protocol):
    """Has a jail forget somebody whom a person has freed."""

    def __call__(self, *, jail: str, known_as: str) -> None:
        """Tell it.

        Args:
            jail: Its name.
            known_as: What the user is called there.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Unblocked:
    """What was done.

    Attributes:
        text: For people.
        freed: Whose blocks ended, as the event log writes them.
    """

    text: str
    freed: list[str]


def find_account(accounts: AccountDirectory, *, user: str, uid: int | None, from_fail2ban: bool = False) -> Account:
    """The account that a request is about.

    Args:
        accounts: Who is who.
        user: A name, or uid:N; from a person a domain that an account owns, or an address at one, too.
        uid: A number beside it, from fail2ban.
        from_fail2ban: In a jail an account is called as in the event log: digits are a name.

    Raises:
        GuardError: There is none, or the number is somebody else's now.
        UnansweredError: Nobody can say yet.
    """
    if from_fail2ban and uid is not None:
        account = account_of(accounts, subject_of(accounts, uid))
        called = {render_user(account.uid, known) for known in account.names}
        if user and called and user not in called | {f"uid:{uid}"}:
            raise GuardError(f"uid {uid} is {render_user(account.uid, account.name)} now, not {render_words(user)}")
        return account
    if from_fail2ban and (namesake := accounts.lookup.find_namesake(user)) is not None:
        return accounts.account(namesake)
    find = accounts.lookup.by_name if from_fail2ban else accounts.lookup.by_person
    found = find(user) if user else None
    if found is None:
        raise GuardError(f'No account "{render_words(user)}" on this host. Give a login name, or uid:N.')
    return found


def unblock(
    request: UnblockRequest, *, accounts: AccountDirectory, blocks: Blocks, tell_fail2ban: ForgetInJail
) -> Unblocked:
    """End blocks as a request says.

    Args:
        request: Whom; with a source, only that source's block.
        accounts: Who is who.
        blocks: Where the blocks are.
        tell_fail2ban: Called for each block of a jail that a person ended; never when a jail ends its own.

    Raises:
        GuardError: Whom is not known, or it could not be done.
    """
    reason = request.reason[:MAX_REASON]
    if request.source:
        account = find_account(accounts, user=request.user, uid=request.uid, from_fail2ban=True)
        user = render_user(account.uid, account.name)
        if blocks.end(account, source=request.source, reason=reason):
            return Unblocked(text=f"{user}: the block of {request.source} ended", freed=[user])
        return Unblocked(text=f"{user}: no block of {request.source}", freed=[])
    wanted = None if request.everybody else find_account(accounts, user=request.user, uid=request.uid)
    freed: dict[str, bool] = {}
    for end in blocks.unblock(wanted, reason=reason):
        freed[end.user] = freed.get(end.user, False) or not end.was_dry
        jail = None if end.source is None else parse_jail(end.source)
        if jail is not None:
            for known_as in end.ids or (end.user,):
                tell_fail2ban(jail=jail, known_as=known_as)
    if not freed:
        where = f" ({blocks.where})" if blocks.where else ""
        if wanted is None:
            return Unblocked(text=f"Nobody is blocked by smtpguard{where}.", freed=[])
        user = render_user(wanted.uid, wanted.name)
        hint = f"If mail still fails: {render_look(user)}"
        return Unblocked(text=f"{user} is not blocked by smtpguard{where}. {hint}", freed=[])
    refused = [user for user, was_refused in freed.items() if was_refused]
    passed = [user for user, was_refused in freed.items() if not was_refused]
    told = [f"{_join(refused)} may send again."] if refused else []
    told += [f"Nothing of {_join(passed)} was refused (dry run)."] if passed else []
    return Unblocked(text=" ".join((*told, blocks.how)), freed=list(freed))


def _join(users: Sequence[str]) -> str:
    more = f" and {len(users) - _MAX_SHOWN} more" if len(users) > _MAX_SHOWN else ""
    return ", ".join(users[:_MAX_SHOWN]) + more


def tell_digits(request: Request, accounts: AccountDirectory) -> str:
    """What to add to an answer: whose a domain is, and whom digits mean that are a uid and somebody's name, too."""
    if not isinstance(request, UserRequest) or request.uid is not None:
        return ""
    name = request.user
    namesake = accounts.lookup.find_namesake(name)
    if namesake is None:
        return accounts.lookup.tell_domain(name) if not getattr(request, "source", "") else ""
    if isinstance(request, BlockRequest | UnblockRequest) and request.source:
        return f"{name} was taken as the name of uid:{namesake}; the uid would be uid:{name.lstrip('0') or '0'}"
    return f"{name} was taken as a uid; the account called {name} is uid:{namesake}"
