"""Who is who on this host: the accounts behind uids, as policy asks for them (policy/directory.py).

Answers come from memory: a snapshot of the host's files (snapshot.py), and what the C library has said in the
background of whom /etc/passwd does not hold (names.py). `refresh` notices changed files, so that a uid given to another
name is another account from then on (THREATS 5).
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from smtpguard.enrich.accounts.inside_ranges import InsideRanges
from smtpguard.enrich.accounts.name_service import NamedAccount, NameService
from smtpguard.enrich.accounts.nss import find_group
from smtpguard.enrich.accounts.snapshot import Snapshot, is_changed, read_snapshot
from smtpguard.enrich.accounts.spellings import is_plain, list_spellings, may_be_name, parse_uid, unescape_name
from smtpguard.errors import UnansweredError
from smtpguard.fast_dataclass import quick_maker
from smtpguard.model import Account
from smtpguard.policy.standing import OVERFLOW_UID, AccountFacts, HostFacts, decide_standing
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.settings import Settings
from smtpguard.text import render_escaped, to_bytes

MAX_CACHED = 250_000
MAX_FOREIGN = 2000
"""Accounts outside /etc/passwd whose answers are kept fresh."""
MAX_TOLD = 20
"""Directory accounts inside subordinate ranges that are named to people."""
ANSWER_TIMEOUT_S = 1.0
"""How long a person's command waits for the C library to know a name."""
Ranges = tuple[tuple[int, int], ...]
_PASSING = frozenset({"root", "mta", "exempt"})
_make_facts = quick_maker(AccountFacts, "uid", "names", "groups", "document_roots")
_make_account = quick_maker(Account, "uid", "name", "standing", "reason", "aliases", "groups", "packages", "ranges")
_NO_PACKAGES: frozenset[str] = frozenset()


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


class CountSites(Protocol):
    """Knows sites."""

    def __call__(self, uid: int, /) -> int:
        """How many run under a uid, from files that only root can write; 0 if nobody knows."""
        ...


