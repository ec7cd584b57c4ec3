"""Exact limits: keeps the kernel's credits and keys in step with engine, accounts and settings, while BPF is there.

They stand before the engine: the program refuses attempt N+1 itself, and its report is the verdict. What they are to
demand is found in demand.py.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from smtpguard.clock import next_beat
from smtpguard.daemon.enforce.demand import Demand, find_demand
from smtpguard.daemon.enforce.kernel_verdicts import KernelVerdicts, speak
from smtpguard.decode.bpf_event import decode
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import EnforceError
from smtpguard.hooks import Change, ClockNs, Task
from smtpguard.model import NS, Block, Connect, Decision, Refusal, Subject, Verdict
from smtpguard.policy.engine import Engine
from smtpguard.settings import Rule, Settings
from smtpguard.sources.bpf.credit_maps import KeyWindow
from smtpguard.sources.bpf.kernel_credits import Credits
from smtpguard.sources.bpf.source import BpfSource

log = logging.getLogger(__name__)

_BEGINS_NS = NS // 2
"""In this time the whole ring is read at any rate: 10,000 events, of which the loop takes 50,000 a second."""


class ExactLimits:
    """Credits of the running guard.

    Args:
        accounts: Who is who.
        engine: Whose windows and allowances they follow.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        trouble: Why credits are out of sync; None when all is well.
        judge_unread: Has what sources saw until now judged, as far as one look goes; None where nobody does.
    """

    def __init__(self, accounts: AccountDirectory, engine: Engine, now: ClockNs) -> None:
        self._accounts = accounts
        self._engine = engine
        self._now = now
        self._source: BpfSource | None = None
        self._credits: Credits | None = None
        self._rules: Sequence[Rule] = ()
        self._index: dict[str, int] = {}
        self._begun: Demand | None = None
        self._wanted: Demand | None = None
        self._retry_ns = 0
        self._look_ns = 0
        self._verdicts = KernelVerdicts()
        self.trouble: str | None = None
        self.judge_unread: Task | None = None

    @property
    def exact_rules(self) -> frozenset[str]:
        """Rules that the kernel enforces itself, to the very attempt."""
        return frozenset(self._index) if self._begun is not None else frozenset()

    def is_settled(self) -> bool:
        """Whether the kernel refuses by what was last demanded, or can't: half a second after that at the latest."""
        return self._credits is None or self._credits.unread_ns is None or self.trouble is not None

    def attach(self, source: BpfSource) -> None:
        """A BPF program has come."""
        self._source = source
        self._credits = Credits(source.guard, self._now())
        self._begun = None
        self._verdicts.begin()

    def read_capped(self) -> dict[int, int]:
        """Attempts that the cap of the BPF program refused, by uid; {} without it. Raises EnforceError."""
        return {} if self._credits is None else self._credits.maps.read_capped()

    def detach(self) -> None:
        """It is gone, and its credits with it."""
        self._source = self._credits = self._begun = self._wanted = None
        self.trouble = None

    def refresh(
        self,
        settings: Settings,
        told: tuple[tuple[int, int], ...],
        *,
        trusted: bool,
        anew: bool,
        restored: bool = False,
        opening: bool = False,
    ) -> None:
        """Bring what the kernel demands in step; it begins anew, from the windows, only where something has changed.

        Args:
            settings: The configuration in force.
            told: Uid ranges that are counted and never refused by credits or cap: shared and system users.
            trusted: Whether attempts are judged; credits that nobody gives back would refuse without an end.
            anew: The windows hold something else than the attempts that were noted.
            restored: They hold what an earlier run kept.
            opening: The source is being put in place: it is read when its turn comes.
        """
        book = self._credits
        if book is None:
            return
        wanted = find_demand(
            settings,
            self._engine,
            self._accounts,
            told,
            trusted=trusted,
            has_keys=self._source is not None and self._source.guard.features.keys,
        )
        self._rules = wanted.chosen
        self._index = {name: number for number, name in enumerate(wanted.names)}
        if anew or wanted != self._begun:
            self._begin(book, wanted, restored=restored)
            if not opening:
                self._settle(self._now())

    def _begin(self, book: Credits, wanted: Demand, *, restored: bool = False) -> None:
        """Begin anew from what the windows hold."""
        windows = (
            (uid, self._index[name], times) for uid, name, times in self._engine.exact.windows() if name in self._index
        )

        def begin() -> None:
            book.maps.replace_told(wanted.told)
            book.maps.set_cap(wanted.cap)
            book.maps.set_attention(look=wanted.look, exact=not wanted.judged)
            book.start(
                wanted.rules,
                self._now(),
                limits=wanted.limits,
                windows=windows,
                wake_new=wanted.judged,
                keys=self._list_keys(),
                anew=restored,
                uncapped=wanted.uncapped,
                noting=True,
            )

        self._wanted, self._retry_ns = wanted, self._now() + NS
        self._begun = None
        if self._try(begin):
            self._begun, self.trouble = wanted, None

    def _list_keys(self) -> Iterable[KeyWindow]:
        """What the engine's windows of destinations and networks hold."""
        for uid, name, keys, emptied_ns in self._engine.exact.key_windows():
            if name in self._index:
                yield KeyWindow(uid=uid, index=self._index[name], keys=keys, emptied_ns=max(emptied_ns, 0))

    def _settle(self, now_ns: int) -> None:
        """Credits began a moment ago: what came before, and was not read then, takes its part of the limits too.

        Who stands still before this was done refuses too late: what waited is in no window of the kernel's.
        """
        book, source = self._credits, self._source
        if book is None or source is None or book.unread_ns is None:
            return
        if self.judge_unread is not None:
            self.judge_unread()
        begun_ns = book.unread_ns
        # A flood may leave us no moment in which the ring is empty: what came before is read by then, too.
        if begun_ns is not None and (source.drained_ns >= begun_ns or now_ns > begun_ns + _BEGINS_NS):
            self._try(partial(book.settle, self._now()))

    def is_known(self, connect: Connect) -> bool:
        """Whether a refused attempt was judged already, from the verdicts that the kernel keeps; asked once of each."""
        return self._verdicts.is_known(connect)

    def prepare(self, connect: Connect, subject: Subject) -> Connect | None:
        """Before an attempt is judged that a rule refused which holds: tell the engine what the kernel knows.

        Attempts of two CPUs are reported in any order, and a full ring loses some; the kernel's word stands.

        Returns:
            The attempt with which the rule was exceeded, if it is another one and not known yet: to be judged first.
        """
        book, index = self._credits, connect.rule
        if book is None or index is None or subject.scope is not None or not self._holds(index):
            return None
        spoken_ns = book.ledger.spoken().get(subject.id, 0)
        if connect.time_ns <= spoken_ns or self._engine.exact.would_refuse(subject, connect):
            return None
        missed: list[Connect] = []
        self._try(partial(self._catch_up, book, connect, subject, index, missed))
        for verdict in missed:
            self._verdicts.remember(verdict)
            return verdict
        return None

    def _holds(self, index: int | None) -> bool:
        """Whether a rule of the kernel's holds until we have spoken."""
        rules = () if self._credits is None else self._credits.ledger.rules
        return index is not None and index < len(rules) and rules[index].holds

    def _catch_up(self, book: Credits, connect: Connect, subject: Subject, index: int, missed: list[Connect]) -> None:
        sample = book.keys.read_verdict(subject.id)
        verdict = decode(sample) if sample is not None else None
        if not isinstance(verdict, Connect):
            return
        if (verdict.cookie, verdict.time_ns) != (connect.cookie, connect.time_ns):
            if book.ledger.spoken().get(subject.id, 0) < verdict.time_ns < connect.time_ns:
                missed.append(verdict)
            return
        # Nothing has passed since: what the kernel holds now is what it held then.
        keys: Mapping[bytes, int] = {}
        lost = 0
        if book.ledger.rules[index].is_keyed:
            emptied_ns = book.ledger.emptied().get(subject.id, {}).get(index, 0)
            keys = {key: at_ns for key, at_ns in book.keys.read(subject.id, index).items() if at_ns > emptied_ns}
        else:
            lost = book.count_missing(subject.id, index)
        self._engine.exact.catch_up(subject, self._rules[index].name, connect, keys=keys, lost=lost)

    def note(self, connect: Connect, subject: Subject, decisions: Iterable[Decision]) -> None:
        """Tell of an attempt that was judged, and of the windows that its verdicts emptied.

        Args:
            connect: The attempt.
            subject: Whom it counts for: the kernel takes credits of this host's accounts alone, wherever they are.
            decisions: What the engine said.
        """
        book = self._credits
        if book is None or not self._rules or subject.scope is not None:
            return
        uid = subject.id
        # What goes to an exempt or an own address takes no credit and enters no window.
        entered = connect.result != "refused" and self._engine.counts(connect.address)
        emptied: list[int] = []
        for decision in decisions:
            if isinstance(decision, Refusal):
                entered = entered and decision.counted
            elif isinstance(decision, Verdict) and decision.action != "warn":
                # One that came so late that its block is over is told as in dry run; the windows are as if it were not.
                index = self._index.get(decision.rule)
                entered = entered and decision.mode != "enforce" and index is None
                if decision.action == "block" and index is not None:
                    emptied.append(index)
            elif isinstance(decision, Block) and decision.renewed:  # a throttle that is not told again
                entered = entered and decision.mode != "enforce" and decision.rule not in self._index
        if connect.result != "refused":
            self._try(partial(book.note, uid, connect, entered=entered))
        if connect.refused_by == "credit" and self._holds(connect.rule):
            book.ledger.settle(uid, self._now())
        for index in emptied:
            self._try(partial(book.reset, uid, index, self._now()))
        if connect.refused_by == "credit" and connect.time_ns > book.ledger.spoken().get(uid, 0):
            self._try(partial(speak, book, uid, connect, self._now()))

    def take_overdue(self, now_ns: int) -> list[Connect]:
        """Attempts with which somebody exceeded a rule and that were not reported: the ring was full, or is behind."""
        book, source = self._credits, self._source
        if book is None or source is None or now_ns < self._look_ns or not self._rules:
            return []
        self._look_ns = next_beat(now_ns)
        found: list[Connect] = []
        self._try(partial(self._verdicts.find, book, source, now_ns, found))
        return found

    def reset(self, uid: int, at_ns: int | None = None) -> None:
        """A person unblocked the user, or an allowance is over: what came up to then (None: now) counts no more."""
        if self._credits is not None and self._rules:
            self._try(partial(self._credits.reset, uid, None, self._now(), at_ns))

    def next_deadline(self) -> int | None:
        """The next heartbeat, or when a credit comes back; at once while the beginning is not settled."""
        if self._credits is None:
            return None
        waits = self._credits.unread_ns is not None and self.trouble is None
        return 0 if waits else self._credits.next_deadline()

    def on_time(self, now_ns: int) -> None:
        """Beat, and give back what has left the windows."""
        book, source = self._credits, self._source
        if book is not None and self._wanted is not None and self._begun is None and now_ns >= self._retry_ns:
            self._begin(book, self._wanted)
        self._settle(now_ns)
        if book is not None and book is self._credits and source is not None and now_ns >= book.next_deadline():
            self._try(lambda: book.on_time(now_ns, source.ring_lost, source.drained_ns))

    def _try(self, change: Change) -> bool:
        try:
            change()
        except EnforceError as error:
            if str(error) != self.trouble:
                log.error("limits are not exact, the engine enforces them: %s", error)  # noqa: TRY400
            self.trouble = str(error)
            return False
        if self._begun is not None:
            self.trouble = None
        return True
