"""The engine's semantics read literally from docs/architecture.md: plain lists, everything counted anew each time."""

from dataclasses import dataclass, field
from typing import Any

from smtpguard.model import Connect
from smtpguard.settings import Rule, Settings

Said = tuple[Any, ...]


@dataclass
class World:
    """Rules of one mode for one subject."""

    rules: list[Rule]
    taken: list[tuple[int, int, bytes]] = field(default_factory=list)
    emptied: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    fresh: dict[str, int] = field(default_factory=dict)
    blocks: int = 0
    last_until: int | None = None


@dataclass
class Person:
    worlds: dict[str, World]
    spans: list[tuple[int, int, str, str, frozenset[int] | None, str]] = field(default_factory=list)
    """Since, until, kind, world, ports (None: all), mode: of one that was over when it began nothing is carried out."""


class Oracle:
    def __init__(self, settings: Settings, newcomer_ns: int) -> None:
        self.settings = settings
        self.newcomer_ns = newcomer_ns
        self.known_ns: int | None = None
        self.people: dict[int, Person] = {}
        self.breakers: dict[str, dict[str, Any]] = {
            mode: {"times": [], "tripped": False, "last": None} for mode in ("enforce", "dry-run")
        }
        self.now: int | None = None

    def tick(self, now: int) -> None:
        self.now = now if self.now is None else max(self.now, now)
        for mode in self.breakers:
            self._calm(mode, self.now)

    def unblock(self, uid: int, now: int) -> None:
        person = self._person(uid)
        person.spans = [(s[0], min(s[1], now), *s[2:]) for s in person.spans]
        for world in person.worlds.values():
            for rule in world.rules:
                world.emptied[rule.name] = max(now, world.emptied.get(rule.name, now))
            world.told.clear()
            world.blocks, world.last_until = 0, None

    def feed(self, c: Connect) -> list[Said]:
        assert c.uid is not None
        person = self._person(c.uid)
        t = c.time_ns
        if c.result == "refused" and c.refused_by in {"block", "throttle", "cap"}:
            return [("refusal", c.refused_by, "enforce")]
        said: list[Said] = []
        inside = [s for s in person.spans if s[0] <= t < s[1] and (s[4] is None or c.port in s[4])]
        hidden = {"dry-run"} if inside else set()
        if inside:
            world = "enforce" if any(span[3] == "enforce" for span in inside) else "dry-run"
            if world == "enforce":
                hidden.add("enforce")
            strongest = max(
                (span for span in inside if span[3] == world), key=lambda s: (s[5] == "enforce", s[2] == "block")
            )
            said.append(("refusal", strongest[2], strongest[5]))
        judged: dict[str, tuple[int, list[tuple[Rule, int, int, list[int]]]]] = {}
        for mode in ("enforce", "dry-run"):
            if mode in person.worlds and mode not in hidden:
                judged[mode] = self._judge(person.worlds[mode], t, c.port, c.address)
        refusing = {mode for mode, (_, found) in judged.items() if any(rule.action != "warn" for rule, *_ in found)}
        if c.refused_by == "credit":
            if not refusing:
                return said or [("refusal", "credit", "enforce")]
        elif "enforce" not in refusing:
            for mode in judged:
                if mode not in refusing:
                    person.worlds[mode].taken.append((t, c.port, c.address))
        for mode, (at, found) in judged.items():
            said += self._sentence(person, mode, at, found)
        return said

    def _person(self, uid: int) -> Person:
        if uid not in self.people:
            dry = [rule for rule in self.settings.rules if self.settings.dry_run or rule.dry_run]
            earnest = [rule for rule in self.settings.rules if rule not in dry]
            worlds = {"enforce": World(earnest), "dry-run": World(dry)}
            self.people[uid] = Person({mode: world for mode, world in worlds.items() if world.rules})
        return self.people[uid]

    def _judge(
        self, world: World, t: int, port: int, address: bytes
    ) -> tuple[int, list[tuple[Rule, int, int, list[int]]]]:
        at = max([t, *[taken[0] for taken in world.taken]])
        found = []
        for rule in world.rules:
            ports = self.settings.ports if rule.ports is None else rule.ports
            if port not in ports:
                continue
            if rule.novel_ns is not None:
                if self.known_ns is not None and at - self.known_ns < rule.novel_ns:
                    continue
                before = [taken[0] for taken in world.taken if taken[1] in ports]
                if not before or at - max(before) >= rule.novel_ns:
                    world.fresh[rule.name] = at
                if rule.name not in world.fresh or at - world.fresh[rule.name] >= self.newcomer_ns:
                    continue

            def counts(time: int, rule: Rule = rule) -> bool:
                floor = world.emptied.get(rule.name)
                return at - rule.window_ns < time and (floor is None or time > floor)

            if not counts(t):
                continue
            window = [taken for taken in world.taken if taken[1] in ports and counts(taken[0])]
            times = self._times(rule, window)
            with_it = self._times(rule, [*window, (t, port, address)])
            if len(with_it) > rule.limit:
                found.append((rule, len(with_it), len(times), times))
        return at, found

    @staticmethod
    def _times(rule: Rule, window: list[tuple[int, int, bytes]]) -> list[int]:
        """When each of what is counted last came, ascending."""
        if rule.count == "connections":
            return sorted(taken[0] for taken in window)
        last: dict[bytes, int] = {}
        for time, _, address in window:
            key = address if rule.count == "destinations" else address[: 3 if len(address) == 4 else 6]
            last[key] = max(time, last.get(key, time))
        return sorted(last.values())

    def _sentence(
        self, person: Person, mode: str, at: int, found: list[tuple[Rule, int, int, list[int]]]
    ) -> list[Said]:
        said: list[Said] = []
        world = person.worlds[mode]
        escalation = self.settings.escalation
        level = world.blocks
        if world.last_until is None or at >= world.last_until + escalation.forget_ns:
            level = 0

        def length(rule: Rule) -> int:
            return max(rule.block_ns, int(min(rule.block_ns * escalation.factor**level, escalation.max_ns)))

        blocking = [rule for rule, *_ in found if rule.action == "block"]
        live = any(self.now is None or at + length(rule) > self.now for rule in blocking)
        softened = live and not self._admit(mode, at, said)
        for rule, count, before, times in found:
            action = "throttle" if softened and rule.action == "block" else rule.action
            until = None
            if action == "block":
                until = at + length(rule)
            elif action == "throttle":
                until = (times[-rule.limit] if rule.limit else at) + rule.window_ns
            stale = until is not None and self.now is not None and until <= self.now
            muted = rule.name in world.told and at < world.told[rule.name] + rule.window_ns
            tell = action == "block" or (not muted and (action == "throttle" or before <= rule.limit))
            if tell:
                world.told[rule.name] = at
                said.append(("verdict", rule.name, count, action, until, "dry-run" if stale else mode))
            if action == "block":
                world.emptied[rule.name] = max(at, world.emptied.get(rule.name, at))
            if until is not None:
                kind = "block" if action == "block" else "throttle"
                ports = None if rule.refuse == "all" else rule.ports
                held = [span for span in person.spans if span[2:5] == (kind, mode, ports) and span[0] <= at < span[1]]
                if not any(span[1] >= until for span in held):
                    person.spans.append((at, until, kind, mode, ports, "dry-run" if stale else mode))
        if live and not softened:
            until = at + max(length(rule) for rule in blocking)
            world.blocks, world.last_until = level + 1, max(until, world.last_until or until)
        return said

    def _calm(self, mode: str, now: int) -> bool:
        breaker = self.breakers[mode]
        if breaker["tripped"] and now >= breaker["last"] + self.settings.breaker.per_ns:
            breaker.update(tripped=False, times=[])
            return True
        return False

    def _admit(self, mode: str, at: int, said: list[Said]) -> bool:
        breaker = self.breakers[mode]
        if self._calm(mode, at):
            said.append(("breaker", False))
        breaker["last"] = at if breaker["last"] is None else max(at, breaker["last"])
        if breaker["tripped"]:
            return False
        breaker["times"].append(at)
        recent = [time for time in breaker["times"] if time > at - self.settings.breaker.per_ns]
        breaker["times"] = recent
        if len(recent) > self.settings.breaker.blocks:
            breaker["tripped"] = True
            said.append(("breaker", True))
        return not breaker["tripped"]
