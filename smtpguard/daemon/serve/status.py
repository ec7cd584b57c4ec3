"""What `status` shows: collected from the parts, decided by nobody else."""

import os
from collections import Counter
from typing import Any, Protocol

from smtpguard import __version__
from smtpguard.actions.eventlog import EventLog
from smtpguard.clock import render_moment
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.intake.sensor_pairing import SensorPairing
from smtpguard.daemon.intake.source_supervisor import SourceSupervisor
from smtpguard.daemon.loop import StallGauge
from smtpguard.daemon.supervision import Supervision
from smtpguard.enrich.looker import Looker
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.errors import EnforceError, SourceError
from smtpguard.model import NS, Subject
from smtpguard.policy.countable import Uncounted, find_uncounted
from smtpguard.policy.exactness import Exactness, describe_exactness
from smtpguard.text import render_contained, render_user

Figures = dict[str, Any]
MAX_CAPPED = 20
"""Users whom the cap refused that are shown."""
MAX_NOT_RECORDED = 20
"""Users with events that were only counted that are shown."""
_RECENT_NS = 15 * 60 * NS
"""How long a loss of events is a trouble."""


class Parts(Protocol):
    """Lines of parts that are not named here."""

    def __call__(self) -> dict[str, str]:
        """Name of a part to its line, for people."""
        ...


class Troubles(Protocol):
    """Knows what else is wrong."""

    def __call__(self) -> list[str]:
        """What is wrong now, a line each."""
        ...


