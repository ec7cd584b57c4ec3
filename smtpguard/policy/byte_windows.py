"""Bytes sent, in sliding windows: what `count: bytes` rules count. Holds and counts, decides nothing.

Reports come about once a second for each open session, so a window is kept in steps of a second, or of a 4096th of its
length if that is longer: at most 4,097 entries of 16 bytes for a rule and subject. What a step holds leaves the window
together, with the newest of it.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable

from smtpguard.model import NS, Mode, SocketReport
from smtpguard.policy.compiled_rules import Ports
from smtpguard.policy.counters import Excess
from smtpguard.policy.windows import NEVER
from smtpguard.settings import Rule

STEPS = 4096
_NO_STEPS = array("q")
"""Of all users that have sent no byte yet; never changed."""
MAX_SESSIONS = 65_536
"""Open sessions whose bytes are followed; of one beyond it the bytes count when it is closed."""

SILENT_NS = 3600 * NS
"""No SMTP session is silent for so long and goes on (RFC 5321 4.5.3.2 has timeouts of minutes)."""
PURGE_NS = 60 * NS


class ByteWindow:
    """One bytes rule as one subject stands to it; the counterpart of Counter.

    Attributes:
        times: Event times of the steps, ascending.
        totals: Bytes up to and with each step, since the beginning.
        changes: How many times bytes were counted.
        rule, ports, floor_ns, told_ns: As in Counter.
    """

    __slots__ = ("_step_ns", "changes", "floor_ns", "ports", "rule", "times", "told_ns", "totals")

    def __init__(self, rule: Rule, ports: Ports) -> None:
        self.rule = rule
        self.ports = ports
        self.times = self.totals = _NO_STEPS
        self.floor_ns = NEVER
        self.told_ns = NEVER
        self.changes = 0
        self._step_ns = max(NS, rule.window_ns // STEPS)

    def identity(self) -> tuple[str, str, int]:
        """What makes the rule the same one after a reload or restart: name, count, window."""
        return (self.rule.name, self.rule.count, self.rule.window_ns)

    def add(self, time_ns: int, amount: int) -> None:
        """Count bytes. A late report counts with the newest step."""
        self.changes += 1
        times, totals = self.times, self.totals
        if times and (time_ns <= times[-1] or times[-1] // self._step_ns == time_ns // self._step_ns):
            times[-1] = max(time_ns, times[-1])
            totals[-1] += amount
            return
        if times is _NO_STEPS:
            times = self.times = array("q")
            totals = self.totals = array("q")
        times.append(time_ns)
        totals.append(amount + (totals[-1] if totals else 0))
        if len(times) > 2 * STEPS:
            gone = bisect_right(times, time_ns - self.rule.window_ns) - 1  # one is kept, as the base of the sums
            if gone > 0:
                del times[:gone], totals[:gone]

    def held(self, at_ns: int) -> int:
        """How many bytes the window holds at a time."""
        if not self.times:
            return 0
        return self.totals[-1] - self._before(max(at_ns - self.rule.window_ns, self.floor_ns))

    def release_ns(self, at_ns: int) -> int:
        """When so much has left the window that more may pass."""
        first = bisect_right(self.times, max(at_ns - self.rule.window_ns, self.floor_ns))
        for index in range(first, len(self.times)):
            if self.totals[-1] - self.totals[index] < self.rule.limit:
                return self.times[index] + self.rule.window_ns
        return at_ns + self.rule.window_ns

    def empty(self, at_ns: int) -> None:
        """Empty the window: nothing up to the time counts any more."""
        self.floor_ns = max(self.floor_ns, at_ns)

    def _before(self, edge_ns: int) -> int:
        index = bisect_right(self.times, edge_ns)
        return self.totals[index - 1] if index else 0


class ByteWindows:
    """Bytes of one subject for rules of one mode; the counterpart of Book.

    Args:
        rules: Rules that count bytes.
        ports: The guarded ports, for rules that name none.
        mode: Whether these rules are carried out.
    """

    __slots__ = ("counters", "mode")

    def __init__(self, rules: Iterable[Rule], ports: Ports, mode: Mode) -> None:
        self.mode = mode
        self.counters = tuple([ByteWindow(r, ports if r.ports is None else r.ports & ports) for r in rules])

    def enter(self, time_ns: int, port: int, amount: int) -> list[Excess]:
        """Count bytes that were sent, and say which rules they exceed."""
        found: list[Excess] = []
        for volume in self.counters:
            if port in volume.ports and time_ns > volume.floor_ns:
                before = volume.held(time_ns)
                volume.add(time_ns, amount)
                held = volume.held(time_ns)
                if held > volume.rule.limit:
                    found.append(Excess(volume, held, before <= volume.rule.limit))
        return found

    def fill(self, time_ns: int, port: int) -> list[Excess]:
        """Take what can't be counted for one byte more than the rules let pass."""
        found: list[Excess] = []
        for volume in self.counters:
            if port in volume.ports and time_ns > volume.floor_ns:
                before = volume.held(time_ns)
                volume.add(time_ns, max(0, volume.rule.limit + 1 - before))
                found.append(Excess(volume, volume.held(time_ns), before <= volume.rule.limit))
        return found

    def reset(self, at_ns: int) -> None:
        """Empty all windows, and forget what was told."""
        for volume in self.counters:
            volume.empty(at_ns)
            volume.told_ns = NEVER

    def touched_ns(self) -> int:
        """When something last happened to the windows: counted, emptied or told of; NEVER if nothing did."""
        return max([max([volume.floor_ns, volume.told_ns, *volume.times[-1:]]) for volume in self.counters])

    def adopt(self, others: Iterable["ByteWindows"]) -> None:
        """Take over the windows of rules of the same name and window, nearest book first."""
        for other in others:
            olds = {(old.rule.name, old.rule.window_ns): old for old in other.counters}
            for volume in self.counters:
                old = olds.get((volume.rule.name, volume.rule.window_ns))
                if old is not None and not volume.times:
                    volume.times, volume.totals = old.times, old.totals
                    volume.floor_ns, volume.told_ns = old.floor_ns, old.told_ns


