"""`events`, `incidents`, `note` and `close`: the history, as a running guard tells it.

A thread of its own reads the file; an answer waits until what was known when it was asked for is written.
"""

import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from smtpguard.control.answer import Answer, Later, Pages
from smtpguard.daemon.record.recorder import Recorder
from smtpguard.daemon.serve.asker import Asker
from smtpguard.daemon.serve.history_requests import CloseRequest, HistoryRequest, ToldRequest
from smtpguard.daemon.serve.requests import UserRequest
from smtpguard.daemon.serve.unblock import find_account
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.enrich.accounts.spellings import unescape_name
from smtpguard.errors import AmbiguousUserError, GuardError, StateError, UnansweredError
from smtpguard.model import Account
from smtpguard.state.desk import HistoryDesk, HistoryQuestion
from smtpguard.state.event_query import EventQuery
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.rows import ChangeRow
from smtpguard.state.span import Span
from smtpguard.state.writer import StateWriter
from smtpguard.text import render_subject, render_user, render_words

if TYPE_CHECKING:
    from smtpguard.state.history import History
    from smtpguard.state.history_page import Verb

log = logging.getLogger(__name__)


def find_past(accounts: AccountDirectory, user: str) -> tuple[Account | None, str | None]:
    """Whose history is meant: an account, or the name of one that is gone, which is in the history.

    Raises:
        UnansweredError: It could not be found out.
    """
    try:
        return find_account(accounts, user=user, uid=None), None
    except (UnansweredError, AmbiguousUserError):
        raise
    except GuardError:
        return None, unescape_name(user) if "%" in user else user


class HearNotes(Protocol):
    """Told of notes, see daemon/outlet/occasions.py."""

    def noted(self, user: str, uid: int, *, by: str, text: str) -> None:
        """A person has noted something about a user."""


class HistoryCommand:
    """Answers what is asked about the past.

    Args:
        desk: What reads.
        state: What writes.
        accounts: Who is who.
        recorder: What notes are given to.

    Attributes:
        herald: Who else is told of notes; None where nobody is.
    """

    def __init__(self, desk: HistoryDesk, state: StateWriter, accounts: AccountDirectory, recorder: Recorder) -> None:
        self._desk = desk
        self._state = state
        self._accounts = accounts
        self._recorder = recorder
        self.herald: HearNotes | None = None

    def events(self, request: HistoryRequest, asker: Asker) -> Answer:
        """What happened, the newest first."""
        del asker
        return self._find("events", request)

    def incidents(self, request: HistoryRequest, asker: Asker) -> Answer:
        """Incidents, the newest first."""
        del asker
        return self._find("incidents", request)

    def note(self, request: UserRequest, asker: Asker) -> Answer:
        """Keep what a person has to say about a user."""
        if not request.reason:
            raise GuardError("there is nothing to note", fix="smtpguard note USER TEXT")
        account = find_account(self._accounts, user=request.user, uid=request.uid)
        user = render_user(account.uid, account.name)
        self._recorder.change("note", account, by="admin", reason=request.reason)
        if self.herald is not None:
            self.herald.noted(user, account.uid, by=asker.user, text=request.reason)
        log.info("note about %s, by %s", user, asker.who)
        return {"text": f"Noted about {user}. See: smtpguard events --user {user} --kind note"}

    def told(self, request: ToldRequest, asker: Asker) -> Answer:
        """Keep that a customer was told of a block; the notifying process says so."""
        del asker
        account = find_account(self._accounts, user=request.user, uid=request.uid)
        to = render_words(request.to)
        reason = f"{request.whom} told at {to}" + ("" if request.result == "sent" else ", perhaps")
        self._recorder.change(
            "told", account, by="guard", reason=reason, to=to, whom=request.whom, incident=request.incident
        )
        log.info("%s: %s", render_user(account.uid, account.name), reason)
        return {"text": reason}

    def close(self, request: CloseRequest, asker: Asker) -> Answer:
        """Close an incident: a person has dealt with it."""

        def look(history: "History") -> dict[str, Any]:
            found, _ = history.find_incidents(EventQuery(span=Span(limit=10_000)), is_open=False)
            rows = [(row, closed) for row, closed in found if row.id.startswith(request.incident)]
            if not request.incident or len(rows) != 1:
                count = len(rows) if request.incident else 0
                what = f'No incident "{render_words(request.incident)}"' if not count else f"{count} incidents begin so"
                raise StateError(what, fix="see: smtpguard incidents")
            row, closed = rows[0]
            user = render_subject(row.uid, row.name, is_contained=row.netns is not None)
            if closed is not None:
                text = f"Incident {row.id} of {user} is closed already."
            else:
                self._state.add(_closing(row, asker, request.reason))
                text = f"Incident {row.id} of {user} is closed."
            return {"text": text, "incident": row.id, "user": user if row.netns is None else None}

        return self.ask(look)

    def _find(self, verb: "Verb", request: HistoryRequest) -> Later:
        query = self._build_query(request)

        def look(history: "History") -> Pages:
            from smtpguard.state.history_page import find_page
            from smtpguard.state.own_history import find_source

            items, has_more = find_page(history, verb, query, is_open=request.is_open)
            return Pages(head={"has_more": has_more, "source": find_source(history, query)}, items=items)

        return self.ask(look)

    def _build_query(self, request: HistoryRequest) -> EventQuery:
        account, name = find_past(self._accounts, request.user) if request.user else (None, None)
        uid = None if account is None else account.uid
        span = Span(since_ns=request.since_ns, until_ns=request.until_ns, uid=uid, name=name, limit=request.rows)
        return EventQuery(
            span=span,
            kinds=frozenset(request.kinds),
            mode=request.mode,
            port=request.port,
            networks=request.dst,
            script=request.script,
            sha256=request.sha256,
            rule=request.rule,
            src=request.src,
        )

    def ask(self, look: HistoryQuestion) -> Later:
        """Have something looked up in the history, once all that is known now is in it."""
        later = Later()

        def ask() -> None:
            try:
                self._desk.ask(look, later.resolve)
            except StateError as error:
                later.resolve(error)

        if self._state.stats().error is not None or self._state.when_written(ask) is None:
            ask()
        return later


def _closing(row: IncidentRow, asker: Asker, reason: str) -> ChangeRow:
    return ChangeRow(
        time_ns=time.time_ns(),
        uid=row.uid,
        name=row.name,
        event="close",
        by="admin",
        reason=reason,
        details={"who": asker.user, "incident": row.id},
    )
