"""What the engine remembers over a restart: windows, levels, when somebody was last seen. Data in and out, no file."""

from collections.abc import Iterable

from smtpguard.model import Account, Subject
from smtpguard.policy.engine_core import EngineCore
from smtpguard.policy.escalation import Record
from smtpguard.policy.rule_fill import RuleFill, list_fills
from smtpguard.policy.window_export import WindowPart, export_parts
from smtpguard.policy.window_restore import StoredPart, restore_parts
from smtpguard.policy.windows import NEVER

IDLE_EXPORTS = 60
"""After so many exports without a change a subject is not looked at by further ones until it is seen again."""
MAX_EXPORT = 20_000
"""Parts in one export, about 0.1 s of work; the rest comes with the next one."""


class EngineMemory:
    """Gives out what is to be stored, and takes back what was.

    Args:
        core: Shared with the engine.
    """

    __slots__ = ("_core",)

    def __init__(self, core: EngineCore) -> None:
        self._core = core

    def export(self, *, full: bool = False) -> list[WindowPart]:
        """What has changed in the windows since the last call; cheap enough for once a second.

        Args:
            full: Everything, because what was stored is lost.
        """
        roster = self._core.roster
        if full:
            for watched in roster:
                watched.saved.clear()
                watched.exported = -1
                roster.active[watched] = 0
        parts = [WindowPart(subject=subject, part=part, data=None) for subject, part in roster.gone]
        roster.gone.clear()
        for watched in list(roster.active):
            version = watched.version()
            if version != watched.exported:
                watched.exported = version
                parts += export_parts(watched)
                roster.active[watched] = 0
                if len(parts) > MAX_EXPORT:
                    break
            elif roster.active[watched] < IDLE_EXPORTS:
                roster.active[watched] += 1
            else:
                del roster.active[watched]
                for book in watched.books:
                    book.distrust()  # its next attempt is looked at, and makes it active again
        return parts

    def restore_windows(self, parts: Iterable[StoredPart], now_ns: int) -> int:
        """Put back what an earlier run exported, before anything is fed.

        Args:
            parts: All of it, in any order.
            now_ns: Event time now.

        Returns:
            How many parts were no good.
        """
        bad = 0
        of: dict[Subject, list[StoredPart]] = {}
        for item in parts:
            of.setdefault(item.part.subject, []).append(item)
        for subject, items in of.items():
            watched = self._core.roster.of(subject)
            wrong, useless = restore_parts(watched, items, now_ns)
            bad += wrong
            self._core.roster.gone += [(subject, name) for name in useless]
            self._core.roster.active[watched] = 0
            self._core.settle(watched)
        return bad

    def fills(self, account: Account, now_ns: int) -> tuple[list[RuleFill], str]:
        """How full an account's windows are now; see `list_fills`."""
        return list_fills(self._core, account, now_ns)

    def restore_seen(self, subject: Subject, port: int, last_ns: int) -> None:
        """Tell when a subject was last seen on a port, from before this run: `novel` rules ask."""
        seen = self._core.roster.of(subject).seen
        seen[port] = max(last_ns, seen.get(port, NEVER))

    def know_since(self, since_ns: int) -> None:
        """Tell since when it is known who sends: rules with `novel` say nothing until that is as long as their span."""
        self._core.roster.bounds.known_ns = since_ns

    def escalation(self, subject: Subject) -> Record | None:
        """How often a subject was blocked, enforced, and when the last of these blocks ends; None if never."""
        return self._core.roster.of(subject).records.get("enforce")

    def restore_escalation(self, subject: Subject, blocks: int, until_ns: int) -> None:
        """Tell how often a subject was blocked before this run, and when the last of these blocks ended."""
        watched = self._core.roster.of(subject)
        watched.records = {**watched.records, "enforce": Record(blocks, until_ns)}
        watched.changes += 1
