"""`replay --learn`: what logs of before tell of who sends, put into the state: who was seen, and the usual figures.

A time that is known already, because the guard watched or a log of it was read, is never counted again: the same log
read twice counts once, under whatever name. Nothing that is known gets older. Each step is a transaction with the
times that it covers, so that a run that is interrupted can be repeated.
"""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from smtpguard.daemon.startup.instance_lock import InstanceLock
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import BusyError, StateError
from smtpguard.model import NS, Connect
from smtpguard.policy.destinations import Destinations
from smtpguard.policy.history import Span, add_spans, known_since, speaks_from, watched_since
from smtpguard.safe_files import check_directory
from smtpguard.settings import Settings
from smtpguard.state import statements
from smtpguard.state.activity import Tally
from smtpguard.state.learned import LEARNED, WATCHED, read_spans, render_spans
from smtpguard.state.migrations import VERSION
from smtpguard.state.open_file import open_state
from smtpguard.state.rows import FactRow

STEP = 5_000
"""Connects between two transactions: some 50 ms in which the guard can't write."""
MAX_SEEN = 100_000
"""Users and ports that are remembered; who comes later is not."""
_BUSY_S = 10.0
_MAX_HOSTS = 5
"""Left-out hosts that are named."""
WRITTEN_EVERY_NS = 600 * NS
"""How often a guard writes down until when it has watched, see daemon/record/learning_period.py."""


@dataclass(kw_only=True)
class Learned:
    """What a run has learned.

    Attributes:
        connects: Connects that were new.
        spans: Which times they cover.
        seen: When who was last seen on a port (wall time).
        known, old, future, foreign, strangers: Connects left out: of times that were known; older than the state keeps;
            of the future; of another host; of accounts that are somebody else's now, or of nobody.
        hosts: Names of other hosts that were left out, the first ones.
    """

    connects: int = 0
    spans: tuple[Span, ...] = ()
    seen: dict[tuple[int, int], int] = field(default_factory=dict)
    known: int = 0
    old: int = 0
    future: int = 0
    foreign: int = 0
    hosts: set[bytes] = field(default_factory=set)
    strangers: int = 0

    @property
    def users(self) -> int:
        """Of how many users something was learned."""
        return len({uid for uid, _ in self.seen})


