"""How many attempts each user has made, as far as metrics may show it. Pure.

Bounded: a crowd of uids pushes nobody out who is shown.
"""

from heapq import nlargest
from operator import itemgetter
from typing import Protocol

from smtpguard.model import Account, Subject

MAX_USERS = 16_384
"""Users counted at once; when there are more, the half with the fewest attempts is forgotten."""
MAX_SHOWN = 50
"""Series of users: CONTRACT."""
MAX_ASKED = 60
"""So many of the busiest of late, and of the busiest since the start, are asked for how full their windows are."""
_LIMITED = frozenset({"tenant", "shared"})
"""Standings that rules count for."""


class Fullness(Protocol):
    """Knows how near to a limit users are."""

    def __call__(self, uid: int, /) -> float:
        """How full the fullest window is: 1.0 at its limit."""
        ...


class UserTotals:
    """The counts.

    Args:
        max_users: Users counted at once.

    Attributes:
        forgotten: Users whose counts were dropped.
    """

    def __init__(self, *, max_users: int = MAX_USERS) -> None:
        self._max_users = max_users
        self._totals: dict[int, int] = {}
        self._of_late: dict[int, int] = {}
        self._shown: set[int] = set()
        self.forgotten = 0

    def add(self, account: Account, subject: Subject) -> None:
        """Count an attempt; of containers nobody is a user of this host."""
        if account.standing not in _LIMITED or subject.scope is not None:
            return
        uid = subject.id
        totals = self._totals
        if uid not in totals and len(totals) >= self._max_users:
            self._forget_half()
        totals[uid] = totals.get(uid, 0) + 1
        self._of_late[uid] = self._of_late.get(uid, 0) + 1

    def pick(self, fullness: Fullness) -> list[tuple[int, int]]:
        """Who is over half of a limit, the nearest to it first, with all their attempts.

        Args:
            fullness: Is asked of a bounded number of users.
        """
        asked = {uid for uid, _ in nlargest(MAX_ASKED, self._of_late.items(), key=itemgetter(1))}
        asked |= {uid for uid, _ in nlargest(MAX_ASKED, self._totals.items(), key=itemgetter(1))}
        self._of_late.clear()
        near = [(share, uid) for uid in sorted(asked | self._shown) if (share := fullness(uid)) > 1 / 2]
        picked = [uid for _, uid in nlargest(MAX_SHOWN, near, key=itemgetter(0))]
        self._shown = set(picked)
        return [(uid, self._totals[uid]) for uid in picked]

    def _forget_half(self) -> None:
        kept = {uid: count for uid, count in self._totals.items() if uid in self._shown}
        room = self._max_users // 2 - len(kept)
        kept |= dict(nlargest(room, self._totals.items(), key=itemgetter(1)))
        self.forgotten += len(self._totals) - len(kept)
        self._totals = kept
        self._of_late = {uid: count for uid, count in self._of_late.items() if uid in kept}