class Status:
    """Collects the state of a running guard.

    Args:
        guard, sensing, events, switch, looker, rdns: The parts; None for enrichers that are off.
        counting: What pairs several sources; None with one.
        stalls: How long the loop was busy at most.
        supervision: What parts raised.
        troubles: What is wrong with the parts that are not named here.
        parts: Their lines.
        since_ns: When the guard started (CLOCK_BOOTTIME).

    Attributes:
        wrong_file: Why what is in force is not what the file says; None if it is.
    """

    def __init__(
        self,
        guard: Guard,
        sensing: SourceSupervisor,
        events: EventLog,
        *,
        switch: OffSwitch,
        looker: Looker | None,
        rdns: ReverseDns | None,
        counting: SensorPairing | None,
        stalls: StallGauge,
        supervision: Supervision,
        troubles: Troubles,
        parts: Parts,
        since_ns: int,
    ) -> None:
        self._guard = guard
        self._sensing = sensing
        self._events = events
        self._switch = switch
        self._looker = looker
        self._rdns = rdns
        self._counting = counting
        self._stalls = stalls
        self._supervision = supervision
        self._more_troubles = troubles
        self._more_parts = parts
        self._since_ns = since_ns
        self.wrong_file: str | None = None

    def collect(self) -> Figures:
        """All of it, as JSON values."""
        guard = self._guard
        now_ns = guard.now()
        blocks = [block for block in guard.engine.blocks() if block.until_ns > now_ns]
        earnest = [block for block in blocks if block.mode == "enforce"]
        guard.enforcement.compare("status")
        troubles = self.troubles()
        capped = self._capped(troubles)
        not_recorded = self._not_recorded(troubles)
        exactness = self._exactness()
        return {
            "ready": self.is_ready(),
            "version": __version__,
            "pid": os.getpid(),
            "uptime": (now_ns - self._since_ns) / NS,
            "mode": "off" if guard.engine.is_off else "dry-run" if guard.settings.dry_run else "enforce",
            "off_until": self._switch.until_ns / NS if self._switch.until_ns is not None else None,
            "config": guard.settings.path or "shipped defaults",
            "wrong_file": self.wrong_file,
            "troubles": troubles,
            "sources": self._sources(),
            "enforcement": self._enforcement(),
            "seen": guard.seen,
            "blocks": sum(block.kind == "block" for block in earnest),
            "throttles": sum(block.kind == "throttle" for block in earnest),
            "would": len(blocks) - len(earnest),
            "refused": guard.refused.total(),
            "breaker_tripped": guard.engine.is_tripped("enforce"),
            "script_names": self._script_names(),
            "cap": self._cap(),
            "capped": capped,
            "not_recorded": not_recorded,
            "part_failures": dict(self._supervision.failures),
            "worst_stall_ms": round(self._stalls.worst_ns / 1e6, 1),
            "worst_stall_in": self._stalls.worst_part,
            "inactive_rules": list(self._uncounted().inactive),
            "limits": {"exact": list(exactness.exact), "judged": dict(exactness.judged)},
            "notes": list(self._guard.state.stats().notes[-1:]),
            "parts": self._parts(),
        }

    def _script_names(self) -> Figures | None:
        """How many of the attempts found their script; None where nobody looks."""
        if self._looker is None:
            return None
        stats = self._looker.stats()
        asked = stats.asked + stats.over_budget + stats.crowded
        return {"asked": asked, "answered": stats.answered, "off": stats.off}

    def _uncounted(self) -> Uncounted:
        """Rules that nobody counts; none while nobody sees anything, which is told by itself."""
        outcomes = self._sensing.sees_outcomes()
        return Uncounted() if outcomes is None else find_uncounted(self._guard.settings, outcomes=outcomes)

    def _exactness(self) -> Exactness:
        """Which limits are exact, and by how much others may be exceeded."""
        return describe_exactness(self._guard.settings, self._guard.enforcement.credits.exact_rules)

    def _cap(self) -> Figures | None:
        cap = self._guard.enforcement.cap.cap
        return None if cap is None else {"rate": cap.rate, "per": cap.per_ns / NS, "burst": cap.burst}

    def _capped(self, troubles: list[str]) -> list[Figures] | None:
        """Whom the cap refused, most often refused first; None if the kernel does not say."""
        guard = self._guard
        if guard.enforcement.cap.cap is None:
            return []
        try:
            counts = guard.enforcement.cap.read()
        except EnforceError as error:
            troubles.append(f"whom the cap refused can't be read: {error}")
            return None
        return [
            {"user": render_user(uid, guard.account_of(Subject(id=uid)).name), "uid": uid, "refused": count}
            for uid, count in counts.most_common(MAX_CAPPED)
        ]

    def is_ready(self) -> bool:
        """Whether a source is open and proven, and enforcement is in place where it is wanted."""
        guard = self._guard
        sees = self._sensing.leader() is not None or guard.settings.sources == "none"
        acts = guard.settings.dry_run or guard.engine.is_off or guard.enforcement.is_in_place()
        return sees and acts and self._supervision.is_ready() and self.wrong_file is None

    def headline(self) -> str:
        """How the guard fares, in one line."""
        guard = self._guard
        mode = "dry run" if guard.settings.dry_run else "enforcing"
        if guard.engine.is_off:
            mode = "OFF: nobody is refused"
        leader = self._sensing.leader()
        if leader is not None:
            text = f"{mode}, watching with {leader.name}"
        elif guard.settings.sources == "none":
            text = f"{mode}, watching nothing (sources: none)"
        else:
            text = "blind: " + "; ".join(f"{sensor.name}: {sensor.why}" for sensor in self._sensing.sensors)
        if self.wrong_file is not None:
            text = f"{self.wrong_file}; {text}"
        failing = ", ".join(health.name for health in self._supervision.failing())
        return f"{text}; failing: {failing}" if failing else text

    def troubles(self) -> list[str]:
        """What is wrong now, worst first."""
        guard = self._guard
        found: list[str] = []
        if self.wrong_file is not None:
            found.append(f"{self.wrong_file}. Mend it, then: smtpguard check && smtpguard reload")
        if guard.engine.is_off:
            found.append("OFF: nobody is refused. Switch on: smtpguard on")
        if self._sensing.leader() is None and guard.settings.sources != "none":
            found.append("BLIND: no source works. Nothing is seen, nobody is stopped. See: smtpguard doctor")
        if trouble := guard.enforcement.activation.trouble:
            wanted = guard.enforcement.activation.up
            what = "NOT ENFORCING" if wanted else "MAY STILL REFUSE: the table can't be removed"
            found.append(f"{what}: nft: {trouble}")
        if guard.engine.is_tripped("enforce"):
            found.append("SAFETY BRAKE: users over a limit are only slowed down. Wrong limit? smtpguard blocks")
        found += self._supervision.troubles()
        found += [f"OUT OF SYNC: {text}" for text in guard.enforcement.out_of_step()]
        if trouble := guard.enforcement.template_trouble:
            found.append(f"the ruleset in force is not the one in the files: {trouble}")
        if (comparison := guard.enforcement.comparison) is not None:
            found += [f"OUT OF SYNC: {text}" for text in comparison.differences]
            if comparison.trouble:
                found.append(f"can't compare the kernel with the list: {comparison.trouble}")
        found += self._losses()
        found += [
            f"rule {name} is NOT COUNTED: failures and bytes need the source bpf. See: smtpguard doctor"
            for name in self._uncounted().broken
        ]
        found += [
            f"source {sensor.name}: {text}"
            for sensor in self._sensing.sensors
            if sensor.source is not None
            for text in sensor.source.stats.warnings
        ]
        if error := self._events.stats().error:
            shown = error.replace(": can't be written: ", ": ")
            found.append(f"the event log can't be written: {shown}")
        if error := guard.state.stats().error:
            found.append(f"the state can't be written: {error}")
        return found + self._more_troubles()

    def _losses(self) -> list[str]:
        """Sensors that lost events lately."""
        since_ns = self._guard.now() - _RECENT_NS
        return [
            f"source {sensor.name}: {sensor.source.stats.lost} events lost, the last at "
            f"{render_moment((sensor.lost_ns + self._guard.wall.offset_ns) / NS)}. Their destinations are not recorded"
            for sensor in self._sensing.sensors
            if sensor.source is not None and sensor.lost_ns is not None and sensor.lost_ns > since_ns
        ]

    def _not_recorded(self, troubles: list[str]) -> list[Figures] | None:
        """Whose events were only counted in the kernel, most first; None if it does not say."""
        totals: dict[tuple[int, bool], Counter[str]] = {}
        try:
            for row in self._sensing.read_unsent():
                what = "reports" if row.news else "refused" if row.refused_by else "attempts"
                totals.setdefault((row.owner, row.elsewhere), Counter())[what] += row.count
        except SourceError as error:
            troubles.append(str(error))
            return None
        most = sorted(totals.items(), key=lambda item: -item[1].total())[:MAX_NOT_RECORDED]
        return [
            {
                "user": render_contained(uid)
                if elsewhere
                else render_user(uid, self._guard.account_of(Subject(id=uid)).name),
                "uid": uid,
                "attempts": counts["attempts"],
                "refused": counts["refused"],
                "reports": counts["reports"],
            }
            for (uid, elsewhere), counts in most
        ]

    def _sources(self) -> list[Figures]:
        leader = self._sensing.leader()
        rows = []
        for sensor in self._sensing.sensors:
            stats = sensor.source.stats if sensor.source is not None else None
            down = "down" if sensor.why else "standby"
            rows.append(
                {
                    "name": sensor.name,
                    "state": down if stats is None else "leads" if sensor is leader else "beside",
                    "why": sensor.why,
                    "restarts": sensor.restarts,
                    "events": stats.events if stats else 0,
                    "lost": stats.lost if stats else 0,
                    "garbled": stats.garbled if stats else 0,
                    "notes": dict(stats.notes) if stats else {},
                }
            )
        return rows

    def _enforcement(self) -> list[Figures]:
        enforcement = self._guard.enforcement
        activation = enforcement.activation
        comparison = enforcement.comparison
        table = f"table inet {self._guard.settings.nft_table}"
        if activation.trouble:
            nft = f"{table}: {activation.trouble}"
        elif self._guard.engine.is_off:
            nft = f"{table} is removed: smtpguard is off"
        elif not enforcement.healing:
            nft = f"{table} was removed by `nft remove`. Put it back: smtpguard nft ensure"
        elif activation.up:
            nft = f"{table} is in place, {self._render_comparison()}"
        else:
            nft = f"{table} is not there: a dry run needs none"
        looked_ns = comparison.looked_ns if comparison is not None else None
        rows: list[Figures] = [
            {
                "name": "nft",
                "state": nft,
                "in_step": self._is_in_step(),
                "looked": None if looked_ns is None else (looked_ns + self._guard.wall.offset_ns) / NS,
            }
        ]
        if activation.has_switch:
            rows.append({"name": "bpf", "state": "enforcing" if activation.up else "reporting only"})
        return rows

    def _is_in_step(self) -> bool | None:
        """Whether the kernel's sets hold what the list says; None if nobody knows."""
        comparison = self._guard.enforcement.comparison
        if comparison is None or comparison.looked_ns is None or comparison.trouble:
            return None
        return not comparison.differences

    def _render_comparison(self) -> str:
        comparison = self._guard.enforcement.comparison
        if comparison is None or comparison.looked_ns is None:
            return "not compared with the list yet"
        when = render_moment((comparison.looked_ns + self._guard.wall.offset_ns) / NS)
        what = {True: "in sync with the list", False: "OUT OF SYNC with the list", None: "last compared with the list"}
        return f"{what[self._is_in_step()]} (checked {when})"

    def _parts(self) -> dict[str, str]:
        """One line a part, for people."""
        log, state, engine = self._events.stats(), self._guard.state.stats(), self._guard.engine.stats()
        parts = {
            "event log": f"{log.path}: {log.written} lines, {log.waiting} waiting, {log.dropped} dropped, "
            f"{log.suppressed} suppressed",
            "state": f"{state.path or 'none'}: {state.size_bytes} bytes, {state.waiting} waiting, "
            f"{sum(state.dropped.values())} dropped" + "".join(f"; {note}" for note in state.notes[-1:]),
            "windows": f"{engine.subjects} users, {engine.times} times, {engine.keys} destinations, "
            f"{engine.dropped} dropped, {engine.evicted} users forgotten",
            "journal": ", ".join(f"{value} {name}" for name, value in self._guard.journal.waiting.stats().items()),
        }
        if self._counting is not None:
            pairing = self._counting.pairing
            parts["pairing"] = (
                f"{pairing.paired} reports paired, {pairing.unpaired} seen by one alone, "
                f"{pairing.late} late, {pairing.dropped} dropped"
            )
        if self._looker is not None:
            parts["attribution"] = _render_stats(self._looker.stats())
        if self._rdns is not None:
            parts["rdns"] = _render_stats(self._rdns.stats())
        if inactive := self._uncounted().inactive:
            parts["inactive"] = f"rules as shipped that need the source bpf: {', '.join(inactive)}"
        exactness = self._exactness()
        if exactness.exact:
            parts["exact"] = f"in the kernel, to the very attempt: {', '.join(exactness.exact)}"
        for number, (name, beyond) in enumerate(exactness.judged, 1):
            parts["judged" if number == 1 else f"judged {number}"] = f"rule {name}; beyond its limit {beyond}"
        if failures := self._supervision.failures:
            parts["failures"] = ", ".join(f"{name} {count}" for name, count in sorted(failures.items()))
        return parts | self._more_parts()


def _render_stats(stats: object) -> str:
    """The counters of a frozen dataclass as `3 asked, 2 answered`."""
    names = getattr(stats, "__dataclass_fields__", {})
    values = {name.replace("_", " "): getattr(stats, name) for name in names}
    shown = [f"{value} {name}" for name, value in values.items() if isinstance(value, int)]
    # What is off, and why, is said only when something is.
    shown += [f"{name}: {_render_off(value)}" for name, value in values.items() if value and not isinstance(value, int)]
    return ", ".join(shown)


def _render_off(value: object) -> str:
    return ", ".join(map(_render_share, value)) if isinstance(value, tuple) else str(value)


def _render_share(share: int) -> str:
    """Whose share of a budget it is, see Account.share."""
    return render_contained(share & 0xFFFF_FFFF) if share >> 32 else str(share)