class Learner:
    """Puts connects of logs into the state, step by step.

    Args:
        settings: What counts, and how long it is kept.
        state: The open state file.
        wall_ns: Now.
        node: This host's name in logs of several, in short; None to take all.

    Attributes:
        learned: What has become of it.
        facts: What the state held.
    """

    def __init__(self, settings: Settings, state: sqlite3.Connection, *, wall_ns: int, node: str | None) -> None:
        self._settings = settings
        self._state = state
        self._accounts = AccountDirectory(settings)
        self._destinations = Destinations(exempt=settings.exempt.networks)
        self._counts_loopback = settings.loopback == "count"
        self._first_ns, self._last_ns = wall_ns - settings.state_keep_ns, wall_ns
        self._node = None if node is None else node.partition(".")[0].lower().encode()
        self._names: dict[tuple[int, bytes], int | None] = {}
        self._tally = Tally()
        self._waiting = 0
        self.learned = Learned()
        self.facts = _read_facts(state)
        self._before = read_spans(self.facts, LEARNED)
        watched = read_spans(self.facts, WATCHED)
        # A guard that runs has seen what came after it last wrote that down.
        self._known = (
            *self._before,
            *((first, max(last, wall_ns)) if _runs(last, wall_ns) else (first, last) for first, last in watched),
        )

    def take(self, connects: Iterable[Connect]) -> None:
        """Learn from some connects, in the order of the log."""
        found = self.learned
        for connect in connects:
            exempt = self._destinations.why_exempt(connect.address)
            if exempt is not None and not (exempt == "loopback" and self._counts_loopback):
                continue
            time_ns = connect.time_ns
            if self._node is not None and connect.node is not None:
                node = connect.node.partition(b".")[0].lower()
                if node != self._node:
                    found.foreign += 1
                    if len(found.hosts) < _MAX_HOSTS:
                        found.hosts.add(node)
                    continue
            if time_ns > self._last_ns:
                found.future += 1
                continue
            if time_ns < self._first_ns:
                found.old += 1
                continue
            if any(first <= time_ns <= last for first, last in self._known):
                found.known += 1
                continue
            uid = self._whose(connect)
            self._cover(time_ns)
            if uid is None:
                found.strangers += 1
                continue
            refused = connect.result == "refused"
            self._tally.add_connect(
                uid, wall_ns=time_ns, address=connect.address, port=connect.port, script=None, refused=refused
            )
            key = (uid, connect.port)
            if not refused and (key in found.seen or len(found.seen) < MAX_SEEN):
                found.seen[key] = max(time_ns, found.seen.get(key, 0))
            found.connects += 1
            self._waiting += 1
            if self._waiting >= STEP:
                self.write()

    def write(self) -> None:
        """Put what was learned since the last call into the file, with the times that it covers. Raises StateError."""
        rows = self._tally.take()
        self._waiting = 0
        if not rows and not self.learned.spans:
            return
        learned = FactRow(name=LEARNED, value=render_spans(add_spans(self._before, self.learned.spans)))
        rows.append(statements.put(learned, ""))
        try:
            self._state.execute("BEGIN IMMEDIATE")
            try:
                for row in rows:
                    self._state.execute(row.sql, row.parameters)
                self._state.execute("COMMIT")
            except BaseException:
                if self._state.in_transaction:
                    self._state.execute("ROLLBACK")
                raise
        except sqlite3.Error as failure:
            raise StateError(
                f"can't be written: {failure}", fix="run it again: what was written counts once"
            ) from failure

    def novel_rules(self) -> list[str]:
        """The rules that ask for the past."""
        return [rule.name for rule in self._settings.rules if rule.novel_ns is not None]

    def waiting(self) -> dict[str, int]:
        """The rules of a guard that would start now which say nothing, and until when."""
        learned = add_spans(self._before, self.learned.spans)
        since_ns = known_since(watched_since(read_spans(self.facts, WATCHED), self._last_ns), learned)
        times = {rule.name: speaks_from(rule, since_ns) for rule in self._settings.rules}
        return {name: until_ns for name, until_ns in times.items() if until_ns is not None and until_ns > self._last_ns}

    def _cover(self, time_ns: int) -> None:
        spans = self.learned.spans
        if spans and spans[-1][0] <= time_ns <= spans[-1][1]:
            return
        self.learned.spans = add_spans(spans, [(time_ns, time_ns)])

    def _whose(self, connect: Connect) -> int | None:
        """The uid that an attempt counts for; None if it is nobody's, or somebody else's than it was."""
        uid = connect.uid
        if uid is None:
            return None
        key = (uid, connect.user or b"")
        if key not in self._names:
            owner = self._accounts.owner(uid)
            names = [name.encode("utf-8", "surrogateescape") for name in self._accounts.account(uid).names]
            is_other = connect.user is not None and names and connect.user not in names
            self._names[key] = None if is_other else owner
        return self._names[key]


@contextlib.contextmanager
def open_for_learning(settings: Settings, *, wall_ns: int) -> Iterator[sqlite3.Connection]:
    """The state file: of a running guard beside it, or without one; then none starts meanwhile.

    Args:
        settings: Where it is.
        wall_ns: Now.

    Raises:
        StateError: It can't be had, or another version of smtpguard wrote it.
    """
    path = settings.state_path
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(InstanceLock(settings, is_guard=False))
        except BusyError:
            connection = _open_beside(path, settings.state_max_bytes)
        else:
            opened = open_state(path, wall_ns=wall_ns, max_bytes=settings.state_max_bytes, busy_s=_BUSY_S)
            connection = opened.connection
            if opened.path != path:
                connection.close()
                raise StateError("was written by a newer smtpguard", where=path)
        with closing(connection):
            yield connection


def _open_beside(path: str, max_bytes: int) -> sqlite3.Connection:
    """The file that a running guard has open: nothing of it is migrated, mended or set aside."""
    check_directory(str(Path(path).parent), error=StateError)
    try:
        about = os.lstat(path)
        if not stat.S_ISREG(about.st_mode) or about.st_uid not in (0, os.geteuid()):
            raise StateError("not a plain file of ours", where=path)
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    except (OSError, sqlite3.Error) as failure:
        raise StateError(f"can't be opened: {failure}", where=path) from failure
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {max(256, max_bytes // page_bytes)}")
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as failure:
        connection.close()
        raise StateError(f"can't be read: {failure}", where=path) from failure
    if version != VERSION:
        connection.close()
        raise StateError("is of another version than this smtpguard", where=path, fix="restart the guard first")
    return connection


def _runs(last_ns: int, wall_ns: int) -> bool:
    """Whether a guard that wrote down so that it watched may be watching still."""
    return wall_ns - last_ns < 2 * WRITTEN_EVERY_NS


def _read_facts(state: sqlite3.Connection) -> Mapping[str, str]:
    rows = state.execute("SELECT name, value FROM facts").fetchall()
    return {name: value.decode("utf-8", "replace") for name, value in rows if isinstance(value, bytes)}
