"""What the kernel refuses now, put in step with engine, configuration, accounts and the panic switch by one call.

`refresh(reason)` derives all of it, in one order: the BPF program's tables, what passes, whether anything is refused at
all, who is refused, and exact limits. Each step does nothing where nothing has changed, and one that fails keeps no
other from being taken: it is named, and tried again. It never decides about a user; the engine does.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator

from smtpguard.actions.nft.render import build_spec
from smtpguard.clock import next_beat
from smtpguard.daemon.enforce.activation import Activation
from smtpguard.daemon.enforce.active_blocks import ActiveBlocks
from smtpguard.daemon.enforce.bpf_attachment import BpfAttachment
from smtpguard.daemon.enforce.bulk import without_collections
from smtpguard.daemon.enforce.cap_counts import CapCounts
from smtpguard.daemon.enforce.exact_limits import ExactLimits
from smtpguard.daemon.enforce.means_health import MeansHealth
from smtpguard.daemon.enforce.neighbours import Around, Comparison, Judging, NftTable, Reason, Sessions
from smtpguard.daemon.enforce.reconciler import Reconciler, merge_denies
from smtpguard.daemon.enforce.table_upkeep import EVERYBODY, TableUpkeep
from smtpguard.daemon.loop import TimedPart
from smtpguard.hooks import ClockNs
from smtpguard.model import NS, Subject
from smtpguard.policy.engine import Engine
from smtpguard.settings import Settings
from smtpguard.sources.bpf.openers import BpfOpeners
from smtpguard.sources.bpf.source import BpfSource

log = logging.getLogger(__name__)

_WINDOWS_CHANGED: frozenset[Reason] = frozenset(
    {"start", "settings", "accounts", "allowance", "state", "bpf", "forgiven", "judging"}
)
"""After these the engine's windows may hold something else than the attempts that credits were told of."""
_LOOK_NS = NS
_BEAT_NS = 3 * NS
_COMPARE_NS = 60 * NS


