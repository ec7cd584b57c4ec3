"""Where this host is listed, as the notifying process has found out; of each new listing who sent most before it.

The process asks the block lists (notify/listed_duty.py) and has no record of who sends; the daemon has one, so what is
told of a listing is made here, by the thread that reads the history.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from smtpguard.clock import WallMap
from smtpguard.control.answer import Later
from smtpguard.daemon.outlet.listed_report import ListedReport, ListingNews, parse_listed
from smtpguard.daemon.outlet.messenger import Messenger
from smtpguard.hooks import ClockNs
from smtpguard.logline import render_time
from smtpguard.model import NS, Subject
from smtpguard.policy.incidents import AccountOf
from smtpguard.state.desk import HistoryQuestion
from smtpguard.state.span import Span
from smtpguard.text import parse_address, render_user

if TYPE_CHECKING:
    from smtpguard.state.history import History

log = logging.getLogger(__name__)

BEFORE_NS = 48 * 3600 * NS
MAX_SENDERS = 10
_MAX_LOOKED_AT = 10_000
AGAIN_NS = 60 * NS
"""How soon what the process still reports as untold is handed over again: it is told once all the same, by its id."""

LONGEST_NS = 30 * NS
"""How long the history is waited for; then it is told without."""


class AskHistory(Protocol):
    """Has something looked up in the history, see HistoryCommand.ask."""

    def __call__(self, look: HistoryQuestion) -> Later:
        """The answer, when it is there."""
        ...


class Listings:
    """Makes occasions of it; a chore of the loop.

    Args:
        messenger: What has others told.
        ask: Reads the history.
        account_of: Knows accounts.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self, messenger: Messenger, ask: AskHistory, account_of: AccountOf, wall: WallMap, now: ClockNs
    ) -> None:
        self._messenger = messenger
        self._ask = ask
        self._account_of = account_of
        self._wall = wall
        self._now = now
        self._seen: Mapping[str, Any] | None = None
        self._report = ListedReport()
        self._begun_ns: dict[str, int] = {}
        self._waiting: list[tuple[ListingNews, int, Later]] = []

    def on_time(self, now_ns: int) -> None:
        """Once a second: see whether something is new, or the history has answered."""
        waiting, self._waiting = self._waiting, []
        for one, begun_ns, later in waiting:
            if later.answer is None and now_ns - begun_ns < LONGEST_NS:
                self._waiting.append((one, begun_ns, later))
            else:
                self._tell(one, self._show_senders(later.answer, self._wall.to_wall_ns(begun_ns)))
        news = self._read().news
        self._begun_ns = {one.id: self._begun_ns[one.id] for one in news if one.id in self._begun_ns}
        for one in news:
            if one.id not in self._begun_ns:
                what = "LISTED on" if one.holds else "no longer listed on"
                log.warning("%s is %s %s", one.address, what, ", ".join(row["zone"] for row in one.zones))
            if now_ns - self._begun_ns.get(one.id, -AGAIN_NS) >= AGAIN_NS:
                self._begun_ns[one.id] = now_ns
                self._begin(one)

    def collect(self) -> Mapping[str, Any] | None:
        """How it stands, for `status`; None where no block list is asked."""
        return self._read().shown or None

    def _read(self) -> ListedReport:
        """What the process said last, read once."""
        if self._messenger.report is not self._seen:
            self._seen = self._messenger.report
            self._report = parse_listed(self._seen.get("listed"))
        return self._report

    def _begin(self, news: ListingNews) -> None:
        if not news.holds:
            self._tell(news, None)
            return
        begun_ns = self._now()
        wall_ns = self._wall.to_wall_ns(begun_ns)
        span = Span(since_ns=wall_ns - BEFORE_NS, until_ns=wall_ns, limit=MAX_SENDERS)
        address = parse_address(news.address)

        def look(history: "History") -> dict[str, Any]:
            from smtpguard.state.own_history import count_unplaced, list_own

            rows = [(own.uid, own.connected + own.failed) for own in list_own(history, span, address)]
            scope = "address" if rows else "host"
            if not rows:
                # Many more than are shown: whoever is refused all the time has most attempts, and has sent nothing.
                everybody = history.top_users(replace(span, limit=_MAX_LOOKED_AT))
                rows = [(int(row.key), row.connects - row.refused) for row in everybody]
                rows = sorted(rows, key=lambda row: -row[1])[:MAX_SENDERS]
            return {"scope": scope, "unknown": count_unplaced(history, span), "rows": rows}

        self._waiting.append((news, begun_ns, self._ask(look)))

    def _show_senders(self, answer: object, wall_ns: int) -> dict[str, Any] | None:
        if not isinstance(answer, dict):
            return None  # the history can't be read
        users = [
            {"user": render_user(uid, self._account_of(Subject(id=uid)).name), "uid": uid, "connects": count}
            for uid, count in answer["rows"]
            if count > 0
        ]
        since, until = render_time(wall_ns - BEFORE_NS), render_time(wall_ns)
        return {
            "since": since, "until": until, "scope": answer["scope"], "unknown": answer["unknown"], "users": users
        }  # fmt: skip

    def _tell(self, news: ListingNews, senders: Mapping[str, Any] | None) -> None:
        listing = {"address": news.address, "holds": news.holds, "zones": list(news.zones), "senders": senders}
        time = render_time(self._wall.to_wall_ns(self._now()))
        self._messenger.tell({"id": news.id, "kind": "listed", "time": time, "listing": listing})
