"""What `status` shows of enforcement: whether the kernel does as it is told, how exactly, and whom the cap refused."""

from typing import Any

from smtpguard.clock import WallMap, render_moment
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.guard import Guard
from smtpguard.errors import EnforceError
from smtpguard.model import NS, Subject
from smtpguard.policy.engine import Engine
from smtpguard.policy.exactness import Exactness, describe_exactness
from smtpguard.policy.incidents import AccountOf
from smtpguard.text import render_user

Figures = dict[str, Any]
MAX_CAPPED = 20
"""Users whom the cap refused that are shown."""
_REMOVED = "NOT ENFORCING: the table was removed by `nft remove`. Put it back: smtpguard nft ensure"


class EnforcementStatus:
    """Collects it.

    Args:
        guard: The configuration in force.
        enforcement: What is told to the kernel.
        engine: Whether the guard is off.
        account_of: Knows accounts.
        wall: Event time to wall time.
    """

    def __init__(
        self, guard: Guard, enforcement: Enforcement, engine: Engine, account_of: AccountOf, wall: WallMap
    ) -> None:
        self._guard = guard
        self._means = enforcement
        self._engine = engine
        self._account_of = account_of
        self._wall = wall

    def is_acting(self) -> bool:
        """Whether enforcement is in place where it is wanted."""
        return self._guard.settings.dry_run or self._engine.is_off or self._means.is_in_place()

    def headline(self) -> str:
        """What the guard does, in a word or two."""
        if self._engine.is_off:
            return "OFF: nobody is refused"
        return "dry run" if self._guard.settings.dry_run else "enforcing"

    def compare(self) -> None:
        """Look whether the kernel's sets hold what the list says."""
        self._means.compare("status")

    def table_troubles(self) -> list[str]:
        """Whether the table is there though it ought not to be, or is not though it ought to."""
        if not (trouble := self._means.health.table_trouble):
            is_removed = not self._means.healing and not self._guard.settings.dry_run and not self._engine.is_off
            return [_REMOVED] if is_removed else []
        what = "NOT ENFORCING" if self._means.is_refusing() else "MAY STILL REFUSE: the table can't be removed"
        return [f"{what}: nft: {trouble}"]

    def troubles(self) -> list[str]:
        """What else is wrong now."""
        found = [f"OUT OF SYNC: {text}" for text in self._means.health.list_out_of_sync()]
        if trouble := self._means.health.template_trouble:
            found.append(f"the ruleset in force is not the one in the files: {trouble}")
        if (comparison := self._means.comparison) is not None:
            found += [f"OUT OF SYNC: {text}" for text in comparison.differences]
            if comparison.trouble:
                found.append(f"can't compare the kernel with the list: {comparison.trouble}")
        return found

    def is_in_sync(self) -> bool:
        """Whether the kernel holds what the list says, as far as anybody has looked."""
        comparison = self._means.comparison
        differs = comparison is not None and bool(comparison.differences or comparison.trouble)
        return not differs and not list(self._means.health.list_out_of_sync())

    def exactness(self) -> Exactness:
        """Which limits are exact, and by how much others may be exceeded."""
        return describe_exactness(self._guard.settings, self._means.credits.exact_rules)

    def show_cap(self) -> Figures | None:
        """The cap that is in force."""
        cap = self._means.cap.cap
        return None if cap is None else {"rate": cap.rate, "per": cap.per_ns / NS, "burst": cap.burst}

    def list_capped(self, troubles: list[str]) -> list[Figures] | None:
        """Whom the cap refused, most often refused first; None if the kernel does not say."""
        if self._means.cap.cap is None:
            return []
        try:
            counts = self._means.cap.read()
        except EnforceError as error:
            troubles.append(f"whom the cap refused can't be read: {error}")
            return None
        return [
            {"user": render_user(uid, self._account_of(Subject(id=uid)).name), "uid": uid, "refused": count}
            for uid, count in counts.most_common(MAX_CAPPED)
        ]

    def list_means(self) -> list[Figures]:
        """A row for each means of enforcement."""
        enforcement = self._means
        comparison = enforcement.comparison
        table = f"table inet {self._guard.settings.nft_table}"
        if enforcement.health.table_trouble:
            nft = f"{table}: {enforcement.health.table_trouble}"
        elif self._engine.is_off:
            nft = f"{table} is removed, as smtpguard is off"
        elif not enforcement.healing:
            nft = f"{table} was removed by `nft remove`. Put it back: smtpguard nft ensure"
        elif enforcement.is_refusing():
            nft = f"{table} is in place, {self._render_comparison()}"
        else:
            nft = f"{table} is not there: a dry run needs none"
        looked_ns = comparison.looked_ns if comparison is not None else None
        rows: list[Figures] = [
            {
                "name": "nft",
                "state": nft,
                "in_step": self._is_in_step(),
                "looked": None if looked_ns is None else (looked_ns + self._wall.offset_ns) / NS,
            }
        ]
        if enforcement.has_program:
            rows.append({"name": "bpf", "state": "enforcing" if enforcement.is_refusing() else "reporting only"})
        return rows

    def _is_in_step(self) -> bool | None:
        """Whether the kernel's sets hold what the list says; None if nobody knows."""
        comparison = self._means.comparison
        if comparison is None or comparison.looked_ns is None or comparison.trouble:
            return None
        return not comparison.differences

    def _render_comparison(self) -> str:
        comparison = self._means.comparison
        if comparison is None or comparison.looked_ns is None:
            return "not compared with the list yet"
        when = render_moment((comparison.looked_ns + self._wall.offset_ns) / NS)
        what = {True: "in sync with the list", False: "OUT OF SYNC with the list", None: "last compared with the list"}
        return f"{what[self._is_in_step()]} (checked {when})"
