"""The accounts that memory holds: what the host's files and a directory say of a uid, judged by the configuration."""

from collections.abc import Sequence
from typing import Protocol

from smtpguard.enrich.accounts.inside_ranges import InsideRanges
from smtpguard.enrich.accounts.name_service import NamedAccount, NameService
from smtpguard.enrich.accounts.snapshot import Snapshot
from smtpguard.enrich.accounts.spellings import list_spellings, may_be_name
from smtpguard.fast_dataclass import quick_maker
from smtpguard.model import Account, Customer
from smtpguard.policy.standing import AccountFacts, decide_standing
from smtpguard.settings import Settings

MAX_CACHED = 250_000
NO_GROUPS: frozenset[str] = frozenset()
"""One for all whom nobody knows: each empty set takes 216 bytes."""
MAX_FOREIGN = 2000
"""Accounts outside /etc/passwd whose answers are kept fresh."""
_make_facts = quick_maker(AccountFacts, "uid", "names", "groups", "document_roots")
_make_account = quick_maker(Account, "uid", "name", "standing", "reason", "aliases", "groups", "ranges", "customer")


class CountSites(Protocol):
    """Knows sites."""

    def __call__(self, uid: int, /) -> int:
        """How many run under a uid, from files that only root can write; 0 if nobody knows."""
        ...


class Customers(Protocol):
    """Knows whose accounts are, from memory."""

    def find(self, names: Sequence[str], /) -> Customer | None:
        """Whose the account of some login names is; None if nobody knows (yet)."""
        ...

    def find_reseller(self, customer: Customer, /) -> Customer | None:
        """Who sold an account to a customer; None if nobody did, or nobody knows."""
        ...

    def owners(self, text: str, /) -> Sequence[str]:
        """The login names of all that own a domain, or that of an address, which a person wrote; it may be anything."""
        ...


