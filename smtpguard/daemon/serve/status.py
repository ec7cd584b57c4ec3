"""What `status` shows: collected from the parts, decided by nobody else."""

import os
from typing import Literal, Protocol

from smtpguard import __version__
from smtpguard.actions.eventlog import EventLog
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.execution import Execution
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.intake.sensor_pairing import SensorPairing
from smtpguard.daemon.loop import StallGauge
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.serve.enforcement_status import EnforcementStatus
from smtpguard.daemon.serve.listings import Listings
from smtpguard.daemon.serve.source_status import Figures, SourceStatus
from smtpguard.daemon.supervision import Supervision
from smtpguard.daemon.watches import Watches
from smtpguard.enrich.looker import Looker
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.policy.engine import Engine
from smtpguard.state.enforcing_since import EnforcingSince
from smtpguard.state.writer import StateWriter
from smtpguard.text import CONTAINED


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
        guard: What was seen, and the configuration in force.
        sources: What is shown of the sources.
        means: What is shown of enforcement.
        engine, execution, journal, state, events, switch, watches, listings: The parts.
        looker, rdns: Enrichers; None where they are off.
        enforcing_since: Since when users are refused.
        pairing: What pairs several sources; None with one.
        now: CLOCK_BOOTTIME in nanoseconds.
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
        sources: SourceStatus,
        means: EnforcementStatus,
        *,
        engine: Engine,
        execution: Execution,
        journal: Journal,
        state: StateWriter,
        events: EventLog,
        switch: OffSwitch,
        enforcing_since: EnforcingSince,
        watches: Watches,
        listings: Listings,
        looker: Looker | None,
        rdns: ReverseDns | None,
        pairing: SensorPairing | None,
        now: ClockNs,
        stalls: StallGauge,
        supervision: Supervision,
        troubles: Troubles,
        parts: Parts,
        since_ns: int,
    ) -> None:
        self._guard = guard
        self._sources = sources
        self._means = means
        self._engine = engine
        self._execution = execution
        self._journal = journal
        self._state = state
        self._events = events
        self._switch = switch
        self._enforcing_since = enforcing_since
        self._watches = watches
        self._listings = listings
        self._looker = looker
        self._rdns = rdns
        self._pairing = pairing
        self._now = now
        self._stalls = stalls
        self._supervision = supervision
        self._more_troubles = troubles
        self._more_parts = parts
        self._since_ns = since_ns
        self.wrong_file: str | None = None

    def collect(self) -> Figures:
        """All of it, as JSON values."""
        guard, means = self._guard, self._means
        now_ns = self._now()
        blocks = [block for block in self._engine.blocks() if block.until_ns > now_ns]
        enforced = [block for block in blocks if block.mode == "enforce"]
        means.compare()
        troubles = self.troubles()
        capped = means.list_capped(troubles)
        not_recorded = self._sources.list_not_recorded(troubles)
        exactness = means.exactness()
        return {
            "ready": self.is_ready(),
            "version": __version__,
            "pid": os.getpid(),
            "uptime": (now_ns - self._since_ns) / NS,
            "mode": self.mode(),
            "off_until": self._switch.until_ns / NS if self._switch.until_ns is not None else None,
            "enforcing_since": None if (since_ns := self._enforcing_since.wall_ns) is None else since_ns / NS,
            "config": guard.settings.path or "shipped defaults",
            "wrong_file": self.wrong_file,
            "troubles": troubles,
            "sources": self._sources.list_sources(),
            "enforcement": means.list_means(),
            "ports": sorted(guard.settings.ports),
            "seen": guard.seen,
            "blocks": sum(block.kind == "block" for block in enforced),
            "throttles": sum(block.kind == "throttle" for block in enforced),
            "would": len(blocks) - len(enforced),
            "refused": self._execution.refused_sum,
            "breaker_tripped": self._engine.is_tripped("enforce"),
            "script_names": self._script_names(),
            "cap": means.show_cap(),
            "watched": self._watches.collect(),
            "listed": self._listings.collect(),
            "capped": capped,
            "not_recorded": not_recorded,
            "part_failures": dict(self._supervision.failures),
            "worst_stall_ms": round(self._stalls.worst_ns / 1e6, 1),
            "worst_stall_in": self._stalls.worst_part,
            "inactive_rules": list(self._sources.find_uncounted().inactive),
            "limits": {"exact": list(exactness.exact), "judged": dict(exactness.judged)},
            "notes": list(self._state.stats().notes[-1:]),
            "parts": self._parts(),
        }

    def _script_names(self) -> Figures | None:
        """How many of the attempts found their script; None where nobody looks."""
        if self._looker is None:
            return None
        stats = self._looker.stats()
        asked = stats.asked + stats.over_budget + stats.crowded
        return {"asked": asked, "answered": stats.answered, "off": stats.off}

    def is_ready(self) -> bool:
        """Whether a source is open and proven, and enforcement is in place where it is wanted."""
        works = self._sources.is_seeing() and self._means.is_acting()
        return works and self._supervision.is_ready() and self.wrong_file is None

    def mode(self) -> Literal["off", "dry-run", "enforce"]:
        """What the guard does, in one word."""
        return "off" if self._engine.is_off else "dry-run" if self._guard.settings.dry_run else "enforce"

    def is_seeing(self) -> bool:
        """Whether a source works, or none is wanted."""
        return self._sources.is_seeing()

    def is_acting(self) -> bool:
        """Whether enforcement is in place where it is wanted."""
        return self._means.is_acting()

    def is_well(self) -> bool:
        """Whether it guards, nobody has switched it off, and the kernel holds what the list says."""
        return self.is_ready() and not self._engine.is_off and self._means.is_in_sync()

    def headline(self) -> str:
        """How the guard fares, in one line."""
        text = self._sources.headline(self._means.headline())
        if self.wrong_file is not None:
            text = f"{self.wrong_file}; {text}"
        failing = ", ".join(health.name for health in self._supervision.failing())
        return f"{text}; failing: {failing}" if failing else text

    def troubles(self) -> list[str]:
        """What is wrong now, worst first."""
        found: list[str] = []
        if self.wrong_file is not None:
            found.append(f"{self.wrong_file}. Mend it, then: smtpguard check && smtpguard reload")
        if self._engine.is_off:
            found.append("OFF: nobody is refused. Switch on: smtpguard on")
        if not self._sources.is_seeing():
            found.append("BLIND: no source works. Nothing is seen, nobody is stopped. See: smtpguard doctor")
        found += self._means.table_troubles()
        if self._engine.is_tripped("enforce"):
            found.append("SAFETY BRAKE: users over a limit are only slowed down. Wrong limit? smtpguard blocks")
        found += self._supervision.troubles()
        found += self._means.troubles()
        found += self._sources.troubles()
        if error := self._events.stats().error:
            shown = error.replace(": can't be written: ", ": ")
            found.append(f"the event log can't be written: {shown}")
        if error := self._state.stats().error:
            found.append(f"the state can't be written: {error}")
        return found + self._more_troubles()

    def _parts(self) -> dict[str, str]:
        """One line a part, for people."""
        record = self._journal.recorder
        log, state, engine = self._events.stats(), self._state.stats(), self._engine.stats()
        parts = {
            "event log": f"{log.path}: {log.written} lines, {log.waiting} waiting, {log.dropped} dropped, "
            f"{log.suppressed} suppressed",
            "state": f"{state.path or 'none'}: {state.size_bytes} bytes, {state.waiting} waiting, "
            f"{sum(state.dropped.values())} dropped" + "".join(f"; {note}" for note in state.notes[-1:]),
            "record": f"{record.dropped} places not kept, {record.foreign} attempts of nobody's containers",
            "windows": f"{engine.subjects} users, {engine.times} times, {engine.keys} destinations, "
            f"{engine.dropped} dropped, {engine.evicted} users forgotten, "
            f"{engine.untold} verdicts about containers not told",
            "journal": ", ".join(f"{value} {name}" for name, value in self._journal.waiting.stats().items()),
        }
        if self._pairing is not None:
            pairing = self._pairing.pairing
            parts["pairing"] = (
                f"{pairing.paired} reports paired, {pairing.unpaired} seen by one alone, "
                f"{pairing.late} late, {pairing.dropped} dropped"
            )
        if self._looker is not None:
            parts["attribution"] = _render_stats(self._looker.stats())
        if self._rdns is not None:
            parts["rdns"] = _render_stats(self._rdns.stats())
        if inactive := self._sources.find_uncounted().inactive:
            parts["inactive"] = f"rules as shipped that need the source bpf: {', '.join(inactive)}"
        exactness = self._means.exactness()
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
    return f"@{CONTAINED}" if share >> 32 else str(share)
