"""Who is who on this host: the accounts behind uids, as policy asks for them (policy/directory.py).

Answers come from memory: a snapshot of the host's files (snapshot.py), and what the C library has said in the
background of whom /etc/passwd does not hold (name_service.py). `refresh` notices changed files, so that a uid given to
another name is another account from then on (THREATS 5). All that is read stands in parts that know nothing of the
directory, so that `adopt` takes over those of another one, which a thread has made.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from smtpguard.enrich.accounts.inside_ranges import InsideRanges
from smtpguard.enrich.accounts.known_accounts import CountSites, Customers, KnownAccounts
from smtpguard.enrich.accounts.lookup import AccountLookup
from smtpguard.enrich.accounts.name_service import NameService
from smtpguard.enrich.accounts.never_refused import NeverRefused
from smtpguard.enrich.accounts.snapshot import Snapshot, is_changed, read_snapshot
from smtpguard.enrich.accounts.spellings import list_spellings, may_be_name
from smtpguard.errors import UnansweredError
from smtpguard.model import Account, Customer
from smtpguard.policy.standing import HostFacts
from smtpguard.settings import Settings

MAX_TOLD = 20
"""Directory accounts inside subordinate ranges that are named to people."""
ANSWER_TIMEOUT_S = 1.0
"""How long a person's command waits for the C library to know a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """All accounts read anew, to be taken over.

    Attributes:
        accounts: They.
        compared: Accounts of before that were compared, by uid.
        changed: Uids whose account is another.
    """

    accounts: "AccountDirectory"
    compared: dict[int, Account]
    changed: frozenset[int]


class AccountDirectory:
    """All accounts of the host; a `policy.directory.Directory`.

    Args:
        settings: The configuration, for who is exempt and shared.
        root: Where the host's file system is; "/" but in tests.
        names: Who knows accounts that /etc/passwd does not hold; by default the C library, and nobody in tests that
            give a root of their own.
        document_roots: How many sites run under a uid, from files that only root can write; 0 if nobody knows.
        customers: Who knows whose an account is, by a panel; None if none is asked.
        patience_s: How long a look-up for a person waits for the C library; 0 in the daemon, which must not wait.
        before: What the files said the last time.
        inside: What is known of directory accounts inside subordinate ranges; None to begin with nothing.

    Attributes:
        lookup: Finds accounts by what people write.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        root: str | os.PathLike[str] = "/",
        names: NameService | None = None,
        document_roots: CountSites | None = None,
        customers: Customers | None = None,
        patience_s: float = ANSWER_TIMEOUT_S,
        before: Snapshot | None = None,
        inside: InsideRanges | None = None,
    ) -> None:
        self._root = Path(root)
        self._document_roots = document_roots
        self._customers = customers
        self._patience_s = patience_s
        if names is None and self._root == Path("/"):
            names = NameService()
        self._known = KnownAccounts(
            settings,
            before or Snapshot(),
            names=names,
            inside=inside or (InsideRanges(names) if names is not None else None),
            document_roots=document_roots,
            customers=customers,
        )
        self._never_refused = NeverRefused(self._known)
        self.lookup = AccountLookup(self._known, patience_s)
        self.refresh(force=True)

    # -- what policy asks ----------------------------------------------------------------------------------------------

    def owner(self, uid: int) -> int:
        """The uid that a uid counts for: the owner of the subordinate range it lies in, else itself."""
        return self._known.owner(uid)

    def account(self, uid: int) -> Account:
        """The account of an owner uid; one without a name if nobody knows it (yet)."""
        return self._known.account(uid)

    def find_reseller(self, customer: Customer) -> Customer | None:
        """Who sold an account to a customer; None if nobody did, or nobody knows."""
        return None if self._customers is None else self._customers.find_reseller(customer)

    # -- what the daemon asks ------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self._known.settings

    @property
    def facts(self) -> HostFacts:
        """What the host's files say: UID_MIN, mail servers' uids."""
        return self._known.snapshot.facts

    @property
    def names(self) -> NameService | None:
        """Who is asked for accounts that /etc/passwd does not hold; None if nobody is."""
        return self._known.names

    @property
    def inside(self) -> InsideRanges | None:
        """Who tells of directory accounts inside subordinate ranges; None without a name service."""
        return self._known.inside

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the host's files was left out, and why."""
        inside = sorted(self.inside.uids)[:MAX_TOLD] if self.inside is not None else ()
        snapshot = self._known.snapshot
        owner = snapshot.ranges.owner
        return (
            *snapshot.problems,
            *(
                f"subuid: uid {uid} is an account of a directory in a range of uid {owner(uid)}: "
                "it counts for itself, although they may become it"
                for uid in inside
                if owner(uid) != uid
            ),
        )

    def ranges(self) -> tuple[tuple[int, int, int], ...]:
        """Subordinate ranges as (first, count, owner), ascending; root's are not among them: those are containers."""
        return tuple((r.first, r.count, r.owner) for r in self._known.ranges.ranges if r.owner != 0)

    def passing_uids(self) -> tuple[tuple[int, int], ...]:
        """Inclusive uid ranges that are never refused: root, mail servers, the exempt and their subordinate uids."""
        return self._never_refused.passing_uids()

    def told_uids(self) -> tuple[tuple[int, int], ...]:
        """Inclusive uid ranges that are counted and never refused: system accounts, shared users, root's containers.

        Not those that the configuration lets be blocked.
        """
        return self._never_refused.told_uids()

    def known_uids(self) -> tuple[int, ...]:
        """Uids of /etc/passwd, and of those accounts of a directory that were seen or are configured, ascending."""
        return tuple(sorted(self._known.uids()))

    def listed_uids(self) -> tuple[int, ...]:
        """Uids of /etc/passwd, ascending."""
        return tuple(sorted(self._known.snapshot.passwd.names))

    def mail_servers(self) -> list[Account]:
        """Accounts that are mail servers', by uid."""
        return self._never_refused.mail_servers()

    # -- what changes --------------------------------------------------------------------------------------------------

    def is_stale(self) -> bool:
        """Whether files have changed since they were read: some 20 calls of stat(2)."""
        return is_changed(self._known.snapshot)

    def refresh(self, *, force: bool = False) -> frozenset[int]:
        """Look whether files have changed, and read them again if so.

        Args:
            force: Read them anyway.

        Returns:
            Uids whose account is another than was known before; empty if there is nothing to tell to anybody.
        """
        if not (force or self.is_stale()):
            return self.take_news()
        known = self._known
        ranges = known.ranges.ranges
        known.snapshot = read_snapshot(self._root, known.snapshot, uid_min=known.settings.uid_min)
        changed = known.rebuild()
        # Accounts nobody has asked for yet matter too: they are in what the kernel is told.
        changed |= self._never_refused.list_anew()
        return changed | {r.owner for r in {*ranges}.symmetric_difference(known.ranges.ranges)}

    @property
    def has_untold(self) -> bool:
        """Whether a look-up for a person has just found out that a uid is another account's than was known."""
        return bool(self._known.untold)

    def take_news(self) -> frozenset[int]:
        """What the C library has said meanwhile; old answers are asked for again. The uids whose account is another."""
        return self._known.take_news()

    def wait_for_spellings(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Wait until the C library has said whom the configured names mean: commands run once, a guard begins once.

        Args:
            timeout_s: How long at most.
        """
        deadline = time.monotonic() + timeout_s
        if self.names is None:
            return
        for name in sorted(list_spellings(self.settings)):
            if may_be_name(name) and name not in self._known.snapshot.passwd.uids:
                with contextlib.suppress(UnansweredError):
                    self.names.wait_for(name, max(0.0, deadline - time.monotonic()))
        self.take_news()

    def reconfigure(self, settings: Settings) -> frozenset[int]:
        """Take a new configuration; the uids whose account is another by it.

        Args:
            settings: The whole new configuration.
        """
        self._known.settings = settings
        return self._known.rebuild()

    # -- what a thread reads beside the loop ---------------------------------------------------------------------------

    def renew(self, settings: Settings) -> Renewal:
        """Read all files again and find out what is another; changes nothing here, so a thread may do it.

        Args:
            settings: The configuration that is to hold.
        """
        known = self._known
        fresh = AccountDirectory(
            settings,
            root=self._root,
            names=known.names,
            document_roots=self._document_roots,
            customers=self._customers,
            patience_s=self._patience_s,
            before=known.snapshot,
            inside=known.inside,
        )
        compared, passing, ranges = dict(known.judged), self._never_refused.uids, known.ranges.ranges
        changed = {uid for uid, account in compared.items() if fresh.account(uid) != account}
        changed |= passing ^ fresh._never_refused.uids
        changed |= {r.owner for r in {*ranges}.symmetric_difference(fresh._known.ranges.ranges)}
        fresh.passing_uids()
        # What the kernel is told of accounts that nobody has asked for.
        changed |= {first for first, _ in {*self.told_uids()} ^ {*fresh.told_uids()}}
        return Renewal(accounts=fresh, compared=compared, changed=frozenset(changed))

    @staticmethod
    def fits(renewal: Renewal, settings: Settings) -> bool:
        """Whether accounts that were read anew are what they are by a configuration, too."""
        return _list_concerns(renewal.accounts.settings) == _list_concerns(settings)

    def adopt(self, renewal: Renewal, settings: Settings | None = None) -> frozenset[int]:
        """Take over what was read; the uids whose account is another.

        Args:
            renewal: Read a moment ago. If the configuration has changed since in what concerns accounts, it is left.
            settings: The configuration in force from now on; None for the one that is.
        """
        settings = settings or self.settings
        fresh: AccountDirectory = renewal.accounts
        if not self.fits(renewal, settings):
            return frozenset()
        # Whom somebody has asked for meanwhile, and what the C library has said meanwhile.
        before, known = self._known, fresh._known
        late = {uid: account for uid, account in before.judged.items() if renewal.compared.get(uid) is not account}
        known.settings, known.untold = settings, before.untold
        self._known, self._never_refused, self.lookup = known, fresh._never_refused, fresh.lookup
        known.cut_ranges()  # of whom a directory has told meanwhile
        for uid in late:
            known.forget(uid)
        return renewal.changed | {uid for uid, account in late.items() if known.account(uid) != account}


def _list_concerns(settings: Settings) -> tuple[object, ...]:
    """What of the configuration accounts depend on."""
    return (
        settings.exempt,
        settings.shared_users,
        settings.shared_shipped,
        settings.shared_block,
        settings.overrides,
        settings.uid_min,
    )
