"""Accounts of a directory (LDAP, NIS) whose uid lies inside somebody's subordinate range: each counts for itself.

Those of /etc/passwd are known beforehand; who a directory knows is asked when the uid is first seen, beside the loop.
Until the answer is there, and while nobody answers, it counts for the owner of the range. A tenant can show any uid of
their ranges, so the questions are few for each owner, and have a thread, a queue and a memory of their own.
"""

from smtpguard.enrich.accounts.name_service import NameService

MAX_HELD = 4096
PER_OWNER_S, IN_ALL_S = 5, 50
"""Questions a second."""
_MACHINE = "vu-"
"""systemd-machined answers for every uid of a container that it has registered: vu-MACHINE-UID. Those are no logins."""


class InsideRanges:
    """Which uids of subordinate ranges are accounts.

    Args:
        names: Who knows accounts; another one is made that asks the same.

    Attributes:
        uids: They.
        not_asked: Questions that were left out because there were too many.
    """

    def __init__(self, names: NameService) -> None:
        self._names = names.sibling()
        self._second = -1
        self._asked: dict[int, int] = {}
        self.uids: frozenset[int] = frozenset()
        self.not_asked = 0

    def ask(self, uid: int, owner: int) -> None:
        """A uid of a range was seen: find out whether it is an account, later, unless that is known.

        Args:
            uid: Which.
            owner: Whose range it is.
        """
        if self._names.is_known(uid):
            return
        second = int(self._names.time())
        if second != self._second:
            self._second, self._asked = second, {}
        asked = self._asked.get(owner, 0)
        if asked >= PER_OWNER_S or sum(self._asked.values()) >= IN_ALL_S:
            self.not_asked += 1
            return
        self._asked[owner] = asked + 1
        self._names.find(uid)

    def fileno(self) -> int:
        """Readable while `take_news` has something."""
        return self._names.news_fileno()

    def take_news(self) -> frozenset[int]:
        """Take what has been said; the uids that have become accounts by it."""
        found = set()
        for uid in self._names.take_news():
            known = self._names.find(uid)
            if isinstance(uid, int) and known is not None and known.uid == uid and not known.name.startswith(_MACHINE):
                found.add(uid)
        found -= self.uids
        if found and len(self.uids) + len(found) <= MAX_HELD:
            self.uids |= found
            return frozenset(found)
        return frozenset()

    def forget(self, uids: frozenset[int]) -> None:
        """Some are accounts no longer."""
        self.uids -= uids
