"""What tests of the policy need: accounts, rules, attempts, and an engine made of them."""

from collections.abc import Callable, Iterable
from typing import Any

from smtpguard.model import NS, Account, Block, Connect, Decision, Standing, Subject
from smtpguard.policy.engine import Engine
from smtpguard.policy.roster import Limits
from smtpguard.settings import MINUTE_NS, BreakerLimits, Rule, Settings

T0 = 1_000_000 * NS
WEB = 1001
BURST = Rule(name="burst", count="connections", limit=3, window_ns=MINUTE_NS, action="block", block_ns=30 * MINUTE_NS)


class People:
    """Accounts by uid; what is not there is a tenant named after its uid."""

    def __init__(self, accounts: Iterable[Account] = (), owners: dict[int, int] | None = None) -> None:
        self.accounts = {account.uid: account for account in accounts}
        self.owners = owners or {}

    def owner(self, uid: int) -> int:
        return self.owners.get(uid, uid)

    def account(self, uid: int) -> Account:
        return self.accounts.get(uid) or Account(uid=uid, name=f"u{uid}", standing="tenant")


def person(uid: int, standing: Standing, name: str | None = None, **more: Any) -> Account:  # noqa: ANN401
    return Account(uid=uid, name=name or f"u{uid}", standing=standing, **more)


def engine_of(
    *rules: Rule,
    people: People | None = None,
    why_exempt: Callable[[bytes], str | None] = lambda _: None,
    limits: Limits | None = None,
    **settings: Any,  # noqa: ANN401
) -> Engine:
    settings = {"dry_run": False, "breaker": BreakerLimits(blocks=1000), **settings}
    return Engine(
        settings=Settings(rules=rules, **settings), directory=people or People(), why_exempt=why_exempt, limits=limits
    )


def connect(at_s: float, uid: int | None = WEB, **more: Any) -> Connect:  # noqa: ANN401
    more = {"port": 25, "address": bytes([192, 0, 2, 1]), "sensor": "test", **more}
    return Connect(time_ns=T0 + round(at_s * NS), uid=uid, **more)


def feed(engine: Engine, times: Iterable[float], **more: Any) -> list[Any]:  # noqa: ANN401
    return [decision for at_s in times for decision in engine.feed(connect(at_s, **more))]


def only(kind: type, decisions: Iterable[Decision]) -> list[Any]:
    return [decision for decision in decisions if isinstance(decision, kind)]


def settings_of(*rules: Rule, **more: Any) -> Settings:  # noqa: ANN401
    return Settings(**{"dry_run": False, "rules": rules, "breaker": BreakerLimits(blocks=1000), **more})


def block_of(source: str, *, uid: int = WEB, name: str | None = None, for_s: int = 3600, **more: Any) -> Block:  # noqa: ANN401
    more = {"kind": "block", "mode": "enforce", **more}
    return Block(
        subject=Subject(id=uid),
        name=name or f"u{uid}",
        source=source,
        since_ns=T0,
        until_ns=T0 + for_s * NS,
        **more,
    )
