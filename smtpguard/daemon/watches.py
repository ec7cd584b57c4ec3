"""Users whom a person keeps an eye on: half of each limit for a time, and a word at the first warning.

A watch is no block and no allowance: what is refused, and what windows hold, goes on. It survives a restart, ends by
itself, and is kept as one fact of the state.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from smtpguard.clock import WallMap, render_until
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.record.recorder import Recorder
from smtpguard.hooks import ClockNs
from smtpguard.logline import render_time
from smtpguard.model import NS, Account, Decision, Subject, Verdict, Watch, WatchEnded
from smtpguard.policy.directory import Directory
from smtpguard.policy.engine import Engine
from smtpguard.policy.subjects import account_of
from smtpguard.settings import DAY_NS
from smtpguard.state.last_good import FactKeeper
from smtpguard.state.plausible import MAX_TIME_NS, MAX_UID
from smtpguard.state.rows import FactRow
from smtpguard.text import render_duration, render_look, render_user

log = logging.getLogger(__name__)

FACT = "watches"
MAX_WATCH_NS = 31 * DAY_NS
"""The longest: whoever needs lower limits for longer needs an override in the configuration."""
MAX_WATCHES = 1000
"""Far more than anybody can look after; beyond it the oldest ones are not kept over a restart."""


class Watches:
    """Begins them, ends them and keeps them.

    Args:
        engine: Whose limits they halve.
        enforcement: Tells the kernel.
        recorder: Keeps who said so.
        keeper: Keeps facts.
        directory: Accounts.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        engine: Engine,
        enforcement: Enforcement,
        recorder: Recorder,
        keeper: FactKeeper,
        *,
        directory: Directory,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self._engine = engine
        self._enforcement = enforcement
        self._recorder = recorder
        self._keeper = keeper
        self._directory = directory
        self._wall = wall
        self._now = now
        self._told: set[Subject] = set()
        self._ended: set[Subject] = set()
        self._was_asked = False

    def begin(self, account: Account, *, for_ns: int, reason: str, incident: str | None) -> Watch:
        """A person wants half of an account's limits for a time, from now."""
        now_ns, subject = self._now(), Subject(id=account.uid)
        watch = Watch(
            subject=subject, name=account.name, since_ns=now_ns, until_ns=now_ns + for_ns, by="admin", reason=reason
        )
        self._told.discard(subject)
        self._was_asked = True
        self._take(self._engine.commands.watch(watch))
        more: dict[str, Any] = {} if incident is None else {"incident": incident}
        until_wall_ns = watch.until_ns + self._wall.offset_ns
        self._recorder.change("watch", account, by="admin", until_wall_ns=until_wall_ns, reason=reason, **more)
        self._keep()
        self._enforcement.refresh("allowance")
        return watch

    def end(self, account: Account) -> bool:
        """A person has the usual limits hold again; whether others did."""
        subject = Subject(id=account.uid)
        self._ended.add(subject)
        self._was_asked = True
        decisions = self._engine.commands.end_watch(subject, by="admin", now_ns=self._now())
        self._take(decisions)
        self._enforcement.refresh("allowance")  # now: whoever asked hears whether the kernel does it
        return bool(decisions)

    def ended(self, ended: WatchEnded) -> None:
        """A watch is over."""
        subject = ended.watch.subject
        self._told.discard(subject)
        log.info("%s is watched no more (%s). Usual limits apply now.", self._show(subject), ended.by)
        self._recorder.change("unwatch", account_of(self._directory, subject), by=ended.by)
        self._keep()
        self._enforcement.request("allowance")

    def hear(self, verdict: Verdict) -> None:
        """Tell of the first verdict of a watch, whatever it is."""
        subject = verdict.subject
        watch = self._engine.own.watches.get(subject)
        if watch is None or subject in self._told or not self._is_theirs(watch):
            return
        self._told.add(subject)
        self._keep()
        offset_ns, user = self._wall.offset_ns, self._show(subject)
        until = render_until(watch.until_ns + offset_ns, self._now() + offset_ns)
        what = f"{verdict.count} {verdict.counted} in {render_duration(verdict.window_ns / NS)}, limit {verdict.limit}"
        limits = "limits are halved" if self._allowed_until(watch) is None else "an allowance counts"
        log.warning(
            "%s is WATCHED until %s, %s: %s (rule %s). See: %s",
            user, until, limits, what, verdict.rule, render_look(user),
        )  # fmt: skip

    def restore(self, facts: Mapping[str, str]) -> None:
        """Take what an earlier run has kept; what people said since it began is newer."""
        offset_ns, now_ns = self._wall.offset_ns, self._now()
        for row in _read(facts.get(FACT, "[]")):
            try:
                since_ns, until_ns = (_read_number(row[key], MAX_TIME_NS) for key in ("since_ns", "until_ns"))
                watch = Watch(
                    subject=Subject(id=_read_number(row["uid"], MAX_UID)),
                    name=None if row["name"] is None else str(row["name"]),
                    since_ns=since_ns - offset_ns,
                    until_ns=min(until_ns - offset_ns, now_ns + MAX_WATCH_NS),
                    by=str(row["by"]),
                    reason=str(row["reason"]),
                )
            except (KeyError, TypeError, ValueError):
                log.warning("state: a watch that is kept there can't be read, and is left out")
                continue
            if watch.until_ns <= now_ns or watch.subject in self._engine.own.watches or watch.subject in self._ended:
                continue
            if row.get("told"):
                self._told.add(watch.subject)
            self._take(self._engine.commands.watch(watch))
        if self._was_asked:  # what was kept meanwhile does not have those that were read only now
            self._keep()

    def clock_was_set(self) -> None:
        """Somebody set the wall clock: watches keep their length."""
        if self._engine.own.watches:
            self._keep()

    def collect(self) -> list[dict[str, Any]]:
        """Who is watched, for `status` and `why`; until `allowed_until` limits are not halved, but an allowance's."""
        return [self.describe(watch) for watch in self._engine.own.watches.values() if self._is_theirs(watch)]

    def find(self, uid: int) -> dict[str, Any] | None:
        """The watch of one user, as `collect` has it; None where nobody watches them."""
        watch = self._engine.own.watches.get(Subject(id=uid))
        return self.describe(watch) if watch is not None and self._is_theirs(watch) else None

    def describe(self, watch: Watch) -> dict[str, Any]:
        """A watch, as `collect` has it."""
        offset_ns, allowed_ns = self._wall.offset_ns, self._allowed_until(watch)
        return {
            "user": self._show(watch.subject),
            "uid": watch.subject.id,
            "since": render_time(watch.since_ns + offset_ns),
            "until": render_time(watch.until_ns + offset_ns),
            "by": watch.by,
            "reason": watch.reason,
            "allowed_until": None if allowed_ns is None else render_time(allowed_ns + offset_ns),
        }

    def _allowed_until(self, watch: Watch) -> int | None:
        """Until when an allowance counts in place of a watch, and perhaps after it. None where none does."""
        allowance = self._engine.own.allowances.get(watch.subject)
        if allowance is None or not account_of(self._directory, watch.subject).may_be(allowance.name):
            return None
        return allowance.until_ns

    def _is_theirs(self, watch: Watch) -> bool:
        """Whether the uid is still that account's: given out again, its limits are not halved."""
        return account_of(self._directory, watch.subject).may_be(watch.name)

    def _take(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, WatchEnded):
                self.ended(decision)

    def _keep(self) -> None:
        offset_ns = self._wall.offset_ns
        rows = [
            {
                "uid": watch.subject.id,
                "name": watch.name,
                "since_ns": watch.since_ns + offset_ns,
                "until_ns": watch.until_ns + offset_ns,
                "by": watch.by,
                "reason": watch.reason,
                "told": watch.subject in self._told,
            }
            for watch in list(self._engine.own.watches.values())[-MAX_WATCHES:]
        ]
        self._keeper.put(FactRow(name=FACT, value=json.dumps(rows)))

    def _show(self, subject: Subject) -> str:
        return render_user(subject.id, account_of(self._directory, subject).name)


def _read(text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        log.warning("state: the watches that are kept there can't be read")
        return []
    return rows


def _read_number(value: object, highest: int) -> int:
    if type(value) is int and 0 <= value <= highest:
        return value
    raise ValueError(value)
