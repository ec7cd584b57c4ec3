"""How many CONNECT lines of one user are written: a flood fills neither the disk nor anybody's day. Pure.

A user has, in each minute that starts with their first line, as many lines as their highest limit and 100 more: every
rule and every log reader that counts lines sees them exceed. The bytes are bounded too, as paths that a tenant chooses
make a line forty times as long, and those of refused attempts most of all: a blocked user writes at most some 50 MB a
day. What comes beyond is counted, and told in one SUPPRESSED line when the minute is over. It never drops a verdict,
and never counts for the engine.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from smtpguard.model import NS, Account
from smtpguard.settings import Rule

LINES_BEYOND_LIMIT = 100
"""CONTRACT: so many lines a minute past the highest limit."""
BYTES_A_LINE = 512
"""A line of an ordinary site has 300 to 450 bytes: their number is bounded by lines, never by bytes."""
REFUSED_BYTES = 32_768
"""A minute's lines of refused attempts: some 80 ordinary ones."""
MINUTE_NS = 60 * NS
MAX_USERS = 65_536
"""Users with a minute of their own; those beyond share one budget (a host has fewer accounts)."""


def highest_limit(rules: Iterable[Rule]) -> int:
    """The highest limit among rules that count connections or what can't exceed them; bytes are no lines."""
    return max((rule.limit for rule in rules if rule.count != "bytes"), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """What a SUPPRESSED line says.

    Attributes:
        account: Whose lines were not written.
        count: How many.
        seconds: In how many seconds.
    """

    account: Account
    count: int
    seconds: int


@dataclass(slots=True, kw_only=True)
class _UserMinute:
    """A minute of one user's lines."""

    account: Account
    start_ns: int
    written: int = 0
    written_bytes: int = 0
    refused_bytes: int = 0
    suppressed: int = 0


class Suppression:
    """The budget of lines per user.

    Args:
        max_users: Size of the table.

    Attributes:
        suppressed: Lines not written since the start, all users.
        crowded: Lines that fell under the shared budget because the table was full.
    """

    __slots__ = ("_due", "_max_users", "_minutes", "_shared", "crowded", "suppressed")

    def __init__(self, *, max_users: int = MAX_USERS) -> None:
        self._max_users = max_users
        self._minutes: dict[int, _UserMinute] = {}  # in the order of their starts
        self._shared: _UserMinute | None = None
        self._due: list[Suppressed] = []
        self.suppressed = 0
        self.crowded = 0

    def admit(self, account: Account, now_ns: int, highest_limit: int, *, refused: bool = False) -> bool:
        """Whether this user's next CONNECT line is written; `charge` says how long it was.

        Args:
            account: Whose line.
            now_ns: The daemon's time, any clock that never goes back.
            highest_limit: The highest limit of the rules for this user.
            refused: The attempt was refused.
        """
        minute = self._minutes.get(account.share)
        if minute is None or now_ns - minute.start_ns >= MINUTE_NS:
            minute = self._begin(account, now_ns)
        lines = highest_limit + LINES_BEYOND_LIMIT
        has_bytes = minute.refused_bytes < REFUSED_BYTES if refused else minute.written_bytes < lines * BYTES_A_LINE
        if minute.written < lines and has_bytes:
            minute.written += 1
            return True
        minute.suppressed += 1
        self.suppressed += 1
        return False

    def charge(self, account: Account, size_bytes: int, *, refused: bool = False) -> None:
        """A line that was admitted a moment ago had so many bytes; one line may pass the budget, the next may not."""
        minute = self._minutes.get(account.share) or self._shared
        if minute is None:
            return
        if refused:
            minute.refused_bytes += size_bytes
        else:
            minute.written_bytes += size_bytes

    def tick(self, now_ns: int) -> list[Suppressed]:
        """The SUPPRESSED lines that are due; forgets minutes that are over."""
        while self._minutes:
            uid, minute = next(iter(self._minutes.items()))
            if now_ns - minute.start_ns < MINUTE_NS:
                break
            del self._minutes[uid]
            self._settle(minute)
        due, self._due = self._due, []
        return due

    def next_deadline(self) -> int | None:
        """When `tick` wants to be called: the end of the oldest minute; None while nobody has one."""
        if self._due:
            return 0
        oldest = next(iter(self._minutes.values()), None)
        return None if oldest is None else oldest.start_ns + MINUTE_NS

    def close(self) -> list[Suppressed]:
        """What is to be told at the end, minutes that are not over included."""
        for minute in self._minutes.values():
            self._settle(minute)
        self._minutes.clear()
        return self.tick(0)

    def _begin(self, account: Account, now_ns: int) -> _UserMinute:
        over = self._minutes.pop(account.share, None)
        if over is not None:
            self._settle(over)
        if len(self._minutes) >= self._max_users:
            self._due.extend(self.tick(now_ns))
        if len(self._minutes) >= self._max_users:
            return self._crowd(account, now_ns)
        minute = self._minutes[account.share] = _UserMinute(account=account, start_ns=now_ns)
        return minute

    def _crowd(self, account: Account, now_ns: int) -> _UserMinute:
        self.crowded += 1
        if self._shared is None or now_ns - self._shared.start_ns >= MINUTE_NS:
            self._shared = _UserMinute(account=account, start_ns=now_ns)
        return self._shared

    def _settle(self, minute: _UserMinute) -> None:
        if minute.suppressed:
            self._due.append(Suppressed(account=minute.account, count=minute.suppressed, seconds=MINUTE_NS // NS))