class AccountDirectory:
    """All accounts of the host; a `policy.directory.Directory`.

    Args:
        settings: The configuration, for who is exempt and shared.
        root: Where the host's file system is; "/" but in tests.
        names: Who knows accounts that /etc/passwd does not hold; by default the C library, and nobody in tests that
            give a root of their own.
        document_roots: How many sites run under a uid, from files that only root can write; 0 if nobody knows.
        patience_s: How long a look-up for a person waits for the C library; 0 in the daemon, which must not wait.
        before: What the files said the last time.
        inside: What is known of directory accounts inside subordinate ranges; None to begin with nothing.

    Attributes:
        settings: The configuration in force.
        inside: Who tells of directory accounts inside subordinate ranges; None without a name service.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        root: str | os.PathLike[str] = "/",
        names: NameService | None = None,
        document_roots: CountSites | None = None,
        patience_s: float = ANSWER_TIMEOUT_S,
        before: Snapshot | None = None,
        inside: InsideRanges | None = None,
    ) -> None:
        self.settings = settings
        self._root = Path(root)
        self._names = names if names is not None else NameService() if self._root == Path("/") else None
        self._document_roots = document_roots
        self._patience_s = patience_s
        self._snapshot = before or Snapshot()
        self.inside = inside or (InsideRanges(self._names) if self._names is not None else None)
        self._ranges = self._snapshot.ranges
        self._accounts: dict[int, Account] = {}
        self._foreign: set[int] = set()
        self._untold: set[int] = set()
        self._spellings = list_spellings(settings)
        self._spelled: dict[int, tuple[str, ...]] = {}
        self._passing: frozenset[int] = frozenset()
        self._passing_ranges: Ranges | None = None
        self._told_ranges: Ranges | None = None
        self.refresh(force=True)

    # -- what policy asks ----------------------------------------------------------------------------------------------

    def owner(self, uid: int) -> int:
        """The uid that a uid counts for: the owner of the subordinate range it lies in, else itself."""
        owner = self._ranges.owner(uid)
        if owner != uid and self.inside is not None:
            self.inside.ask(uid, owner)
        return owner

    def account(self, uid: int) -> Account:
        """The account of an owner uid; one without a name if nobody knows it (yet)."""
        account = self._accounts.get(uid)
        if account is None:
            account = self._build(uid)
            if account.standing in ("mta", "exempt"):
                self._passing_ranges = None
            if len(self._accounts) < MAX_CACHED:
                self._accounts[uid] = account
        return account

    # -- what the daemon asks ------------------------------------------------------------------------------------------

    @property
    def facts(self) -> HostFacts:
        """What the host's files say: UID_MIN, mail servers' uids."""
        return self._snapshot.facts

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the host's files was left out, and why."""
        inside = sorted(self.inside.uids)[:MAX_TOLD] if self.inside is not None else ()
        owner = self._snapshot.ranges.owner
        return (
            *self._snapshot.problems,
            *(
                f"subuid: uid {uid} is an account of a directory in a range of uid {owner(uid)}: "
                "it counts for itself, although they may become it"
                for uid in inside
                if owner(uid) != uid
            ),
        )

    def ranges(self) -> tuple[tuple[int, int, int], ...]:
        """Subordinate ranges as (first, count, owner), ascending; root's are not among them: those are containers."""
        return tuple((r.first, r.count, r.owner) for r in self._ranges.ranges if r.owner != 0)

    def passing_uids(self) -> tuple[tuple[int, int], ...]:
        """Inclusive uid ranges that are never refused: root, mail servers, the exempt and their subordinate uids."""
        if self._passing_ranges is None:
            passing = [(0, 0), *self.settings.exempt.uids]
            for uid in self._list_passing():
                passing.append((uid, uid))
                passing += [(first, first + count - 1) for first, count in self.account(uid).ranges]
            self._passing_ranges = tuple(_merge(sorted(passing)))
        return self._passing_ranges

    def told_uids(self) -> tuple[tuple[int, int], ...]:
        """Inclusive uid ranges that are counted and never refused: system accounts, shared users, root's containers.

        Not those that the configuration lets be blocked.
        """
        if self._told_ranges is None:
            self._told_ranges = self._find_told()
        return self._told_ranges

    def _find_told(self) -> Ranges:
        below = self.facts.uid_min - 1
        told: list[tuple[int, int]] = []
        first = 1
        for uid in sorted({*self.known_uids(), OVERFLOW_UID}):
            # Not kept: 20,000 of them would be 8 MB, and 50 ms for each collection of garbage.
            account = self._accounts.get(uid) or self._build(uid)
            is_told = account.standing == "shared" and self.settings.shared_block.isdisjoint(account.names)
            if uid > below:
                if is_told:
                    told.append((uid, uid))
            elif uid and account.standing in ("tenant", "shared") and not is_told:
                told.append((first, uid - 1))
                first = uid + 1
        told.append((first, below))
        told += [(r.first, r.last) for r in self._ranges.ranges if r.owner == 0]
        return tuple(_merge(sorted(part for part in told if part[0] <= part[1])))

    def known_uids(self) -> tuple[int, ...]:
        """Uids of /etc/passwd, and of those accounts of a directory that were seen or are configured, ascending."""
        return tuple(sorted({*self._snapshot.passwd.names, *self._foreign, *self._spelled}))

    def listed_uids(self) -> tuple[int, ...]:
        """Uids of /etc/passwd, ascending."""
        return tuple(sorted(self._snapshot.passwd.names))

    def mail_servers(self) -> list[Account]:
        """Accounts that are mail servers', by uid."""
        return [account for uid in sorted(self._passing) if (account := self.account(uid)).standing == "mta"]

    @property
    def names(self) -> NameService | None:
        """Who is asked for accounts that /etc/passwd does not hold; None if nobody is."""
        return self._names

    def refresh(self, *, force: bool = False) -> frozenset[int]:
        """Look whether files have changed, and read them again if so.

        Args:
            force: Read them anyway.

        Returns:
            Uids whose account is another than was known before; empty if there is nothing to tell to anybody.
        """
        if force or is_changed(self._snapshot):
            passing, ranges = self._passing, set(self._ranges.ranges)
            self._snapshot = read_snapshot(self._root, self._snapshot, uid_min=self.settings.uid_min)
            changed = self._rebuild()
            # Accounts nobody has asked for yet matter too: they are in what the kernel is told.
            self._passing = self._list_passing()
            changed |= passing ^ self._passing
            return changed | {r.owner for r in ranges.symmetric_difference(self._ranges.ranges)}
        return self.take_news()

    def is_stale(self) -> bool:
        """Whether files have changed since they were read: some 20 calls of stat(2)."""
        return is_changed(self._snapshot)

    def renew(self, settings: Settings) -> Renewal:
        """Read all files again and find out what is another; changes nothing here, so a thread may do it.

        Args:
            settings: The configuration that is to hold.
        """
        fresh = AccountDirectory(
            settings,
            root=self._root,
            names=self._names,
            document_roots=self._document_roots,
            patience_s=self._patience_s,
            before=self._snapshot,
            inside=self.inside,
        )
        compared, passing, ranges = dict(self._accounts), self._passing, self._ranges.ranges
        changed = {uid for uid, account in compared.items() if fresh.account(uid) != account}
        changed |= passing ^ fresh._passing
        changed |= {r.owner for r in {*ranges}.symmetric_difference(fresh._ranges.ranges)}
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
        fresh = renewal.accounts
        if not self.fits(renewal, settings):
            return frozenset()
        # Whom somebody has asked for meanwhile, and what the C library has said meanwhile.
        late = {uid: known for uid, known in self._accounts.items() if renewal.compared.get(uid) is not known}
        vars(self).update(vars(fresh), settings=settings, _untold=self._untold)
        ranges = self._ranges.ranges
        self._cut_ranges()  # of whom a directory has told meanwhile
        if self._ranges.ranges != ranges:
            self._passing_ranges = self._told_ranges = None
        for uid in late:
            self._forget(uid)
        return renewal.changed | {uid for uid, account in late.items() if self.account(uid) != account}

    def _forget(self, uid: int) -> None:
        """Have an account built anew when somebody asks for it."""
        old = self._accounts.pop(uid, None)
        if old is not None and old.standing in ("mta", "exempt"):
            self._passing_ranges = None

    def take_news(self) -> frozenset[int]:
        """What the C library has said meanwhile; old answers are asked for again."""
        if self._names is None:
            return frozenset()
        changed, self._untold = self._untold, set()
        news = self._names.take_news()
        before, self._spelled = self._spelled, self._find_spelled()
        uids = {key for key in news if isinstance(key, int)}
        changed |= self._take_insiders(frozenset(uid for uid in uids if self._names.find(uid) is None))
        uids |= {known.uid for key in news if isinstance(key, str) and (known := self._names.find(key)) is not None}
        uids |= {uid for uid in before.keys() | self._spelled.keys() if before.get(uid) != self._spelled.get(uid)}
        for uid in uids:
            if uid not in self._snapshot.passwd.names:
                old = self._accounts.get(uid)
                self._forget(uid)
                if old != self.account(uid):
                    changed.add(uid)
        for uid in self._foreign:
            self._names.find(uid)
        return frozenset(changed)

    def reconfigure(self, settings: Settings) -> frozenset[int]:
        """Take a new configuration; the uids whose account is another by it.

        Args:
            settings: The whole new configuration.
        """
        self.settings = settings
        self._spellings = list_spellings(settings)
        return self._rebuild()

    # -- what people ask -----------------------------------------------------------------------------------------------

    def by_name(self, text: str) -> Account | None:
        """The account a person means: a login name; digits or `uid:N` are a uid. None if there is no such name.

        A name as the log writes it (`%2Dx`) is understood too, where nobody has exactly that name. A subordinate uid
        means its owner. May wait a second for the C library.

        Args:
            text: What the person wrote; may be anything.

        Raises:
            UnansweredError: Nobody has said (yet), or can say, whether there is such a name.
        """
        number = text.removeprefix("uid:")
        if number.isascii() and number.isdigit():
            return self._by_number(number)
        uid = self.find_uid(text)
        if uid is None and "%" in text:
            uid = self.find_uid(unescape_name(text))
        return None if uid is None else self.account(uid)

    def by_login(self, text: str) -> Account | None:
        """The account that the event log or fail2ban means: a login name as the log writes it, digits too, or `uid:N`.

        Args:
            text: A USER field; may be anything. May wait a second for the C library.
        """
        if text.startswith("uid:"):
            return self._by_number(text.removeprefix("uid:"))
        uid = self.find_uid(unescape_name(text)) if "%" in text else None
        if uid is None:
            uid = self.find_uid(text)
        return None if uid is None else self.account(uid)

    def find_namesake(self, text: str) -> int | None:
        """The uid of an account that is *called* what was taken as a number; None if there is none, or it is the same.

        Args:
            text: What a person wrote. Nobody is waited for.
        """
        uid = parse_uid(text)
        if uid is None:
            return None
        known = self._snapshot.passwd.uids.get(text)
        if known is None and self._names is not None and (answer := self._names.find(text)) is not None:
            known = answer.uid
        return None if known in (None, uid) else known

    def _by_number(self, digits: str) -> Account | None:
        uid = parse_uid(digits)
        return None if uid is None else account_of(self, subject_of(self, uid))

    def wait_for_spellings(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Wait until the C library has said whom the configured exempt names mean: for commands that run once.

        Args:
            timeout_s: How long at most.
        """
        deadline = time.monotonic() + timeout_s
        if self._names is None:
            return
        for name in filter(is_plain, self.settings.exempt.users):
            if may_be_name(name) and name not in self._snapshot.passwd.uids:
                with contextlib.suppress(UnansweredError):
                    self._names.wait_for(name, max(0.0, deadline - time.monotonic()))
        self.take_news()

    def group_name(self, name: str) -> str | None:
        """What the system calls a group; None if there is none. Asks the C library, which may wait.

        Args:
            name: Group name, as a directory may know it under several spellings.

        Raises:
            UnansweredError: Nobody can say.
        """
        if name in self._snapshot.groups.names.values():
            return name
        return find_group(name) if self._names is not None else None

    def find_uid(self, name: str) -> int | None:
        """The uid of a login name, and of nothing else; may wait a second for the C library. None if there is none.

        Args:
            name: Login name.

        Raises:
            UnansweredError: Nobody has said (yet), or can say.
        """
        uid = self._snapshot.passwd.uids.get(name)
        if uid is not None or self._names is None or not may_be_name(name):
            return uid
        try:
            found = self._names.wait_for(name, self._patience_s)
            if found is not None and found.uid not in self._snapshot.passwd.names:
                self._names.wait_for(found.uid, self._patience_s)
        except UnansweredError as error:
            raise UnansweredError(
                f"{render_escaped(to_bytes(name[:64]))} could not be looked up: {error.what}",
                fix="try again; uid:N needs no look-up",
                is_pending=error.is_pending,
            ) from error
        if found is None:
            return None
        if found.uid not in self._snapshot.passwd.names:
            old = self._accounts.get(found.uid)
            self._forget(found.uid)
            if old != self.account(found.uid):
                self._untold.add(found.uid)
        return found.uid

    # -- building ------------------------------------------------------------------------------------------------------

    def _build(self, uid: int) -> Account:
        snapshot = self._snapshot
        names = snapshot.passwd.names.get(uid, ())
        if names:
            login: str | None = names[0]
            groups = self._groups_of(uid, names)
        else:
            known = self._ask(uid)
            groups = known.groups if known else frozenset()
            login = known.name if known else None
            names = tuple(dict.fromkeys(filter(None, (login, *self._spelled.get(uid, ())))))
        sites = self._document_roots(uid) if self._document_roots else 0
        standing, reason = decide_standing(_make_facts(uid, names, groups, sites), self.settings, snapshot.facts)
        ranges = self._ranges.of(uid) if uid != 0 else ()
        aliases = names if login is None else names[1:]
        return _make_account(uid, login, standing, reason, aliases, groups, _NO_PACKAGES, ranges)

    def _ask(self, uid: int) -> NamedAccount | None:
        """What the C library is known to say of a uid; a subordinate uid is nobody's login."""
        if self._names is None or self._ranges.owner(uid) != uid:
            return None
        if len(self._foreign) < MAX_FOREIGN:
            self._foreign.add(uid)
        known = self._names.find(uid)
        if known is None or known.uid != uid or self._snapshot.passwd.uids.get(known.name, uid) != uid:
            return None  # by name it is the host's own account, which has the exemptions and limits of that name
        return known

    def _groups_of(self, uid: int, names: tuple[str, ...]) -> frozenset[str]:
        groups = self._snapshot.groups
        found = {group for name in names for group in groups.of.get(name, ())}
        primary = groups.names.get(self._snapshot.passwd.gids[uid])
        if primary is not None:
            found.add(primary)
        return frozenset(found)

    def _list_passing(self) -> frozenset[int]:
        """Uids of accounts that are never refused, but for those that only exempt.uids names."""
        return frozenset(uid for uid in self._find_passing() if self.account(uid).standing in _PASSING)

    def _find_passing(self) -> Iterator[int]:
        """Uids that may be exempt or a mail server's: all that are, and not many more."""
        snapshot = self._snapshot
        yield from snapshot.facts.mta_uids
        yield from {r.owner for r in self._ranges.ranges}
        exempt = self.settings.exempt
        plain = set(filter(is_plain, exempt.users))
        patterns = [pattern for pattern in exempt.users if pattern not in plain]
        for uid, names in snapshot.passwd.names.items():
            if (
                uid < snapshot.facts.uid_min
                or not plain.isdisjoint(names)
                or any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
                or (exempt.groups and not self._groups_of(uid, names).isdisjoint(exempt.groups))
            ):
                yield uid
        for uid, account in list(self._accounts.items()):
            if account.standing in ("mta", "exempt"):
                yield uid
        yield from self._spelled

    def _find_spelled(self) -> dict[int, tuple[str, ...]]:
        """Uid to the configured names by which a directory knows it: whoever is in /etc/passwd is called as it says."""
        found: dict[int, tuple[str, ...]] = {}
        if self._names is not None:
            for name in sorted(self._spellings.difference(self._snapshot.passwd.uids)):
                known = self._names.find(name) if may_be_name(name) else None
                if known is not None and known.uid not in self._snapshot.passwd.names:
                    found[known.uid] = (*found.get(known.uid, ()), name)
        return found

    def _cut_ranges(self) -> None:
        """Take the directory's accounts out of the ranges that the file gives to somebody."""
        ranges = self._snapshot.ranges
        self._ranges = ranges.without(self.inside.uids) if self.inside is not None and self.inside.uids else ranges

    def _take_insiders(self, gone: frozenset[int]) -> frozenset[int]:
        """Uids of ranges that have become accounts of their own, or are so no longer, and whose ranges they are in."""
        if self.inside is None:
            return frozenset()
        gone &= self.inside.uids
        found = self.inside.take_news() | gone
        self.inside.forget(gone)
        if not found:
            return frozenset()
        self._cut_ranges()
        self._passing_ranges = self._told_ranges = None
        changed = found | {self._snapshot.ranges.owner(uid) for uid in found}
        for uid in changed:
            self._forget(uid)
        return changed

    def _rebuild(self) -> frozenset[int]:
        self._cut_ranges()
        self._passing_ranges = self._told_ranges = None
        self._spelled = self._find_spelled()
        old, self._accounts = self._accounts, {}
        self._foreign.clear()
        return frozenset(uid for uid, account in old.items() if self.account(uid) != account)


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


def _merge(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted inclusive ranges, those that touch as one."""
    current: tuple[int, int] | None = None
    for first, last in ranges:
        if current is not None and first <= current[1] + 1:
            current = (current[0], max(current[1], last))
        else:
            if current is not None:
                yield current
            current = (first, last)
    if current is not None:
        yield current
