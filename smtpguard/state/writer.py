"""The thread that owns the state file: the daemon hands over and never waits for the disk.

What must not be lost is committed at once and synced, the rest once a second. `keeper.py` knows what to do when the
file fails; until it can be written again, `backlog.py` holds what waits, within bounds.
"""

import threading
import time
from collections.abc import Iterable

from smtpguard.hooks import ClockNs, Task
from smtpguard.kernel.lasting_thread import start_lasting
from smtpguard.model import NS
from smtpguard.state import statements
from smtpguard.state.backlog import Backlog
from smtpguard.state.columns import Key, Statement
from smtpguard.state.file_recovery import Keeper, Paths
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.rows import WindowRow
from smtpguard.state.statements import HistoryRow, KeptRow
from smtpguard.state.stats import StateStats
from smtpguard.state.store import Loaded

COMMIT_NS = NS
"""At most one second of counting is lost when the process is killed."""
MANY = 1000
"""Changes that wait in memory, some 300 bytes each: with more of them the next commit begins before its second."""
MAX_BACKOFF_NS = 30 * NS
LOOK_NS = 10 * NS
"""How often an idle thread looks whether somebody took the file away, so that a restart finds what it promised."""


class StateWriter:
    """State, from the daemon's side. No method waits for the disk but `start`, `flush` and `close`.

    Args:
        paths: Where the file is and how large it may grow.
        wall: Wall clock, nanoseconds since the epoch.
        monotonic: Clock that never goes back, nanoseconds.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        wall: ClockNs = time.time_ns,
        monotonic: ClockNs = time.monotonic_ns,
    ) -> None:
        self._boot_id = paths.boot_id
        self._monotonic = monotonic
        self._wall = wall
        self._keeper = Keeper(paths, wall=wall, monotonic=monotonic)
        self._backlog = Backlog()
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._given = 0  # changes handed over, and how many of them are in the file
        self._written = 0
        self._due_ns: int | None = None
        self._retry_ns = 0
        self._look_ns = self._monotonic() + LOOK_NS
        self._backoff_ns = NS
        self._fresh = 0
        self._is_loaded = False
        self._in_flight = 0
        self._late: Loaded | None = None
        self._waiters: dict[int, tuple[int, Task]] = {}  # ticket to: how many changes must be in the file, whom to tell
        self._tickets = 0

    def start(self) -> Loaded:
        """Open the file, read it, and begin the thread.

        Returns:
            What it held; nothing, with a note, where it can't be had now. See `take_late`.
        """
        loaded = self._open()
        self._thread = start_lasting("state", self._run)
        if loaded is not None:
            return loaded
        return Loaded(now_ns=self._wall(), notes=(self._keeper.error or "the state can't be read",))

    def take_late(self) -> Loaded | None:
        """What a file held that could not be read at the start and could be later; once."""
        with self._condition:
            late, self._late = self._late, None
        return late

    @property
    def is_read(self) -> bool:
        """Whether what the file held at the start is known; False while it can't be had, or waits for `take_late`."""
        with self._condition:
            return self._is_loaded and self._late is None

    def put(self, row: KeptRow | IncidentRow) -> None:
        """Keep a row as it is now; in place of the one with the same key."""
        key, statement = statements.key_of(row), statements.put(row, self._boot_id)
        with self._condition:
            if isinstance(row, IncidentRow):
                self._backlog.put_latest(key, statement)
            else:
                self._backlog.keep(key, statement)
            self._touch()

    def put_windows(self, rows: Iterable[WindowRow]) -> None:
        """Keep windows that changed since the last call; who calls once a second loses no more when it is killed."""
        with self._condition:
            changed = False
            for row in rows:
                self._backlog.put_latest(statements.key_of(row), statements.put(row, self._boot_id))
                changed = True
            if changed:
                self._touch(at_once=True)

    def delete(self, key: Key) -> None:
        """What a key names has ended."""
        with self._condition:
            self._backlog.forget(key, statements.delete(key))
            self._touch()

    def kept(self, table: str, uid: int) -> list[Key]:
        """The keys of a user's rows in a table of what must not be lost."""
        with self._condition:
            return self._backlog.owned(table, uid)

    def add(self, row: HistoryRow) -> None:
        """Add to the history."""
        self.add_to_history(statements.add(row))

    def add_to_history(self, statement: Statement) -> None:
        """Change the history: the oldest of it is dropped where the file can't be written for long."""
        with self._condition:
            self._backlog.add_history(statement)
            self._touch()

    def add_activity(self, rows: Iterable[Statement]) -> None:
        """Add figures (activity.py); the first to be dropped."""
        with self._condition:
            self._backlog.add_activity(rows)
            self._touch(at_once=len(self._backlog) >= MANY)

    def stats(self) -> StateStats:
        """The figures for `status`."""
        keeper = self._keeper
        with self._condition:
            return StateStats(
                path=keeper.path,
                size_bytes=keeper.size_bytes,
                waiting=len(self._backlog) + self._in_flight,
                commits=keeper.commits,
                failures=keeper.failures,
                dropped=dict(self._backlog.dropped),
                error=keeper.error,
                notes=keeper.notes,
                fresh=keeper.fresh,
            )

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was handed over is in the file.

        Returns:
            Whether it is, in time.
        """
        with self._condition:
            target = self._given
            self._due_ns = self._retry_ns = 0
            self._condition.notify_all()
            return self._condition.wait_for(lambda: self._written >= target, timeout_s)

    def when_written(self, then: Task) -> int | None:
        """Have something called, from the thread, once all that was handed over until now is in the file.

        Args:
            then: Must not wait.

        Returns:
            What `forget_waiter` takes; None if all is there already, and nothing will be called.
        """
        with self._condition:
            if self._written >= self._given:
                return None
            self._tickets += 1
            self._waiters[self._tickets] = (self._given, then)
            self._due_ns = 0
            self._condition.notify_all()
            return self._tickets

    def forget_waiter(self, ticket: int) -> bool:
        """Call it no more; False if it was called already."""
        with self._condition:
            return self._waiters.pop(ticket, None) is not None

    def close(self, timeout_s: float = 2.0) -> bool:
        """Write what waits, close the file, end the thread.

        Returns:
            Whether all was written in time; if the disk hangs, the thread ends with the process.
        """
        with self._condition:
            self._closing = True
            self._retry_ns = 0
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
        return not len(self._backlog)

    def _touch(self, *, at_once: bool = False) -> None:
        """Note that there is something to write; wakes the thread only if that changes when it is due."""
        self._given += 1
        is_urgent = at_once or self._backlog.is_urgent
        if self._due_ns is None or (is_urgent and self._due_ns):
            self._due_ns = 0 if is_urgent else self._monotonic() + COMMIT_NS
            self._condition.notify_all()

    def _open(self) -> Loaded | None:
        loaded = self._keeper.open()
        with self._condition:
            if loaded is not None and not self._is_loaded:
                self._is_loaded = True
                for key, statement in loaded.kept(self._boot_id):
                    self._backlog.recall(key, statement)
                if self._thread is not None:
                    self._late = loaded
            if self._keeper.fresh != self._fresh:
                self._due_ns = 0
        return loaded

    def _run(self) -> None:
        """The thread: sleeps until something is due; now and then it looks whether the file is still in its place."""
        while True:
            with self._condition:
                while not self._closing and (wait_ns := self._wait_ns()) != 0:
                    self._condition.wait(wait_ns / NS)
                closing = self._closing
            if not closing and self._monotonic() < self._retry_ns:
                self._prune()  # that alone is due
                continue
            is_done = self._cycle()
            if closing:
                if not is_done:
                    self._cycle()  # a file that was just set aside can be begun anew
                break
        self._keeper.close()

    def _wait_ns(self) -> int:
        """How long there is nothing to do; after a failure nothing is written before its time."""
        prune_ns = self._keeper.prune_deadline_ns
        due_ns = self._look_ns if self._due_ns is None else self._due_ns
        wanted_ns = self._retry_ns if prune_ns is None else min(prune_ns, max(self._retry_ns, due_ns))
        return max(0, wanted_ns - self._monotonic())

    def _cycle(self) -> bool:
        """Write all that waits; False if it could not be, and is to be tried again later."""
        keeper = self._keeper
        self._look_ns = self._monotonic() + LOOK_NS
        if keeper.path is None:
            self._open()
        else:
            keeper.ensure()
        with self._condition:
            if keeper.fresh != self._fresh:
                self._fresh = keeper.fresh
                self._backlog.renew()
            batch = self._backlog.take()
            given = self._given
            self._due_ns = None
            self._in_flight = len(batch)
        try:
            is_done = keeper.path is not None and (not len(batch) or keeper.commit(batch))
        except Exception:
            with self._condition:  # nothing is lost by a mistake: it is tried again
                self._in_flight, self._due_ns = 0, 0
                self._backlog.put_back(batch)
            raise
        with self._condition:
            self._in_flight = 0
            if is_done:
                self._written = given
                self._retry_ns, self._backoff_ns = 0, NS
            else:
                self._backlog.put_back(batch)
                self._due_ns = 0
                self._retry_ns = self._monotonic() + self._backoff_ns
                self._backoff_ns = min(2 * self._backoff_ns, MAX_BACKOFF_NS)
            done = [ticket for ticket, (target, _) in self._waiters.items() if target <= self._written]
            told = [self._waiters.pop(ticket)[1] for ticket in done]
            self._condition.notify_all()
        for then in told:
            then()
        self._prune()
        return is_done

    def _prune(self) -> None:
        """Keep the file small; where it was full and has room now, what waits is written at once."""
        if self._keeper.prune():
            with self._condition:
                self._retry_ns = 0
