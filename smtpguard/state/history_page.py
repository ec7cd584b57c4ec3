"""What `events` and `incidents` show: the same from the daemon and from the file."""

import time
from typing import Literal

from smtpguard.errors import StateError
from smtpguard.state.event_query import EventQuery, Shown, show_event, show_incident
from smtpguard.state.history import History
from smtpguard.state.span import Span
from smtpguard.text import render_words

Verb = Literal["events", "incidents"]


def find_page(history: History, verb: Verb, query: EventQuery, *, is_open: bool = False) -> tuple[list[Shown], bool]:
    """What is asked for, the newest first, and whether there is more of it.

    Args:
        history: The file.
        verb: Of what.
        query: Which of them.
        is_open: Of incidents only those that nobody has closed.

    Raises:
        StateError: It is asked for somebody who is no account and stands nowhere in the history.
    """
    if verb == "events":
        events, has_more = history.find_events(query)
        found = [show_event(row) for row in events]
    else:
        incidents, has_more = history.find_incidents(query, is_open=is_open)
        now_ns = time.time_ns()
        found = [show_incident(*row, now_ns) for row in incidents]
    name = query.span.name
    if not found and name is not None and query.span.uid is None and not _knows(history, name):
        raise unknown_user(name)
    return found, has_more


def unknown_user(name: str) -> StateError:
    """What is told of a name that no account has, and none had.

    Args:
        name: As a person typed it.
    """
    known = "; `smtpguard status` says whose domains are known" if "." in name else ""
    what = f'No account "{render_words(name)}" on this host, and none in the history'
    return StateError(what, fix=f"give a login name, or uid:N{known}")


def _knows(history: History, name: str) -> bool:
    """Whether anything is kept of an account that had the name, whatever else was asked for."""
    named = EventQuery(span=Span(name=name, limit=1))
    return bool(history.find_events(named)[0] or history.find_incidents(named, is_open=False)[0])
