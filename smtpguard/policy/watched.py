"""One subject as the engine watches it: its account, its windows, what is remembered of its blocks."""

from typing import TYPE_CHECKING

from smtpguard.model import Account, Mode, Subject
from smtpguard.policy.book import Book
from smtpguard.policy.counters import Ports
from smtpguard.policy.rules import ATTEMPTS, BYTES, FAILURES, Terms
from smtpguard.policy.volumes import VolumeBook
from smtpguard.policy.windows import NEVER, Bounds

if TYPE_CHECKING:
    from smtpguard.policy.escalation import Record

MODES: tuple[Mode, ...] = ("enforce", "dry-run")
CONTAINER = "container"
SHARED = "shared user"
NEVER_REFUSED = frozenset({"root", "mta", "exempt"})


class Watched:
    """One subject and its windows.

    Attributes:
        account: The account as it was when the rules were compiled.
        books: Windows of attempts, for rules in earnest and rules that are only told; empty for whom nothing counts.
        failures, volumes: Windows of failed connections, and of bytes, likewise.
        why: Why none of its rules is carried out; "" if not so.
        seen: When it was last seen on a port, from before its windows.
        records: What is remembered of its blocks, per mode.
        generation: Of the configuration its rules were compiled from.
        saved: What was exported last, by part: a mark that differs when the part does; None if it must be again.
        groups: What it counts against: its pool; its namespace and uid in another one.
    """

    __slots__ = (
        "account",
        "books",
        "failures",
        "generation",
        "groups",
        "records",
        "saved",
        "seen",
        "subject",
        "volumes",
        "why",
    )

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.account = Account(uid=subject.uid, name=None, standing="tenant")
        self.books: tuple[Book, ...] = ()
        self.failures: tuple[Book, ...] = ()
        self.volumes: tuple[VolumeBook, ...] = ()
        self.why = ""
        self.seen: dict[int, int] = {}
        self.records: dict[Mode, Record] = {}
        self.saved: dict[str, int | None] = {}
        self.generation = -1
        self.groups: tuple[str, ...] = ()

    def windows(self) -> list[Book | VolumeBook]:
        """All its windows, whatever they count."""
        return [*self.books, *self.failures, *self.volumes]

    def touched_ns(self) -> int:
        """When something last happened to its windows; NEVER if nothing did."""
        return max((book.touched_ns() for book in self.windows()), default=NEVER)

    def rebuild(self, terms: Terms, ports: Ports, bounds: Bounds) -> None:
        """Make windows for rules; those that go on take over what there was.

        Args:
            terms: The rules.
            ports: The guarded ports.
            bounds: What all windows together may hold.
        """
        books, failures, volumes = (
            [(mode, rules) for mode in MODES if (rules := terms.of(mode, counts))]
            for counts in (ATTEMPTS, FAILURES, BYTES)
        )
        new_books = tuple(Book(rules, ports, mode, self.seen, bounds) for mode, rules in books)
        new_failures = tuple(Book(rules, ports, mode, self.seen, bounds) for mode, rules in failures)
        new_volumes = tuple(VolumeBook(rules, ports, mode) for mode, rules in volumes)
        for book, olds in [(book, self.books) for book in new_books] + [(book, self.failures) for book in new_failures]:
            book.adopt(sorted(olds, key=lambda old: old.mode != book.mode))
        for volume in new_volumes:
            volume.adopt(sorted(self.volumes, key=lambda old: old.mode != volume.mode))
        self.drop_windows()
        self.books, self.failures, self.volumes = new_books, new_failures, new_volumes

    def drop_windows(self) -> None:
        """Forget all windows, and remember only when it was last seen, for rules that ask."""
        for book in (*self.books, *self.failures):
            book.note_seen()
            book.release()
        self.books, self.failures, self.volumes = (), (), ()