class Enforcement(TimedPart):
    """All means of enforcement, as a part of the loop.

    Args:
        settings: The configuration in force.
        engine: Whose blocks, allowances and panic switch they follow.
        around: Accounts and what passes.
        nft: The nftables table.
        sessions: What ends open sessions.
        judging: Whether attempts are judged; credits that nobody gives back would refuse without an end.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        settings: The configuration in force; `refresh("settings")` after a change.
        healing: Whether the table may be there at all; `nft remove` turns it off.
        comparison: What compares sets with the list; None where nothing does.
        health: What is wrong with the means.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine: Engine,
        around: Around,
        nft: NftTable,
        sessions: Sessions,
        judging: Judging,
        now: ClockNs,
    ) -> None:
        self.settings = settings
        self.healing = True
        self.comparison: Comparison | None = None
        self._engine = engine
        self._around = around
        self._nft = nft
        self._sessions = sessions
        self._judging = judging
        self._judged = (0, True)
        self._now = now
        self._bpf: BpfAttachment | None = None
        self._applied: Settings | None = None
        self._asked: list[Reason] = []
        self._gathering = False
        self._look_ns = next_beat(now(), _LOOK_NS)
        self._beat_ns = next_beat(now(), _BEAT_NS)
        self._compare_ns = next_beat(now(), _COMPARE_NS)
        self.activation = Activation(nft)
        self._in_force = ActiveBlocks(engine, around, self.activation, now)
        self.reconciler = Reconciler(self._in_force, now)
        self._upkeep = TableUpkeep(nft, self.reconciler)
        self.health = MeansHealth(self.activation, self._upkeep, self.reconciler, sessions.name)
        self.credits = ExactLimits(around.accounts, engine, now)
        self.cap = CapCounts(
            settings,
            around.accounts,
            engine,
            in_force=self.is_refusing,
            counts=(nft.read_capped, self.credits.read_capped),
        )
        for means in (nft, sessions):
            self.reconciler.add_enforcer(means)

    # -- what it derives from ----------------------------------------------------------------------------------------

    def is_refusing(self) -> bool:
        """Whether refusals are carried out now."""
        return self.activation.up

    def is_in_place(self) -> bool:
        """Whether refusals are carried out, and the table is there."""
        return self.activation.up and self.activation.trouble is None

    @property
    def has_program(self) -> bool:
        """Whether a BPF program refuses too."""
        return self.activation.has_switch

    # -- one call for everything -------------------------------------------------------------------------------------

    def refresh(self, reason: Reason) -> bool:
        """Put all means in step with what holds now.

        Args:
            reason: What has changed.

        Returns:
            Whether the table is there if it ought to be; else see `activation.trouble`.
        """
        self._asked.append(reason)
        count, reasons = len(self._asked), set(self._asked)
        settings = self.settings
        if settings is not self._applied:
            self._nft.spec = build_spec(settings)
            if self._applied is not None:
                self._upkeep.read_templates()
            self._sessions.ports = settings.ports
            self.cap.reconfigure(settings)
            self._applied = settings
        if self._bpf is not None:
            self._tell_program(self._bpf)
        self.reconciler.apply_exemptions(self._in_force.list_exemptions())
        if not self._activate(lost="lost" in reasons):
            self.reconciler.apply_changes()
        self.credits.refresh(
            settings,
            self._around.accounts.told_uids(),
            trusted=self._judging.is_sound(),
            anew=not _WINDOWS_CHANGED.isdisjoint(reasons),
            restored=not reasons.isdisjoint(("start", "state")),
            opening="bpf" in reasons,
        )
        if "lost" in reasons:
            self.compare("heal")
        if "start" in reasons:  # when somebody watches what others change, and the start has not to wait for it
            self._compare_ns = next_beat(self._now(), NS)
        del self._asked[:count]  # not before: what was raised on the way leaves it to be done
        return self.activation.trouble is None

    def request(self, reason: Reason) -> None:
        """Refresh before this turn of the loop is over: many changes at once are one refresh."""
        self._asked.append(reason)

    def carry_out(self, subject: Subject, *, settle: bool = False) -> bool:
        """The short way of a verdict: the blocks of one subject have changed.

        Args:
            subject: Whose.
            settle: As in Reconciler.apply.

        Returns:
            Whether every means does what it is told.
        """
        if self._gathering:
            return True
        if self._in_force.is_exempt(subject):
            self.reconciler.apply_exemptions(self._in_force.list_exemptions())
        self._activate()
        # A table that can't be had keeps BPF from nothing.
        fine = self.reconciler.apply(subject, settle=settle)
        return fine and self.activation.trouble is None

    def end_late(self, subject: Subject, port: int) -> None:
        """A session of a subject's came to be: if a block is in force it was let through just before, and ends."""
        denies = merge_denies(subject, self._in_force.blocks_of(subject), self._now())
        ours = [deny for deny in denies.values() if deny.kind == "block" and deny.port in {None, port}]
        if ours:
            self._sessions.look_again(ours)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Whatever is carried out within is carried out at its end, in one go."""
        if self._gathering:
            yield
            return
        self._gathering = True
        with without_collections():
            try:
                yield
            finally:
                self._gathering = False
                self.reconciler.apply_exemptions(self._in_force.list_exemptions())
                if not self._activate():
                    self.reconciler.apply_changes()

    def compare(self, reason: str, who: str = "") -> None:
        """Look whether the kernel's sets hold what the list says: at the start, after a heal, after others, by time."""
        if self.comparison is not None and self.is_in_place() and not self._gathering:
            self.comparison.compare(reason=reason, who=who)

    def clear(self, uids: Iterable[tuple[int, int]]) -> None:
        """Take whoever is in the kernel's sets within these uids, and in no list, out of them."""
        if self.activation.up and not self._gathering:
            self._upkeep.clear(uids)

    def clear_all(self) -> None:
        """Empty the kernel's sets of all that are in no list."""
        self.clear([EVERYBODY])
        if self.activation.up:
            self.compare("changed")

    def remove_foreign(self, who: str) -> None:
        """While nothing is to be refused, a table of our name is not ours: taken away."""
        if not self.activation.up:
            self._upkeep.remove_foreign(who)

    def attach(self, source: BpfSource) -> None:
        """A BPF program has come: the fastest of all means."""
        self._bpf = self.health.program = BpfAttachment(source.guard)
        self._tell_program(self._bpf)
        self._sessions.set_openers(BpfOpeners(source.guard) if source.guard.features.outcome else None)
        with without_collections():
            self.reconciler.add_enforcer(self._bpf.deny, first=True)
        self.activation.attach(source.guard)
        self.credits.attach(source)
        self.refresh("bpf")

    def detach(self) -> None:
        """It goes."""
        self._sessions.set_openers(None)
        self.credits.detach()
        self.activation.detach()
        if self._bpf is not None:
            self.reconciler.remove_enforcer(self._bpf.deny)
        self._bpf = self.health.program = None

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> int:
        """When a change is tried again, or the next look is due."""
        if self._asked:
            return 0
        times = (self._look_ns, self.reconciler.next_deadline(), self.credits.next_deadline())
        return min(time for time in times if time is not None)

    def on_time(self, now_ns: int) -> None:
        """Do what was asked for; try again what failed; once a second, look whether anything is to be refused."""
        judged = (self._judging.vital_failures, self._judging.is_sound())
        if judged != self._judged:
            self._judged = judged
            self._asked.append("judging")
        if self._asked:
            self.refresh(self._asked[-1])
        if now_ns >= self._look_ns:
            self._look_ns = next_beat(now_ns, _LOOK_NS)
            if self._bpf is not None and self._bpf.trouble is not None:
                self._tell_program(self._bpf)
            self._activate()
            if not self._upkeep.is_clear:
                self._upkeep.retry_clear(is_there=self.activation.up)
            if self._upkeep.beat_trouble:
                self._upkeep.beat()
        if now_ns >= self._beat_ns:
            self._beat_ns = next_beat(now_ns, _BEAT_NS)
            self._upkeep.beat()
        if now_ns >= self._compare_ns:
            self._compare_ns = next_beat(now_ns, _COMPARE_NS)
            self.compare("time")
        self.reconciler.on_time(now_ns)
        self.credits.on_time(now_ns)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _activate(self, *, lost: bool = False) -> bool:
        """Whether all means were told everything by it."""
        before = self.activation.up
        wanted = self.healing and self._in_force.wants_refusals(dry_run=self.settings.dry_run)
        self.activation.apply(up=wanted, lost=lost)
        if self.activation.up == before:
            return False
        if before:
            self.reconciler.forget(self._nft)
        self.reconciler.apply_all(forget=not before)
        return True

    def _tell_program(self, bpf: BpfAttachment) -> None:
        bpf.refresh(self.settings.ports, self._around.accounts.ranges())
