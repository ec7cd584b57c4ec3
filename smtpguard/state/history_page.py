"""What `events` and `incidents` show: the same from the daemon and from the file."""

import time
from typing import Literal

from smtpguard.state.event_query import EventQuery, Shown, show_event, show_incident
from smtpguard.state.history import History

Verb = Literal["events", "incidents"]


def find_page(history: History, verb: Verb, query: EventQuery, *, is_open: bool = False) -> tuple[list[Shown], bool]:
    """What is asked for, the newest first, and whether there is more of it.

    Args:
        history: The file.
        verb: Of what.
        query: Which of them.
        is_open: Of incidents only those that nobody has closed.
    """
    if verb == "events":
        events, has_more = history.find_events(query)
        return [show_event(row) for row in events], has_more
    incidents, has_more = history.find_incidents(query, is_open=is_open)
    now_ns = time.time_ns()
    return [show_incident(*row, now_ns) for row in incidents], has_more
