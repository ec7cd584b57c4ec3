"""Whose sockets keep nothing of themselves, because their option memory is full (SO_ATTACH_FILTER): told for a while.

No mail program fills it. Such sockets are followed in a table of which each user has a share; see docs/bpf.md.
"""

import logging
from dataclasses import dataclass

from smtpguard.model import NS, SocketNews, SocketReport

_log = logging.getLogger(__name__)

UNTRACKED: frozenset[SocketNews] = frozenset({"untracked", "unfollowed"})
TOLD_NS = 900 * NS
"""How long after the last one a user is named."""
MAX_USERS = 100
_SHOWN = 10


@dataclass(slots=True)
class _Count:
    """Reports of one user."""

    last_ns: int = 0
    untracked: int = 0
    unfollowed: int = 0


class Untracked:
    """Whose sockets could keep nothing lately."""

    def __init__(self) -> None:
        self._users: dict[int | None, _Count] = {}  # None: all uids of other network namespaces

    def note(self, report: SocketReport) -> None:
        """One more."""
        if report.uid is None:
            return
        who = report.uid if report.netns is None else None
        if who not in self._users and len(self._users) >= MAX_USERS:
            return
        if who not in self._users:
            _log.warning("bpf: %s", _describe(who, "the option memory of a socket is full"))
        count = self._users.setdefault(who, _Count())
        count.last_ns = report.time_ns
        count.untracked += 1
        count.unfollowed += report.kind == "unfollowed"

    def warnings(self, now_ns: int) -> list[str]:
        """Who they are now, for people."""
        self._users = {who: count for who, count in self._users.items() if count.last_ns > now_ns - TOLD_NS}
        return [
            _describe(who, f"{count.untracked} sockets had no room for what is kept of them")
            + f"; {count.unfollowed} of these are not followed at all"
            for who, count in list(self._users.items())[:_SHOWN]
        ]


def _describe(uid: int | None, what: str) -> str:
    who = "somebody in other network namespaces" if uid is None else f"uid {uid}"
    return f"{who} hides its sessions: {what}"