class KnownAccounts:
    """Every account that somebody has asked for, and what the others are made of once they do.

    Args:
        settings: The configuration, for who is exempt and shared.
        snapshot: What the files say.
        names: Who knows accounts that /etc/passwd does not hold; None if nobody does.
        inside: What is known of directory accounts inside subordinate ranges; None without a name service.
        document_roots: How many sites run under a uid.
        customers: Whose an account is; None if no panel is asked.

    Attributes:
        settings: The configuration in force.
        snapshot: What the files say.
        names: Who is asked for accounts that /etc/passwd does not hold.
        inside: Who tells of directory accounts inside subordinate ranges.
        customers: Who knows whose an account is; None if no panel is asked.
        ranges: Subordinate ranges as they count, without the accounts of a directory that lie inside.
        judged: The accounts that somebody has asked for, by uid.
        spelled: Uid to the configured names by which a directory knows it.
        untold: Uids that a look-up has made another account's, until somebody is told.
        times_rebuilt: How often all, or the ranges, may have become others.
        times_exempted: How often a mail server or an exempt account came or went besides.
    """

    def __init__(
        self,
        settings: Settings,
        snapshot: Snapshot,
        *,
        names: NameService | None,
        inside: InsideRanges | None,
        document_roots: CountSites | None,
        customers: Customers | None = None,
    ) -> None:
        self.settings = settings
        self.snapshot = snapshot
        self.names = names
        self.inside = inside
        self.ranges = snapshot.ranges
        self.judged: dict[int, Account] = {}
        self.spelled: dict[int, tuple[str, ...]] = {}
        self.untold: set[int] = set()
        self.times_rebuilt = 0
        self.times_exempted = 0
        self._document_roots = document_roots
        self.customers = customers
        self._foreign: set[int] = set()
        self._spellings = list_spellings(settings)

    def owner(self, uid: int) -> int:
        """The uid that a uid counts for: the owner of the subordinate range it lies in, else itself."""
        owner = self.ranges.owner(uid)
        if owner != uid and self.inside is not None:
            self.inside.ask(uid, owner)
        return owner

    def account(self, uid: int) -> Account:
        """The account of an owner uid; one without a name if nobody knows it (yet)."""
        account = self.judged.get(uid)
        if account is None:
            account = self.build(uid)
            if account.standing in ("mta", "exempt"):
                self.times_exempted += 1
            if len(self.judged) < MAX_CACHED:
                self.judged[uid] = account
        return account

    def uids(self) -> set[int]:
        """Uids of /etc/passwd, and of those accounts of a directory that were seen or are configured."""
        return {*self.snapshot.passwd.names, *self._foreign, *self.spelled}

    def forget(self, uid: int) -> None:
        """Have an account built anew when somebody asks for it."""
        old = self.judged.pop(uid, None)
        if old is not None and old.standing in ("mta", "exempt"):
            self.times_exempted += 1

    def is_another(self, uid: int) -> bool:
        """Build an account anew, and say whether it is another than before."""
        old = self.judged.get(uid)
        self.forget(uid)
        if old != self.account(uid):
            return True
        if old is not None and uid in self.judged:
            self.judged[uid] = old  # whoever holds it already and this table share one object
        return False

    # -- building ------------------------------------------------------------------------------------------------------

    def build(self, uid: int) -> Account:
        """Make an account, which is not kept."""
        snapshot = self.snapshot
        names = snapshot.passwd.names.get(uid, ())
        if names:
            login: str | None = names[0]
            groups = self.groups_of(uid, names)
        else:
            known = self._ask(uid)
            groups = known.groups if known else NO_GROUPS
            login = known.name if known else None
            names = tuple(dict.fromkeys(filter(None, (login, *self.spelled.get(uid, ())))))
        sites = self._document_roots(uid) if self._document_roots else 0
        standing, reason = decide_standing(_make_facts(uid, names, groups, sites), self.settings, snapshot.facts)
        ranges = self.ranges.of(uid) if uid != 0 else ()
        aliases = names if login is None else names[1:]
        customer = self.customers.find(names) if self.customers is not None else None
        return _make_account(uid, login, standing, reason, aliases, groups, ranges, customer)

    def groups_of(self, uid: int, names: tuple[str, ...]) -> frozenset[str]:
        """Groups of an account of /etc/passwd.

        Args:
            uid: Which.
            names: All its names.
        """
        groups = self.snapshot.groups
        found = {group for name in names for group in groups.of.get(name, ())}
        primary = groups.names.get(self.snapshot.passwd.gids[uid])
        if primary is not None:
            found.add(primary)
        return frozenset(found)

    def _ask(self, uid: int) -> NamedAccount | None:
        """What the C library is known to say of a uid; a subordinate uid is nobody's login."""
        if self.names is None or self.ranges.owner(uid) != uid:
            return None
        if len(self._foreign) < MAX_FOREIGN:
            self._foreign.add(uid)
        known = self.names.find(uid)
        if known is None or known.uid != uid or self.snapshot.passwd.uids.get(known.name, uid) != uid:
            return None  # by name it is the host's own account, which has the exemptions and limits of that name
        return known

    # -- what changes --------------------------------------------------------------------------------------------------

    def rebuild(self) -> frozenset[int]:
        """Judge all anew, by the files and the configuration as they are now; the uids whose account is another."""
        self._spellings = list_spellings(self.settings)
        self.cut_ranges()
        self.times_rebuilt += 1
        self.spelled = self._find_spelled()
        old, self.judged = self.judged, {}
        self._foreign.clear()
        return frozenset(uid for uid, account in old.items() if self.account(uid) != account)

    def cut_ranges(self) -> None:
        """Take the directory's accounts out of the ranges that the file gives to somebody."""
        before, ranges = self.ranges.ranges, self.snapshot.ranges
        self.ranges = ranges.without(self.inside.uids) if self.inside is not None and self.inside.uids else ranges
        if self.ranges.ranges != before:
            self.times_rebuilt += 1

    def take_news(self) -> frozenset[int]:
        """What the C library has said meanwhile; old answers are asked for again. The uids whose account is another."""
        if self.names is None:
            return frozenset()
        changed, self.untold = self.untold, set()
        news = self.names.take_news()
        before, self.spelled = self.spelled, self._find_spelled()
        uids = {key for key in news if isinstance(key, int)}
        changed |= self._take_insiders(frozenset(uid for uid in uids if self.names.find(uid) is None))
        uids |= {known.uid for key in news if isinstance(key, str) and (known := self.names.find(key)) is not None}
        uids |= {uid for uid in before.keys() | self.spelled.keys() if before.get(uid) != self.spelled.get(uid)}
        changed |= {uid for uid in uids if uid not in self.snapshot.passwd.names and self.is_another(uid)}
        for uid in self._foreign:
            self.names.find(uid)
        return frozenset(changed)

    def _take_insiders(self, gone: frozenset[int]) -> frozenset[int]:
        """Uids of ranges that have become accounts of their own, or are so no longer, and whose ranges they are in."""
        if self.inside is None:
            return frozenset()
        gone &= self.inside.uids
        found = self.inside.take_news() | gone
        self.inside.forget(gone)
        if not found:
            return frozenset()
        self.cut_ranges()
        self.times_rebuilt += 1
        changed = found | {self.snapshot.ranges.owner(uid) for uid in found}
        for uid in changed:
            self.forget(uid)
        return changed

    def _find_spelled(self) -> dict[int, tuple[str, ...]]:
        """Uid to configured names, by a directory: whoever is in /etc/passwd is called as it says."""
        found: dict[int, tuple[str, ...]] = {}
        if self.names is not None:
            for name in sorted(self._spellings.difference(self.snapshot.passwd.uids)):
                known = self.names.find(name) if may_be_name(name) else None
                if known is not None and known.uid not in self.snapshot.passwd.names:
                    found[known.uid] = (*found.get(known.uid, ()), name)
        return found
