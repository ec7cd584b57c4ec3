"""Makes the kernel hold what the engine decided: one way for verdicts, people's commands, ends, heals and reloads.

Never decides. It compares what each enforcer was last told with what the blocks in force add up to, and tells the
difference, BPF first. A means that fails is named and tried again each second: fail open, fail visible.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from smtpguard.actions.base import BulkEnforcer, Deny, Enforcer, Exemptions, Kind, Reach
from smtpguard.daemon.enforce.neighbours import HeldBlocks
from smtpguard.daemon.enforce.told import Told, Wanted
from smtpguard.errors import EnforceError
from smtpguard.fast_dataclass import quick_maker
from smtpguard.hooks import ClockNs, Task
from smtpguard.model import NS, Block, Subject

log = logging.getLogger(__name__)
_make_deny = quick_maker(Deny, "subject", "kind", "until_ns", "ranges", "comment", "port")

KINDS: tuple[Kind, ...] = ("block", "throttle")
_RETRY_NS = NS
_MAX_RETRY_NS = 10 * NS
SETTLE_NS = 20_000_000
"""Between connect() being let through and its first packet a process may be preempted: some scheduler slices."""
_MANY = 16
"""From so many subjects on, a means that can is told all changes at once."""
PACKET_MEANS = frozenset({"nft", "sessions"})


def merge_denies(subject: Subject, blocks: Sequence[Block], now_ns: int) -> dict[Reach, Deny]:
    """What the enforced blocks of one subject add up to: for each kind and port the longest end and all ranges.

    A port has its own end beside that of all ports: the end of one never ends the other.

    Args:
        subject: Whose blocks they are.
        blocks: Blocks of all sources, enforced or not, over or not.
        now_ns: CLOCK_BOOTTIME.
    """
    held = [b for b in blocks if b.mode == "enforce" and b.until_ns > now_ns]
    if len(held) == 1:  # as nearly all are
        only = held[0]
        spans = tuple(sorted(set(only.ranges)))
        return {Reach(only.kind, port): _build_deny(subject, only, spans, port) for port in only.reaches}
    denies: dict[Reach, Deny] = {}
    for kind in KINDS if len(held) > 1 else [block.kind for block in held]:
        of_kind = [block for block in held if block.kind == kind]
        spans = tuple(sorted({span for block in of_kind for span in block.ranges}))
        for port in sorted({port for block in of_kind for port in block.reaches}, key=lambda port: port or 0):
            last = max((block for block in of_kind if port in block.reaches), key=lambda block: block.until_ns)
            denies[Reach(kind, port)] = _build_deny(subject, last, spans, port)
    return denies


def _build_deny(subject: Subject, block: Block, ranges: tuple[tuple[int, int], ...], port: int | None) -> Deny:
    comment = f"{block.source} {block.rule}" if block.rule else block.source
    return _make_deny(subject, block.kind, block.until_ns, ranges, comment, port)


class Reconciler:
    """Keeps enforcers in step with the blocks in force.

    Args:
        in_force: The blocks.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(self, in_force: HeldBlocks, now: ClockNs) -> None:
        self._in_force = in_force
        self._now = now
        self._means: list[Told] = []
        self._exemptions: Exemptions | None = None
        self._retry_ns: int | None = None
        self._pause_ns = _RETRY_NS
        self._settling: dict[Subject, int] = {}
        self.failures = 0

    def add_enforcer(self, enforcer: Enforcer, *, first: bool = False) -> None:
        """Start to use a means, and tell it all that is in force.

        Args:
            enforcer: The means.
            first: It is told before those that are there: the fastest one.
        """
        told = Told(enforcer)
        self._means.insert(0 if first else len(self._means), told)
        self._tell_exemptions(told)
        blocked = dict.fromkeys(self._in_force.blocked_subjects())
        self._tell_all(told, blocked, self._list_wanted(blocked))

    def remove_enforcer(self, enforcer: Enforcer) -> None:
        """Stop to use a means that is gone."""
        self._means = [told for told in self._means if told.enforcer is not enforcer]

    def apply_exemptions(self, exemptions: Exemptions) -> None:
        """Tell all means what passes in spite of any refusal, those that do not know it yet."""
        self._exemptions = exemptions
        for told in self._means:
            self._tell_exemptions(told)

    def apply(self, subject: Subject, *, settle: bool = False) -> bool:
        """Bring all means in step for one subject; False if one of them failed.

        Args:
            subject: Whom it concerns.
            settle: The kernel refuses the user already, by credits: means that look at packets wait SETTLE_NS, so that
                the first packets of connections that were let through just before are not among what they refuse.
        """
        fine = True
        for told in self._means:
            if settle and told.enforcer.name in PACKET_MEANS:
                self._settling.setdefault(subject, self._now() + SETTLE_NS)
            else:
                fine &= self._tell(told, subject)
        self._in_force.changed.discard(subject)
        return fine

    def apply_changes(self) -> None:
        """Bring all means in step for whoever's blocks have changed since they were told."""
        changed = dict.fromkeys(self._in_force.changed)
        failed = dict.fromkeys(subject for told in self._means for subject in told.failed)
        wanted = self._list_wanted(changed | failed)
        for told in self._means:
            self._tell_all(told, changed | failed, wanted)
        self._in_force.changed.difference_update(changed)  # not before: a mistake on the way leaves them to be told

    def apply_all(self, *, forget: bool = False) -> None:
        """Bring all means in step for everybody.

        Args:
            forget: What the kernel held is lost (a flush): tell everything again.
        """
        changed = tuple(self._in_force.changed)
        blocked = dict.fromkeys(self._in_force.blocked_subjects())
        wanted = self._list_wanted(blocked)
        for told in self._means:
            subjects = dict.fromkeys(told.denies) | blocked
            if forget:
                told.denies.clear()
            self._tell_all(told, subjects, wanted)
        self._in_force.changed.difference_update(changed)

    def forget(self, enforcer: Enforcer) -> None:
        """A means was taken away, and all it held with it."""
        for told in self._means:
            if told.enforcer is enforcer:
                told.denies.clear()
                told.failed.clear()

    def trouble(self) -> list[str]:
        """Which means fail now, for `status`."""
        return [f"{told.enforcer.name}: {told.trouble}" for told in self._means if told.trouble]

    def has_late_releases(self) -> bool:
        """Whether a means holds somebody still who has no block any more, as it failed to let them go."""
        return any(
            subject in told.denies and not self._in_force.blocks_of(subject)
            for told in self._means
            for subject in told.failed
        )

    def knows_exemptions(self) -> bool:
        """Whether every means was told what passes now."""
        return all(told.exemptions == self._exemptions for told in self._means)

    def next_deadline(self) -> int | None:
        """When a failed change is tried again, or a means that waited is told."""
        first = next(iter(self._settling.values()), None)
        return min((time for time in (self._retry_ns, first) if time is not None), default=None)

    def on_time(self, now_ns: int) -> None:
        """Tell what waited, try again what failed."""
        while self._settling and next(iter(self._settling.values())) <= now_ns:
            subject = next(iter(self._settling))
            del self._settling[subject]
            self.apply(subject)
        if self._retry_ns is not None and now_ns >= self._retry_ns:
            self._retry_ns = None
            for told in self._means:
                self._tell_exemptions(told)
                for subject in list(told.failed):
                    self._tell(told, subject)
            # What goes on failing may be slow as well (a full set): it must not take the loop's time.
            self._pause_ns = min(2 * self._pause_ns, _MAX_RETRY_NS) if self._retry_ns else _RETRY_NS

    def _tell_exemptions(self, told: Told) -> None:
        exemptions = self._exemptions
        if exemptions is not None and exemptions != told.exemptions:
            told.exemptions = None  # what a failed change has left is not known: told again at the next try
            if self._try(told, None, partial(told.enforcer.apply_exemptions, exemptions)):
                told.exemptions = exemptions

    def _list_wanted(self, subjects: Iterable[Subject]) -> Wanted:
        now_ns = self._now()
        return {subject: merge_denies(subject, self._in_force.blocks_of(subject), now_ns) for subject in subjects}

    def _tell_all(self, told: Told, subjects: Mapping[Subject, None], wanted: Wanted) -> None:
        enforcer = told.enforcer
        changes = told.find_changes(subjects, wanted, self._now())
        denies, releases, over = changes.denies, changes.releases, changes.over
        if not (denies or releases or over or told.failed):
            return
        if len(subjects) >= _MANY and isinstance(enforcer, BulkEnforcer):
            if (denies or releases) and not self._try(told, None, partial(enforcer.apply_many, denies, releases)):
                for deny in denies:  # nobody knows which of them are held: told one by one
                    _drop(told, deny.subject, deny.reach)
            else:
                for deny in denies:
                    _note(told, deny)
                for key in (*releases, *over):
                    _drop(told, *key)
                told.failed.difference_update(subjects)
                return
        for subject in subjects:
            self._tell(told, subject)

    def _tell(self, told: Told, subject: Subject) -> bool:
        now_ns = self._now()
        wanted = merge_denies(subject, self._in_force.blocks_of(subject), now_ns)
        fine = True
        # What begins comes first: what is narrowed to some ports refuses those at every moment.
        known = told.denies.get(subject, {})
        for reach in {**wanted, **known}:
            deny, held = wanted.get(reach), known.get(reach)
            if deny == held:
                continue
            if deny is not None:
                done = self._try(told, subject, partial(told.enforcer.apply_deny, deny))
                if done:
                    _note(told, deny)
                else:
                    _drop(told, subject, reach)  # not known to be held: told again at the next try
            else:
                over = held is not None and held.until_ns <= now_ns  # the kernel has ended it by itself
                done = over or self._try(told, subject, partial(told.enforcer.apply_release, subject, *reach))
                if done:
                    _drop(told, subject, reach)
            fine &= done
        if fine:
            told.failed.discard(subject)
        return fine

    def _try(self, told: Told, subject: Subject | None, change: Task) -> bool:
        try:
            change()
        except EnforceError as error:
            self.failures += 1
            if str(error) != told.trouble:
                log.error("%s does not do what it is told: %s", told.enforcer.name, error)  # noqa: TRY400 - no traceback for people
            told.trouble = str(error)
            if subject is not None:
                told.failed.add(subject)
            self._retry_ns = self._now() + self._pause_ns
            return False
        exemptions_known = subject is None or told.exemptions == self._exemptions
        if told.trouble is not None and exemptions_known and not told.failed - {subject}:
            log.warning("%s works again", told.enforcer.name)
            told.trouble = None
        return True


def _note(told: Told, deny: Deny) -> None:
    """It holds this refusal."""
    told.denies.setdefault(deny.subject, {})[deny.reach] = deny


def _drop(told: Told, subject: Subject, reach: Reach) -> None:
    """It does not hold this refusal, or nobody knows."""
    held = told.denies.get(subject, {})
    held.pop(reach, None)
    if not held:
        told.denies.pop(subject, None)
