"""Who is never refused anything, as ranges of uids for the kernel: who passes, and who is only counted."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from smtpguard.enrich.accounts.known_accounts import KnownAccounts
from smtpguard.enrich.accounts.spellings import is_plain
from smtpguard.model import Account
from smtpguard.policy.standing import OVERFLOW_UID

Ranges = tuple[tuple[int, int], ...]
"""Inclusive ranges of uids."""
_PASSING = frozenset({"root", "mta", "exempt"})


class NeverRefused:
    """Root, mail servers and the exempt pass; system accounts, shared users and root's containers are counted.

    Args:
        known: The accounts.

    Attributes:
        uids: Accounts that pass, but for those that only exempt.uids names; as of the last `list_anew`.
    """

    def __init__(self, known: KnownAccounts) -> None:
        self._known = known
        self.uids: frozenset[int] = frozenset()
        self._passing: tuple[tuple[int, int], Ranges] | None = None  # as of when, and they
        self._told: tuple[int, Ranges] | None = None

    def list_anew(self) -> frozenset[int]:
        """Find out who passes now; the uids of whom that is news."""
        before, self.uids = self.uids, self._list_passing()
        return before ^ self.uids

    def mail_servers(self) -> list[Account]:
        """Accounts that are mail servers', by uid."""
        return [account for uid in sorted(self.uids) if (account := self._known.account(uid)).standing == "mta"]

    def passing_uids(self) -> Ranges:
        """Root, mail servers, the exempt and their subordinate uids."""
        known, passing = self._known, self._passing
        if passing is None or passing[0] != (known.times_rebuilt, known.times_exempted):
            ranges = self._find_passing_ranges()
            # Those that the list itself was the first to ask for are in it.
            passing = self._passing = ((known.times_rebuilt, known.times_exempted), ranges)
        return passing[1]

    def told_uids(self) -> Ranges:
        """System accounts, shared users, root's containers; not those that the configuration lets be blocked."""
        told, as_of = self._told, self._known.times_rebuilt
        if told is None or told[0] != as_of:
            told = self._told = (as_of, self._find_told())
        return told[1]

    def _find_passing_ranges(self) -> Ranges:
        passing = [(0, 0), *self._known.settings.exempt.uids]
        for uid in self._list_passing():
            passing.append((uid, uid))
            passing += [(first, first + count - 1) for first, count in self._known.account(uid).ranges]
        return tuple(_merge(sorted(passing)))

    def _find_told(self) -> Ranges:
        known = self._known
        below = known.snapshot.facts.uid_min - 1
        told: list[tuple[int, int]] = []
        first = 1
        for uid in sorted({*known.uids(), OVERFLOW_UID}):
            # Not kept: 20,000 of them would be 8 MB, and 50 ms for each collection of garbage.
            account = known.judged.get(uid) or known.build(uid)
            is_told = account.standing == "shared" and known.settings.shared_block.isdisjoint(account.names)
            if uid > below:
                if is_told:
                    told.append((uid, uid))
            elif uid and account.standing in ("tenant", "shared") and not is_told:
                told.append((first, uid - 1))
                first = uid + 1
        told.append((first, below))
        told += [(r.first, r.last) for r in known.ranges.ranges if r.owner == 0]
        return tuple(_merge(sorted(part for part in told if part[0] <= part[1])))

    def _list_passing(self) -> frozenset[int]:
        return frozenset(uid for uid in self._find_passing() if self._known.account(uid).standing in _PASSING)

    def _find_passing(self) -> Iterator[int]:
        """Uids that may be exempt or a mail server's: all that are, and not many more."""
        known = self._known
        snapshot = known.snapshot
        yield from snapshot.facts.mta_uids
        yield from {r.owner for r in known.ranges.ranges}
        exempt = known.settings.exempt
        plain = set(filter(is_plain, exempt.users))
        patterns = [pattern for pattern in exempt.users if pattern not in plain]
        for uid, names in snapshot.passwd.names.items():
            if (
                uid < snapshot.facts.uid_min
                or not plain.isdisjoint(names)
                or any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
                or (exempt.groups and not known.groups_of(uid, names).isdisjoint(exempt.groups))
            ):
                yield uid
        for uid, account in list(known.judged.items()):
            if account.standing in ("mta", "exempt"):
                yield uid
        yield from known.spelled


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


def subtract_uids(ranges: Iterable[tuple[int, int]], uids: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Inclusive uid ranges without some uids; root always stays in."""
    left = list(ranges)
    for uid in set(uids) - {0}:
        left = [
            part
            for first, last in left
            for part in (((first, uid - 1), (uid + 1, last)) if first <= uid <= last else ((first, last),))
            if part[0] <= part[1]
        ]
    return tuple(left)
