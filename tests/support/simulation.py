"""Connections of a story through the real engine, with the configuration as it is shipped, enforced."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from smtpguard.fast_dataclass import quick_maker
from smtpguard.model import NS, Block, Connect, Extended, Refusal, SocketReport, Subject, Verdict
from smtpguard.policy.destinations import Destinations
from smtpguard.policy.engine import Engine
from smtpguard.settings import Settings
from smtpguard.settings.load import read_shipped
from tests.support.ordinary_hosts import Attempt, User, in_time, with_reports
from tests.support.policy import People

_TICK_NS = 600 * NS
"""The daemon ticks more often; here nothing but forgetting who was silent would come of it."""
_FAR = 1 << 62
MX_PORT = 25
_connect = quick_maker(Connect, "time_ns", "uid", "port", "address", "sensor", "result", "cookie")
_report = quick_maker(SocketReport, *SocketReport.__dataclass_fields__)


@dataclass(kw_only=True)
class Found:
    """What became of it.

    Attributes:
        attempts, refused: How many.
        verdicts: All of them.
        blocks: Blocks and throttles.
    """

    attempts: int = 0
    refused: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def by_rule(self) -> Counter[str]:
        return Counter(verdict.rule for verdict in self.verdicts)

    def users_of(self, rule: str) -> set[int]:
        return {verdict.subject.id for verdict in self.verdicts if verdict.rule == rule}


def shipped_settings() -> Settings:
    """The shipped configuration, as after the first days."""
    return replace(read_shipped(), dry_run=False)


def make_engine(settings: Settings | None = None) -> Engine:
    settings = settings or shipped_settings()
    why_exempt = Destinations(exempt=settings.exempt.networks).why_exempt
    return Engine(settings=settings, directory=People(), why_exempt=why_exempt)


def remember(engine: Engine, users: Iterable[User], days: range) -> None:
    """What a guard knows that was there before: who was on port 25, which `novel` rules ask for, and when."""
    for user in users:
        sent = next((sent for number in reversed(days) if (sent := [*user.spend(number)])), [])
        for attempt in sent if sent and sent[0].port == MX_PORT else ():
            engine.memory.restore_seen(Subject(id=attempt.uid), attempt.port, in_time(attempt.at_s))


def run(engine: Engine, attempts: Iterable[Attempt]) -> Found:
    """Let it happen, as bpf would tell it: each attempt, and what its session had sent when it ends."""
    found = Found()
    cookies: dict[int, int] = {}
    tick_ns = due_ns = 0
    for attempt, is_end in with_reports(attempts):
        if is_end:
            cookie = cookies.pop(id(attempt), 0)
            if cookie:
                time_ns = in_time(attempt.at_s + 3)
                report = _report(
                    time_ns, "closed", attempt.uid, None, cookie, in_time(attempt.at_s), attempt.port, attempt.address,
                    None, attempt.size, 500, 0, None, None,
                )  # fmt: skip
                decisions = engine.report(report)
                if decisions:
                    _take(found, decisions)
                    due_ns = engine.next_deadline() or _FAR
            continue
        time_ns = in_time(attempt.at_s)
        if time_ns >= tick_ns or time_ns >= due_ns:
            _take(found, engine.tick(time_ns))
            tick_ns, due_ns = time_ns + _TICK_NS, engine.next_deadline() or _FAR
        found.attempts += 1
        decisions = engine.feed(
            _connect(time_ns, attempt.uid, attempt.port, attempt.address, "bpf", "allowed", found.attempts)
        )
        if decisions:
            _take(found, decisions)
            due_ns = engine.next_deadline() or _FAR
        if not decisions or not any(isinstance(decision, Refusal) for decision in decisions):
            cookies[id(attempt)] = found.attempts
    return found


def _take(found: Found, decisions: Iterable[object]) -> None:
    for decision in decisions:
        match decision:
            case Refusal():
                found.refused += 1
            case Verdict():
                found.verdicts.append(decision)
            case Block():
                found.blocks.append(decision)
            case Extended():
                found.blocks.append(decision.block)
