"""How many verdicts about containers are told: whoever makes network namespaces, or takes uids, is a new one each time.

Nobody is refused by them, so that what is not told lets nothing pass; it is counted. Pure: GCRA by event time, for each
uid in all its namespaces together, and for all of them.
"""

from smtpguard.model import NS

BURST, INTERVAL_NS = 8, 60 * NS
"""So many of one uid at once, and one more in so long ..."""
ALL_BURST, ALL_INTERVAL_NS = 64, 5 * NS
"""... and of all uids together."""
MAX_UIDS = 4096
"""Uids that are told apart; those beyond share what all have."""


class ContainerVerdicts:
    """The budget.

    Attributes:
        untold: Verdicts beyond it.
    """

    __slots__ = ("_all_full_ns", "_full_ns", "untold")

    def __init__(self) -> None:
        self._all_full_ns = 0
        self._full_ns: dict[int, int] = {}
        self.untold = 0

    def admit(self, uid: int, at_ns: int) -> bool:
        """Whether the next verdict is told.

        Args:
            uid: Whose it is.
            at_ns: Event time of it.
        """
        full_ns = max(self._full_ns.get(uid, 0), at_ns) + INTERVAL_NS
        all_full_ns = max(self._all_full_ns, at_ns) + ALL_INTERVAL_NS
        if full_ns - at_ns > BURST * INTERVAL_NS or all_full_ns - at_ns > ALL_BURST * ALL_INTERVAL_NS:
            self.untold += 1
            return False
        self._all_full_ns = all_full_ns
        if uid in self._full_ns or self._has_room(at_ns):
            self._full_ns[uid] = full_ns
        return True

    def _has_room(self, at_ns: int) -> bool:
        """Those whose budget is whole again need no entry."""
        if len(self._full_ns) >= MAX_UIDS:
            self._full_ns = {uid: full_ns for uid, full_ns in self._full_ns.items() if full_ns > at_ns}
        return len(self._full_ns) < MAX_UIDS
