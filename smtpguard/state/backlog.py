"""What is on its way to the state file: bounded, coalesced, and dropped in a fixed order. Pure.

Four classes. *Kept*: blocks, allowances, switches, escalation; the latest statement of a key is all that matters, and
it is remembered after it was written, so that a file that was lost can be written again. *Latest*: windows and
incidents, by key too, but not remembered. *History*: verdicts and changes, the oldest dropped when full. *Activity*:
dropped first.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from smtpguard.state.columns import Key, Statement

MAX_KEPT = 400_000
"""Keys: four for each of 100,000 users."""
MAX_LATEST = 1_000_000
MAX_HISTORY = 20_000
MAX_ACTIVITY = 100_000


@dataclass(slots=True, kw_only=True)
class Batch:
    """What one commit is to write; with `renewed`, `kept` is all that the file shall hold of its tables."""

    renewed: bool = False
    kept: dict[Key, Statement] = field(default_factory=dict)
    latest: dict[Key, Statement] = field(default_factory=dict)
    history: list[Statement] = field(default_factory=list)
    activity: list[Statement] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kept) + len(self.latest) + len(self.history) + len(self.activity) + self.renewed


class Backlog:
    """The four classes. Not locked: its owner does that.

    Attributes:
        dropped: Statements dropped, by class.
    """

    __slots__ = ("_activity", "_dirty", "_history", "_known", "_latest", "_owned", "_renewed", "dropped")

    def __init__(self) -> None:
        self._known: dict[Key, Statement] = {}
        self._owned: dict[Key, dict[Key, None]] = {}
        self._dirty: dict[Key, Statement] = {}
        self._latest: dict[Key, Statement] = {}
        self._renewed = False
        self._history: deque[Statement] = deque()
        self._activity: deque[Statement] = deque()
        self.dropped = {"kept": 0, "latest": 0, "history": 0, "activity": 0}

    def __len__(self) -> int:
        return len(self._dirty) + len(self._latest) + len(self._history) + len(self._activity)

    @property
    def is_urgent(self) -> bool:
        """Whether something waits that must not be lost."""
        return bool(self._dirty) or self._renewed

    def keep(self, key: Key, statement: Statement) -> None:
        """Put a keyed row; it is written, and written again to a new file."""
        if key not in self._known:
            if len(self._known) >= MAX_KEPT:
                self.dropped["kept"] += 1
                return
            self._owned.setdefault(key[:2], {})[key] = None
        self._known[key] = self._dirty[key] = statement

    def recall(self, key: Key, statement: Statement) -> None:
        """Note a row that the file holds already; what was put or forgotten since the start is newer."""
        if key not in self._known and key not in self._dirty and len(self._known) < MAX_KEPT:
            self._owned.setdefault(key[:2], {})[key] = None
            self._known[key] = statement

    def forget(self, key: Key, statement: Statement) -> None:
        """Delete a keyed row."""
        if self._known.pop(key, None) is not None:
            owned = self._owned[key[:2]]
            del owned[key]
            if not owned:
                del self._owned[key[:2]]
        self._dirty[key] = statement

    def owned(self, table: str, uid: int) -> list[Key]:
        """Keys of a user's kept rows."""
        return list(self._owned.get((table, uid), ()))

    def put_latest(self, key: Key, statement: Statement) -> None:
        """Put or delete a window or incident."""
        if key not in self._latest and len(self._latest) >= MAX_LATEST:
            self.dropped["latest"] += 1
            return
        self._latest[key] = statement

    def add_history(self, statement: Statement) -> None:
        """Add to the history; the oldest goes when there is no room."""
        self._history.append(statement)
        self._trim(self._history, MAX_HISTORY, "history")

    def add_activity(self, statements: Iterable[Statement]) -> None:
        """Add figures; the newest go when there is no room."""
        for statement in statements:
            if len(self._activity) >= MAX_ACTIVITY:
                self.dropped["activity"] += 1
            else:
                self._activity.append(statement)

    def take(self) -> Batch:
        """All that waits."""
        batch = Batch(
            renewed=self._renewed,
            kept=self._dirty,
            latest=self._latest,
            history=list(self._history),
            activity=list(self._activity),
        )
        self._renewed = False
        self._dirty, self._latest = {}, {}
        self._history.clear()
        self._activity.clear()
        return batch

    def put_back(self, batch: Batch) -> None:
        """What could not be written waits again, unless something newer took its place."""
        self._dirty = batch.kept | self._dirty
        self._renewed |= batch.renewed
        self._latest = batch.latest | self._latest
        self._history.extendleft(reversed(batch.history))
        self._trim(self._history, MAX_HISTORY, "history")
        room = MAX_ACTIVITY - len(self._activity)
        self.dropped["activity"] += max(0, len(batch.activity) - room)
        self._activity.extendleft(reversed(batch.activity[:room]))

    def renew(self) -> None:
        """The file was lost: all that is known is to be written again."""
        self._dirty = self._known | self._dirty
        self._renewed = True

    def _trim(self, rows: deque[Statement], bound: int, name: str) -> None:
        while len(rows) > bound:
            rows.popleft()
            self.dropped[name] += 1
