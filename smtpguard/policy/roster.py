"""Who is watched: finds the subject of an attempt, compiles its rules once, and bounds how many there are.

Tenants can't make accounts, but they can make network namespaces, and a container's root can take any uid. So there
are three pools that never take from one another: accounts with a name, uids without one, and other namespaces; in
the last, each namespace and each uid has a share of its own.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from smtpguard.model import Account, Allowance, Subject
from smtpguard.policy.block_spans import LATE_NS
from smtpguard.policy.compiled_rules import RulesByMode
from smtpguard.policy.directory import Directory
from smtpguard.policy.own_terms import OwnTerms
from smtpguard.policy.rule_windows import NEWCOMER_NS, RuleWindows
from smtpguard.policy.rules import compile_terms, override_index
from smtpguard.policy.subject_state import CONTAINER, HEARD, NEVER_REFUSED, NO_RECORDS, SHARED, SubjectState
from smtpguard.policy.subjects import HEARSAY, account_of, subject_of
from smtpguard.policy.windows import Bounds, KeyTable
from smtpguard.settings import Settings

if TYPE_CHECKING:
    from array import array

SWEEP = 1024
"""Subjects looked at in one sweep: well under a millisecond of work."""
Fast = tuple[RuleWindows, "array[int]", KeyTable | None, tuple[KeyTable, ...], SubjectState]
"""A lane's times, and its only table if that holds networks, else all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the engine may hold; not configurable, but smaller in tests.

    Attributes:
        accounts: Subjects with an account name; root alone makes those.
        nameless: Subjects without one, on the host's network.
        foreign: Subjects in other network namespaces.
        per_netns, per_uid: Of these, how many may share a scope, or an id.
        times: Attempts in all windows, beyond the first 64 of each user and port; 8 bytes each.
        keys: Addresses and networks in all windows, beyond the first 64 of each user and rule; about 200 bytes each.
    """

    accounts: int = 131_072
    nameless: int = 16_384
    foreign: int = 16_384
    per_netns: int = 1024
    per_uid: int = 64
    times: int = 16_000_000
    keys: int = 1_000_000


class IsBlocked(Protocol):
    """Knows who is blocked."""

    def __call__(self, subject: Subject, /) -> bool:
        """Whether a block is active for a subject."""
        ...


class Roster:
    """All subjects.

    Args:
        settings: The configuration.
        directory: Accounts.
        limits: How much may be held.
        held: Whether a subject must not be dropped, because a block is active for it.

    Attributes:
        bounds: What all windows together hold.
        fast: The lanes that the engine may use without a further look, by port and uid.
        evicted: How many subjects were dropped with their windows because a pool was full.
        active: Subjects whose windows may have changed, with how many exports found no change.
        gone: Parts of dropped subjects that were exported and are not exported as gone yet.
        own: What people said about single accounts; the allowances of it.
        off: Whether nothing is carried out, by a person's word.
    """

    def __init__(self, settings: Settings, directory: Directory, limits: Limits, held: IsBlocked) -> None:
        self._settings = settings
        self._directory = directory
        self._held = held
        self._watched: dict[Subject, SubjectState] = {}
        self._to_sweep: list[SubjectState] = []
        self._sizes: Counter[str] = Counter()
        self._maxima = {"accounts": limits.accounts, "nameless": limits.nameless, "foreign": limits.foreign}
        self._per_netns = limits.per_netns
        self._per_uid = limits.per_uid
        self._plans: dict[tuple[int | None, str], RulesByMode] = {}
        self._generation = 0
        self.off = False
        self.own = OwnTerms()
        self.allowances = self.own.allowances
        self.active: dict[SubjectState, int] = {}
        self.gone: list[tuple[Subject, str]] = []
        self.bounds = Bounds(times_max=limits.times, keys_max=limits.keys)
        self.fast: dict[int, dict[int | None, Fast]] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._watched)

    def __contains__(self, subject: Subject) -> bool:
        return subject in self._watched

    def __iter__(self) -> Iterator[SubjectState]:
        return iter(list(self._watched.values()))

    def reconfigure(self, settings: Settings, directory: Directory) -> None:
        """Take a new configuration or new accounts; each subject's rules are compiled anew when it is next seen."""
        if settings is not self._settings:
            self._plans.clear()
        self._settings = settings
        self._directory = directory
        self.refresh()

    def refresh(self) -> None:
        """Have each subject's rules compiled anew when it is next seen: a switch was turned."""
        self._generation += 1
        self.fast.clear()

    def allow(self, allowance: Allowance | None, subject: Subject, at_ns: int) -> None:
        """Let an allowance hold for a subject, or none; windows are without what was done before, also if told late."""
        watched = self.of(subject)
        if allowance is None:
            del self.allowances[subject]
        else:
            self.allowances[subject] = allowance
        self._drop_windows(watched)
        watched.generation = -1
        for book in self.of(subject).windows():
            book.reset(at_ns - 1)

    def find(self, uid: int, scope: int | None) -> SubjectState:
        """The subject of an attempt, its rules up to date."""
        return self.of(subject_of(self._directory, uid, scope))

    def of(self, subject: Subject) -> SubjectState:
        """A subject, its rules up to date."""
        watched = self._watched.get(subject)
        if watched is None:
            watched = SubjectState(subject)
            self._compile(watched)
            self._add(watched)
        elif watched.generation != self._generation:
            self._compile(watched)
        return watched

    def is_outdated(self, watched: SubjectState) -> bool:
        """Whether a subject's rules are to be compiled anew when it is next seen."""
        return watched.generation != self._generation

    def begin(self, watched: SubjectState, port: int) -> bool:
        """Let the fast path use a new lane for its first attempt, if that takes no look at the rules."""
        if len(watched.books) != 1 or watched.subject.scope is not None or not watched.books[0].begin_lane(port):
            return False
        self.register(watched, port)
        self.active[watched] = 0
        return True

    def register(self, watched: SubjectState, port: int) -> None:
        """Let the engine's fast path use a lane: of one book, on the host's network, seen under its own uid."""
        if len(watched.books) == 1 and watched.subject.scope is None:
            book = watched.books[0]
            lanes = self.fast.setdefault(port, {})
            if watched.subject.id not in lanes:
                lane = book.open_lane(port)
                tables = lane.tables
                single = len(tables) == 1 and not tables[0].whole
                lanes[watched.subject.id] = (
                    book,
                    lane.times,
                    tables[0] if single else None,
                    () if single else tables,
                    watched,
                )

    def reset(self, watched: SubjectState, now_ns: int) -> None:
        """Empty a subject's windows and forget its blocks."""
        watched.records = NO_RECORDS
        watched.changes += 1
        for book in watched.windows():
            book.reset(now_ns)

    def _compile(self, watched: SubjectState) -> None:
        subject, old = watched.subject, watched.account
        account = account_of(self._directory, subject)
        why = "off" if self.off else "dry_run" if self._settings.dry_run else ""
        if account.standing == "container":
            why = CONTAINER
        elif account.standing == "shared" and self._settings.shared_block.isdisjoint(account.names):
            why = SHARED
        elif subject.scope == HEARSAY:
            why = why or HEARD
        if not account.may_be(old.name):
            self._drop_windows(watched)  # the number was given to somebody else
            watched.seen, watched.records = {}, NO_RECORDS
        watched.account, watched.why, watched.generation = account, why, self._generation
        if account.standing in NEVER_REFUSED:
            self._drop_windows(watched)
            return
        if self.own.concern(subject, account):
            override = None if account.standing == "container" else override_index(self._settings, account)
            terms = self.own.apply(subject, account, compile_terms(self._settings, override, why))
            plans = RulesByMode(terms, self._settings.ports)
            watched.why = terms.why
        else:
            plans = self._plans_of(account, why)
            if plans is watched.plans:  # of all users few differ when accounts have changed
                return
        self._forget_lanes(watched)
        watched.rebuild(plans, self.bounds)

    def _plans_of(self, account: Account, why: str) -> RulesByMode:
        override = None if account.standing == "container" else override_index(self._settings, account)
        plans = self._plans.get((override, why))
        if plans is None:
            terms = compile_terms(self._settings, override, why)
            plans = self._plans[override, why] = RulesByMode(terms, self._settings.ports)
        return plans

    def _drop_windows(self, watched: SubjectState) -> None:
        watched.drop_windows()
        self._forget_lanes(watched)

    def _forget_lanes(self, watched: SubjectState) -> None:
        if watched.subject.scope is None:
            for lanes in self.fast.values():
                lanes.pop(watched.subject.id, None)

    def _add(self, watched: SubjectState) -> None:
        subject = watched.subject
        if subject.scope is not None:
            watched.groups = ("foreign", f"scope {subject.scope}", f"id {subject.id}")
        else:
            watched.groups = ("nameless" if watched.account.name is None else "accounts",)
        for group in watched.groups:
            if self._sizes[group] >= self._maximum(group):
                self._evict(group)
            self._sizes[group] += 1
        self._watched[subject] = watched

    def _maximum(self, group: str) -> int:
        if group in self._maxima:
            return self._maxima[group]
        return self._per_netns if group.startswith("scope") else self._per_uid

    def _evict(self, group: str) -> None:
        """Make room in a full group: a quarter goes, those first that were longest silent."""
        members = [w for w in self._watched.values() if group in w.groups and not self._kept(w)]
        members.sort(key=SubjectState.touched_ns)
        for watched in members[: len(members) // 4 + 1]:
            self.drop(watched)
            self.evicted += 1

    def _kept(self, watched: SubjectState) -> bool:
        """Whether a subject must not be dropped: a block, an allowance or a watch stands."""
        return watched.subject in self.own or self._held(watched.subject)

    def drop(self, watched: SubjectState) -> None:
        """Forget a subject and its windows."""
        self._drop_windows(watched)
        self.active.pop(watched, None)
        self.gone += [(watched.subject, name) for name in watched.saved]
        del self._watched[watched.subject]
        for group in watched.groups:
            self._sizes[group] -= 1
            if not self._sizes[group]:
                del self._sizes[group]

    def sweep(self, now_ns: int) -> None:
        """Forget windows in which nothing is left, and subjects of whom nothing else is remembered: some each call."""
        if not self._to_sweep:
            self._to_sweep = list(self._watched.values())
        batch, self._to_sweep = self._to_sweep[-SWEEP:], self._to_sweep[:-SWEEP]
        settings = self._settings
        rules = [*settings.rules, *(rule for entry in settings.overrides for rule in entry.rules.values())]
        novel_ns = max((rule.novel_ns or 0 for rule in rules), default=0)
        reach_ns = max([NEWCOMER_NS if novel_ns else 0, *[rule.window_ns for rule in rules]])
        quiet_ns = now_ns - LATE_NS - reach_ns
        for watched in batch:
            known = self._watched.get(watched.subject)
            if known is not watched or watched.swept_ns > quiet_ns:
                continue
            watched.swept_ns = watched.touched_ns()
            if watched.swept_ns > quiet_ns:
                continue
            self._drop_windows(watched)
            watched.generation = -1
            self.active[watched] = 0
            if not (
                any(last_ns > now_ns - novel_ns for last_ns in watched.seen.values())
                or any(record.until_ns > now_ns - settings.escalation.forget_ns for record in watched.records.values())
                or self._kept(watched)
            ):
                self.drop(watched)