class CountedSessions:
    """How many bytes of each open session were counted already, where a report does not say so itself.

    Attributes:
        untracked: Reports left out because too many sessions were open; their bytes count at the end.
    """

    __slots__ = ("_counted", "_purged_ns", "untracked")

    def __init__(self) -> None:
        self._counted: dict[tuple[int, int | None], tuple[int, int]] = {}
        self._purged_ns = NEVER
        self.untracked = 0

    def news(self, report: SocketReport) -> int:
        """The bytes that a report adds.

        The first report of a session that was open before the sensor was is where counting begins.
        """
        if report.bytes_told is not None:
            return max(0, report.bytes_sent - report.bytes_told)
        key = (report.cookie, report.connect_time_ns)
        counted, _ = self._counted.get(key, (None, 0))
        if report.kind == "closed":
            self._counted.pop(key, None)
        elif counted is not None or self._has_room(report.time_ns):
            self._counted[key] = (report.bytes_sent, report.time_ns)
        else:
            self.untracked += 1
            return 0
        if counted is None:
            counted = 0 if report.connect_time_ns is not None else report.bytes_sent
        return max(0, report.bytes_sent - counted)

    def _has_room(self, time_ns: int) -> bool:
        """Make room by forgetting sessions whose end was never reported (a full ring)."""
        if len(self._counted) >= MAX_SESSIONS and time_ns - self._purged_ns > PURGE_NS:
            self._purged_ns = time_ns
            self._counted = {key: kept for key, kept in self._counted.items() if kept[1] > time_ns - SILENT_NS}
        return len(self._counted) < MAX_SESSIONS
