"""One subject as the engine watches it: its account, its windows, what is remembered of its blocks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from smtpguard.model import Account, Mode, Subject
from smtpguard.policy.byte_windows import ByteWindows
from smtpguard.policy.compiled_rules import RulesByMode
from smtpguard.policy.rule_windows import RuleWindows
from smtpguard.policy.window_adoption import adopt_windows
from smtpguard.policy.windows import NEVER, Bounds

if TYPE_CHECKING:
    from smtpguard.policy.escalation import Record

MODES: tuple[Mode, ...] = ("enforce", "dry-run")
CONTAINER = "container"
SHARED = "shared user"
HEARD = "seen by the source proc alone"
NO_RECORDS: Mapping[Mode, "Record"] = MappingProxyType({})
NEVER_REFUSED = frozenset({"root", "mta", "exempt"})


class SubjectState:
    """One subject and its windows.

    Attributes:
        account: The account as it was when the rules were compiled.
        books: Windows of attempts, for enforced rules and for report-only ones; empty for whom nothing counts.
        failures, volumes: Windows of failed connections, and of bytes, likewise.
        plans: The rules they are of; None without windows.
        why: Why none of its rules is carried out; "" if not so.
        seen: When it was last seen on a port, from before its windows.
        records: What is remembered of its blocks, per mode; never changed in place, as most users share the empty one.
        generation: Of the configuration its rules were compiled from.
        changes: Grows with what the windows themselves do not show: verdicts told, windows emptied.
        saved: What was exported last, by part: a mark that differs when the part does; None if it must be again.
        exported: `version` at the last export.
        groups: What it counts against: its pool; its namespace and uid in another one.
        swept_ns: `touched_ns` when a sweep last asked: it was not silent for longer than since then.
    """

    __slots__ = (
        "account",
        "books",
        "changes",
        "exported",
        "failures",
        "generation",
        "groups",
        "plans",
        "records",
        "saved",
        "seen",
        "subject",
        "swept_ns",
        "volumes",
        "why",
    )

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.account = Account(uid=subject.id, name=None, standing="tenant")
        self.books: tuple[RuleWindows, ...] = ()
        self.failures: tuple[RuleWindows, ...] = ()
        self.volumes: tuple[ByteWindows, ...] = ()
        self.plans: RulesByMode | None = None
        self.why = ""
        self.seen: dict[int, int] = {}
        self.records: Mapping[Mode, Record] = NO_RECORDS
        self.saved: dict[str, int | None] = {}
        self.changes = 0
        self.exported = -1
        self.generation = -1
        self.groups: tuple[str, ...] = ()
        self.swept_ns = NEVER

    def windows(self) -> list[RuleWindows | ByteWindows]:
        """All its windows, whatever they count."""
        return [*self.books, *self.failures, *self.volumes]

    def version(self) -> int:
        """A number that grows with everything that an export would show."""
        version = self.changes << 48
        for book in (*self.books, *self.failures):
            version += book.changes + sum([lane.base + len(lane.times) for lane in book.lanes])
        return version + sum([volume.changes for book in self.volumes for volume in book.counters])

    def touched_ns(self) -> int:
        """When something last happened to its windows; NEVER if nothing did."""
        return max((book.touched_ns() for book in self.windows()), default=NEVER)

    def rebuild(self, plans: RulesByMode, bounds: Bounds) -> None:
        """Make windows for rules; those that go on take over what there was.

        Args:
            plans: The rules.
            bounds: What all windows together may hold.
        """
        books = tuple(RuleWindows(plan, mode, self.seen, bounds) for mode, plan in plans.attempts)
        failures = tuple(RuleWindows(plan, mode, self.seen, bounds) for mode, plan in plans.failures)
        volumes = tuple(ByteWindows(rules, plans.ports, mode) for mode, rules in plans.volumes)
        for new, olds in ((books, self.books), (failures, self.failures)):
            for book in new:
                adopt_windows(book, sorted(olds, key=lambda old: old.mode != book.mode))
        for volume in volumes:
            volume.adopt(sorted(self.volumes, key=lambda old: old.mode != volume.mode))
        self.drop_windows()
        self.books, self.failures, self.volumes, self.plans = books, failures, volumes, plans

    def drop_windows(self) -> None:
        """Forget all windows, and remember only when it was last seen, for rules that ask."""
        for book in (*self.books, *self.failures):
            book.note_seen()
            book.release()
        self.books, self.failures, self.volumes, self.plans = (), (), (), None
        self.changes += 1
