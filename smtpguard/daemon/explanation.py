"""What a refused sender is told: why, until when, and a reference for the administrator. Asked by tell_server.py."""

from smtpguard.clock import WallMap
from smtpguard.hooks import ClockNs
from smtpguard.logline import render_time
from smtpguard.model import NS, Subject
from smtpguard.policy.directory import Directory
from smtpguard.policy.engine import Engine
from smtpguard.policy.subjects import account_of
from smtpguard.text import render_user


class Explanation:
    """Explains refusals.

    Args:
        engine: Who is blocked.
        accounts: Who is who.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(self, engine: Engine, accounts: Directory, wall: WallMap, now: ClockNs) -> None:
        self._engine = engine
        self._accounts = accounts
        self._wall = wall
        self._now = now

    def explain(self, uid: int) -> str:
        """One line for whoever was refused."""
        now_ns, subject = self._now(), Subject(id=uid)
        held = [b for b in self._engine.blocks_of(subject) if b.mode == "enforce" and b.until_ns > now_ns]
        user = render_user(uid, account_of(self._accounts, subject).name)
        if not held:
            return f"SMTP of {user} is limited on this server; try again later"
        last = max(held, key=lambda block: block.until_ns)
        until = render_time(last.until_ns + self._wall.offset_ns)
        reference = f"{user}-{(last.since_ns + self._wall.offset_ns) // NS}"
        return f"SMTP of {user} is refused until {until}: {last.rule or last.source} (ref {reference})"
