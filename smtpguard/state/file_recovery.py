"""Keeping one state file alive: opens it, writes batches, recovers from whatever happens to it. No thread, no lock.

Every failure ends here: it is counted, told once while it lasts, and named in `error`. What recovery did is told in
`notes`. The caller asks `ensure` before each `commit`, and tries again later when it can't be had.
"""

import logging
import sqlite3
from dataclasses import dataclass

from smtpguard.errors import StateError
from smtpguard.hooks import ClockNs
from smtpguard.kernel.heap import give_back_memory
from smtpguard.model import NS
from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state.backlog import Batch
from smtpguard.state.open_file import is_damage, primary_code, read_identity, set_aside
from smtpguard.state.statements import EMPTY_KEPT
from smtpguard.state.store import Loaded, Store

FIRST_PRUNE_NS = 10 * MINUTE_NS
"""By then a clock that was wrong at boot is set: history must not be judged by it."""
PRUNE_NS = MINUTE_NS
PRUNE_STEP_NS = 100_000_000
"""While there is something to delete, a step every 100 ms."""
FULL_NS = NS
"""So long after the file was full for a commit, old rows make room."""
SETTLE_NS = HOUR_NS
"""A clock that was set by more than this is believed only after it stood for as long."""
BUSY_S = 1.0
"""How long a start or a commit waits for the lock of another process."""
MAX_NOTES = 20
MANY_ROWS = 1000
"""Written: where so many came and went, tables that grew with users have left gaps in the heap."""

_log = logging.getLogger("smtpguard.state")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where the state is and how large it may grow.

    Attributes:
        path: Absolute path of the file.
        keep_ns: How long history is kept.
        max_bytes: Bound of the file's size.
        boot_id: This boot.
    """

    path: str
    keep_ns: int
    max_bytes: int
    boot_id: str


class Keeper:
    """The file and its failures. For one thread at a time.

    Args:
        paths: Where and how large.
        wall: Wall clock, nanoseconds since the epoch.
        monotonic: Clock that never goes back, nanoseconds.

    Attributes:
        commits, failures: Since the start.
        error: The failure that lasts; None when all is well.
        notes: What a person must know, newest last, the last 20.
        fresh: How often a file was begun in place of one that was lost: what the file held of windows is gone.
        size_bytes: What the file holds.
    """

    def __init__(self, paths: Paths, *, wall: ClockNs, monotonic: ClockNs) -> None:
        self._paths = paths
        self._wall = wall
        self._monotonic = monotonic
        self._store: Store | None = None
        self._prune_ns = monotonic() + FIRST_PRUNE_NS
        self._clocks = (monotonic(), wall())
        self._rows = 0  # written since memory was given back last
        self.commits = 0
        self.failures = 0
        self.error: str | None = None
        self.notes: tuple[str, ...] = ()
        self.fresh = 0
        self.size_bytes = 0

    @property
    def path(self) -> str | None:
        """The file in use; None while there is none."""
        return None if self._store is None else self._store.path

    @property
    def prune_deadline_ns(self) -> int | None:
        """When `prune` wants to be called (monotonic); None while there is no file."""
        return None if self._store is None else self._prune_ns

    def open(self) -> Loaded | None:
        """Open the file and read it.

        Returns:
            What it held; None if it can't be had now.
        """
        try:
            loaded = self._open()
            if loaded.damage is not None:
                self._set_aside(loaded.damage)
                self._open()
        except StateError as failure:
            self._fail(str(failure))
            return None
        except sqlite3.Error as failure:
            self._fail(f"{self._paths.path}: {failure}")
            return None
        self.error = None
        return loaded

    def ensure(self) -> None:
        """Notice that the file was deleted or replaced by somebody, and begin it anew."""
        store = self._store
        if store is None or store.is_in_place():
            return
        missing = read_identity(store.path) is None
        self._note(f"{store.path} was {'deleted' if missing else 'replaced'} by somebody: begun anew")
        self._close()
        self.fresh += 1
        self.open()

    def commit(self, batch: Batch) -> bool:
        """Write a batch, what must not be lost first and by itself.

        Args:
            batch: Emptied of what was written.

        Returns:
            Whether all of it was.
        """
        store = self._store
        if store is None:
            return False
        self._rows += len(batch)
        try:
            if batch.kept or batch.renewed:
                store.run([*(EMPTY_KEPT if batch.renewed else ()), *batch.kept.values()], durable=True)
                batch.kept, batch.renewed = {}, False
            if len(batch):
                store.run([*batch.latest.values(), *batch.history, *batch.activity], durable=False)
                batch.latest, batch.history, batch.activity = {}, [], []
            self.size_bytes = store.size_bytes()
        except sqlite3.Error as failure:
            self._recover(failure)
            return False
        self.commits += 1
        if self._rows >= MANY_ROWS:
            self._rows = 0
            give_back_memory()
        if self.error is not None:
            _log.warning("%s: written again", store.path)
            self.error = None
        return True

    def prune(self) -> bool:
        """One small step of keeping the file small, if it is time to; whether anything was deleted."""
        now_ns, wall_ns = self._monotonic(), self._wall()
        if self._store is None or now_ns < self._prune_ns:
            return False
        drift_ns = (wall_ns - self._clocks[1]) - (now_ns - self._clocks[0])
        self._clocks = (now_ns, wall_ns)
        if abs(drift_ns) > SETTLE_NS:
            self._prune_ns = now_ns + SETTLE_NS
            return False
        self._prune_ns = now_ns + PRUNE_NS
        try:
            deleted = self._store.prune(wall_ns, self._paths.keep_ns)
        except sqlite3.Error as failure:
            self._recover(failure)
            return False
        if deleted:
            self._prune_ns = now_ns + PRUNE_STEP_NS
        return bool(deleted)

    def close(self) -> None:
        """Close the file."""
        self._close()

    def _open(self) -> Loaded:
        paths = self._paths
        wall_ns = self._wall()
        store = Store.open(paths.path, boot_id=paths.boot_id, wall_ns=wall_ns, max_bytes=paths.max_bytes, busy_s=BUSY_S)
        try:
            loaded = store.load(wall_ns)
        except BaseException:
            store.close()
            raise
        for note in store.notes:
            self._note(note)
        self._store = store
        self.size_bytes = store.size_bytes()
        return loaded

    def _recover(self, failure: sqlite3.Error) -> None:
        """After a failed statement: leave a file that is no good any more; the next `ensure` or `open` begins anew."""
        store = self._store
        assert store is not None  # noqa: S101 - statements run on an open file only
        self._fail(f"{store.path}: {failure}")
        if is_damage(failure):
            try:
                self._set_aside(str(failure))
            except StateError as refused:
                self._fail(str(refused))
        elif primary_code(failure) == sqlite3.SQLITE_FULL:
            self._prune_ns = min(self._prune_ns, self._monotonic() + FULL_NS)  # max_mb may be what is full

    def _set_aside(self, why: str) -> None:
        path = self.path or self._paths.path
        self._close()
        self._note(set_aside(path, wall_ns=self._wall(), why=why))
        self.fresh += 1

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _note(self, text: str) -> None:
        _log.warning("%s", text)
        self.notes = (*self.notes, text)[-MAX_NOTES:]

    def _fail(self, text: str) -> None:
        self.failures += 1
        if self.error != text:
            _log.error("%s; kept in memory and tried again", text)
        self.error = text
