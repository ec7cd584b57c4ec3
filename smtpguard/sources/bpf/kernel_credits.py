"""Keeps credits in the kernel in step with the engine: what it may let through, and what it did unseen."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from smtpguard.clock import boottime_ns, next_beat
from smtpguard.model import NS, Connect
from smtpguard.policy.credit_rules import CreditRule, Grant
from smtpguard.policy.credits import CreditLedger
from smtpguard.sources.bpf.credit_maps import CreditMaps, KeyWindow
from smtpguard.sources.bpf.key_maps import KeyMaps
from smtpguard.sources.bpf.program import BpfProgram

_TICK_NS = 5_000_000
_SWEEP_NS = 60 * NS
_SWEEP_USERS = 50_000
NO_LIMITS: Mapping[int, Mapping[int, int]] = MappingProxyType({})


class Credits:
    """Keeps the kernel's credits right. Call `note` for every attempt that was let through, `on_time` every turn.

    Args:
        guard: The loaded program.
        now_ns: CLOCK_BOOTTIME.

    Attributes:
        missed: Credits whose attempts never arrived, because the ring was full.
    """

    def __init__(self, guard: BpfProgram, now_ns: int) -> None:
        self.maps = CreditMaps(guard)
        self.keys = KeyMaps(guard)
        self.ledger = CreditLedger(())
        self._running = False
        self._demanded: tuple[tuple[CreditRule, ...], bool] = ((), False)
        self._beat_ns = self._tick_ns = self._sweep_ns = now_ns
        self._near: set[int] = set()
        self._uncapped: frozenset[int] = frozenset()
        self._lost = 0
        self._measured: dict[int, tuple[int, ...]] = {}
        self._measured_ns = 0
        self._unsent: dict[int, int] = {}
        self._again = False
        self._unread_ns: int | None = None
        self._begun_ns = 0
        self.missed = 0

    @property
    def unread_ns(self) -> int | None:
        """What came before this time without a credit may not have been noted yet; None once `settle` was called."""
        return self._unread_ns

    def start(
        self,
        rules: Sequence[CreditRule],
        now_ns: int,
        *,
        limits: Mapping[int, Mapping[int, int]] = NO_LIMITS,
        windows: Iterable[tuple[int, int, Iterable[int]]] = (),
        wake_new: bool = False,
        keys: Iterable[KeyWindow] = (),
        anew: bool = False,
        uncapped: frozenset[int] = frozenset(),
        noting: bool = False,
    ) -> None:
        """Begin, or begin anew; with other rules credits are off while this lasts. Raises EnforceError.

        What came until then and was not read yet is not in the windows: have it noted, then `settle`. With `noting` the
        program takes credits and keys meanwhile, and refuses nobody.

        Args:
            rules: By index.
            now_ns: CLOCK_BOOTTIME.
            limits: Limits of some users' own, by uid and rule index.
            windows: What the windows hold, as (uid, rule index, event times).
            wake_new: Users are `near` from their first attempt on: some rule that we judge has a limit under ten.
            keys: What the windows of rules hold that count destinations or networks.
            anew: No such rule goes on with what the kernel has of it.
            uncapped: Users whom the cap leaves alone.
            noting: Refuse nobody before `settle`.
        """
        if self._running and not anew and self._demanded == (tuple(rules), wake_new):
            self._renew(now_ns, limits, windows, keys, uncapped)
            return
        self.stop()
        before, ledger = self.ledger, CreditLedger(rules)
        fresh = self.keys.write_rules(rules, anew=anew)
        index_of = {rule.name: index for index, rule in enumerate(rules) if rule.is_keyed}
        for uid, emptied in before.emptied().items():
            for index, at_ns in emptied.items():
                if before.rules[index].name in index_of:
                    ledger.empty(uid, index_of[before.rules[index].name], at_ns)
        self.maps.write_rules(rules, wake=wake_new)
        for uid in self.maps.read_uids():
            usage = self.maps.read_usage(uid)
            if usage is not None:
                ledger.adopt(uid, usage.used)
        ledger.adopted_ns = boottime_ns()
        for uid in self.ledger.limited():
            ledger.set_limits(uid, {})  # there may be no account yet, but a grant with the limits that end now
        self._leave_uncapped(ledger, limits, uncapped)
        for uid, own in limits.items():
            ledger.set_limits(uid, own)
        for uid, index, times_ns in windows:
            ledger.restore(uid, index, times_ns)
        for window in keys:
            ledger.empty(window.uid, window.index, window.emptied_ns)
            if window.index in fresh and window.keys:
                self.keys.put(window.uid, window.index, window.keys)
        for uid, spoken_ns in before.spoken().items():
            ledger.speak(uid, spoken_ns)
        self.ledger = ledger
        self._write(now_ns)
        self.maps.beat(now_ns)
        self.maps.set_noting(on=noting and bool(rules))
        self.maps.set_crediting(on=bool(rules))
        self._running, self._demanded = bool(rules), (tuple(rules), wake_new)
        self._begun_ns = boottime_ns()
        self._unread_ns = self._begun_ns if rules else None

    def _renew(
        self,
        now_ns: int,
        limits: Mapping[int, Mapping[int, int]],
        windows: Iterable[tuple[int, int, Iterable[int]]],
        keys: Iterable[KeyWindow],
        uncapped: frozenset[int],
    ) -> None:
        """The same rules: nobody passes in between, as many a tenant can have it happen (chsh(1), useradd(8))."""
        self.ledger.renew(limits, windows)
        self._leave_uncapped(self.ledger, limits, uncapped)
        for window in keys:
            self.ledger.empty(window.uid, window.index, window.emptied_ns)
        self._write(now_ns)
        self.maps.beat(now_ns)

    def _leave_uncapped(
        self, ledger: CreditLedger, limits: Mapping[int, Mapping[int, int]], uncapped: frozenset[int]
    ) -> None:
        """Have the grants of users written anew of whom it has changed whether the cap leaves them alone."""
        for uid in self._uncapped ^ uncapped:
            ledger.set_limits(uid, limits.get(uid, {}))
        self._uncapped = uncapped

    def stop(self) -> None:
        """Demand no credits any more; the cap stays."""
        self.maps.set_crediting(on=False)
        self._running, self._unread_ns = False, None

    def note(self, uid: int, connect: Connect, *, entered: bool) -> None:
        """Tell of an attempt that was let through.

        Args:
            uid: The account it counts for.
            connect: The attempt.
            entered: Whether it entered the windows.

        Raises:
            EnforceError: A key can't be written.
        """
        self.ledger.note(uid, connect.port, connect.time_ns, connect.credits, entered=entered)
        # What came before the program began to note took no key, and is in the window all the same.
        missed = entered and connect.time_ns <= self._begun_ns
        for index, rule in enumerate(self.ledger.rules) if connect.credits or missed else ():
            if rule.is_keyed and connect.credits >> index & 1:
                self.keys.note(uid, index, connect.time_ns)
            elif rule.is_keyed and missed and connect.port in rule.ports:
                self.keys.enter(uid, index, connect.address, connect.time_ns)

    def settle(self, now_ns: int) -> None:
        """All that came before the program began to note was noted here: refuse from now on. Raises EnforceError."""
        self._write(now_ns)
        self.maps.beat(now_ns)
        self.maps.set_noting(on=False)
        self._unread_ns = None

    def reset(self, uid: int, index: int | None, now_ns: int, at_ns: int | None = None) -> None:
        """Empty a user's windows, of one rule or (None) of all, and end the refusals. Raises EnforceError.

        Args:
            uid: The user.
            index: Which rule; None for all.
            now_ns: CLOCK_BOOTTIME.
            at_ns: What came up to then does not count any more; None for now.
        """
        at_ns = now_ns if at_ns is None else at_ns
        self.ledger.reset(uid, index, at_ns)
        for number, rule in enumerate(self.ledger.rules):
            if rule.is_keyed and index in (None, number):
                self.ledger.empty(uid, number, at_ns)
        self.speak(uid, now_ns, now_ns)

    def speak(self, uid: int, spoken_ns: int, now_ns: int) -> None:
        """What a user did up to a time was judged: a refusal that held for all these attempts is over.

        Args:
            uid: The user.
            spoken_ns: Up to when: what was refused later is still on its way, and holds. Event time.
            now_ns: CLOCK_BOOTTIME.
        """
        self.keys.drop_verdict(uid, spoken_ns)
        self.ledger.speak(uid, spoken_ns)
        self._write(now_ns)

    def count_missing(self, uid: int, index: int) -> int:
        """Credits of a rule that a user took with attempts that nobody told of yet. Raises EnforceError."""
        usage = self.maps.read_usage(uid)
        return 0 if usage is None else max(0, usage.used[index] - self.ledger.told(uid, index))

    def set_limits(self, uid: int, limits: Mapping[int, int], now_ns: int) -> None:
        """Give a user limits of their own at once, by rule index. Raises EnforceError."""
        self.ledger.set_limits(uid, limits)
        self._write(now_ns)

    def set_near(self, uid: int, now_ns: int, *, near: bool) -> None:
        """Have each attempt of a user reported at once, because a limit that we judge is near. Raises EnforceError."""
        if near != (uid in self._near):
            (self._near.add if near else self._near.discard)(uid)
            self._grant(self.ledger.grant(uid, now_ns))

    def on_time(self, now_ns: int, lost: int, drained_ns: int) -> None:
        """Say that we live; give back what has left the windows; make up for lost events. Raises EnforceError.

        Args:
            now_ns: CLOCK_BOOTTIME.
            lost: BpfSource.ring_lost: nothing else that is lost has taken credits.
            drained_ns: BpfSource.drained_ns: what was reported before then has been noted.
        """
        self.maps.beat(now_ns)
        self._beat_ns = now_ns
        self.keys.delete_some()
        if not self._running:
            return
        deadline_ns = self.ledger.next_deadline()
        if deadline_ns is not None and deadline_ns <= now_ns and now_ns >= self._tick_ns + _TICK_NS:
            self._write(now_ns)
        if lost != self._lost or self._measured or self._again:
            self._again = self._again or lost != self._lost  # the program counts a loss first, and then whose it was
            self._reconcile(now_ns, lost, drained_ns)
        if now_ns >= self._sweep_ns + _SWEEP_NS:
            self._sweep(now_ns)

    def _reconcile(self, now_ns: int, lost: int, drained_ns: int) -> None:
        """Credits whose attempts were lost count from now on: measured first, compared when the ring was emptied.

        Tenants choose how many accounts there are, and by a flood how often events are lost: only those are read who
        lost some since the last time.
        """
        if not self._measured:
            if lost == self._lost:
                self._again = False
            self._lost = lost
            usages = {uid: self.maps.read_usage(uid) for uid in self._find_losers()}
            self._measured = {uid: usage.used for uid, usage in usages.items() if usage is not None}
            self._measured_ns = now_ns
        elif drained_ns > self._measured_ns:
            self.missed += sum(self.ledger.reconcile(uid, used, now_ns) for uid, used in self._measured.items())
            self._measured = {}

    def _find_losers(self) -> set[int]:
        """Whose events were not handed over since this was asked last."""
        before, self._unsent = self._unsent, self.maps.read_unsent()
        return {uid for uid, count in self._unsent.items() if count != before.get(uid)}

    def next_deadline(self) -> int:
        """When `on_time` wants to be called (CLOCK_BOOTTIME): in a second at the latest."""
        deadline_ns = self.ledger.next_deadline() if self._running else None
        beat_ns = next_beat(self._beat_ns)
        return beat_ns if deadline_ns is None else min(beat_ns, max(deadline_ns, self._tick_ns + _TICK_NS))

    def _write(self, now_ns: int) -> None:
        self._tick_ns = now_ns
        for grant in self.ledger.tick(now_ns):
            self._grant(grant)

    def _grant(self, grant: Grant) -> None:
        self.maps.write(grant, wake=grant.uid in self._near, uncapped=grant.uid in self._uncapped)

    def _sweep(self, now_ns: int) -> None:
        """With very many users, remove the entries of idle ones; the kernel's maps hold 131,072."""
        self._sweep_ns = now_ns
        self.ledger.drop_old(now_ns)
        if self.keys.count_entries() > _SWEEP_USERS:
            windows_ns = {n: rule.window_ns for n, rule in enumerate(self.ledger.rules) if rule.is_keyed}
            self.keys.delete_idle(windows_ns, now_ns)
        if len(self.ledger.users()) <= _SWEEP_USERS:
            return
        for uid in self.ledger.idle():
            usage = self.maps.read_usage(uid)
            if uid not in self._uncapped and (usage is None or usage.cap_full_ns <= now_ns):
                self.maps.remove(uid)
                self.ledger.forget(uid)
                self._near.discard(uid)
