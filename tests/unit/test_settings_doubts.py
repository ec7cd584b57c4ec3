"""Warnings about what is allowed and seldom meant."""

from ipaddress import ip_network

import pytest

from smtpguard.model import NS
from smtpguard.settings import DAY_NS, HOUR_NS, BreakerLimits, Escalation, Exempt, Match, Override, Rule, Settings
from smtpguard.settings.advice import find_doubts, show_duration
from smtpguard.settings.listed import ListedSettings
from smtpguard.settings.notify import Heartbeat, NotifySettings

RULE = Rule(name="r", count="connections", limit=10, window_ns=HOUR_NS, action="throttle")


def settings(**changes: object) -> Settings:
    fields: dict[str, object] = {"dry_run": False, "rules": (RULE,), **changes}
    return Settings(**fields)  # type: ignore[arg-type]


def rule(**changes: object) -> Rule:
    fields: dict[str, object] = {"name": "r", "count": "connections", "limit": 10, "window_ns": HOUR_NS, **changes}
    return Rule(**fields)  # type: ignore[arg-type]


def override(match: Match, **changes: object) -> Override:
    return Override(match=match, rules={"r": rule(**{"action": "throttle", **changes})})


GLOB = Match(users=("shop*",))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (settings(sources="none"), "sources is none"),
        (settings(rules=()), "there are no rules"),
        (settings(rules=(rule(limit=200_000),)), "rule r: a limit of 200000 remembers up to 8 MB for each user"),
        (settings(rules=(rule(window_ns=8 * DAY_NS),)), "rule r: a window of 8d holds"),
        (
            settings(rules=(rule(count="networks", limit=65, action="block"),)),
            "rule r: a limit of more than 64 networks is judged by the daemon",
        ),
        (
            settings(rules=tuple(rule(name=n, count="networks", action="throttle") for n in "abc")),
            "rule c: 2 rules before it count destinations or networks on port",
        ),
        (settings(rules=(rule(limit=0),)), "rule r: a limit of 0 refuses everybody's first connection"),
        (
            settings(rules=(rule(action="block"),), breaker=BreakerLimits(blocks=0)),
            "breaker.blocks is 0: no block is ever",
        ),
        (settings(rules=(rule(block_ns=2 * DAY_NS),)), "a block of 2d ends after 1d, which is escalation.max"),
        (settings(rules=(rule(novel_ns=60 * DAY_NS),)), "novel looks back 60d, but state.keep is 30d"),
        (
            settings(listed=ListedSettings(zones=("zen.example",))),
            "nobody is told of a listing, only",
        ),
        (settings(notify=NotifySettings(mail="root")), "notify.mail is the only way to tell anybody"),
        (
            settings(notify=NotifySettings(heartbeat=Heartbeat(url="http://192.0.2.1:8/x"))),
            "what goes to http://192.0.2.1:8 can be read",
        ),
        (
            settings(notify=NotifySettings(heartbeat=Heartbeat(url="http://b\u00fccher.example/x"))),
            "what goes to http://b\\xfccher.example can be read",
        ),
        (settings(shared_block=frozenset({"www-data"})), "a block of 'www-data' stops the mail of every site"),
        (settings(exempt=Exempt(users=("shop*",))), "exempt.users"),
        (settings(exempt=Exempt(users=("[a]b",))), "exempt.users"),
        (settings(exempt=Exempt(uids=((0, 0),))), "exempt.uids: 0-0 holds system accounts (below 1000)"),
        (settings(exempt=Exempt(uids=((999, 1000),))), "999-1000 holds system accounts"),
        (settings(exempt=Exempt(uids=((1000, 60_000),))), "1000-60000 exempts 59001 uids"),
        (settings(exempt=Exempt(networks=(ip_network("0.0.0.0/0"),))), "0.0.0.0/0 is 4294967296 addresses"),
        (settings(exempt=Exempt(networks=(ip_network("2000::/3"),))), "2000::/3 is a whole provider"),
        (settings(overrides=(override(GLOB, limit=20),)), "users[0].match.users '"),
        (settings(overrides=(override(GLOB, window_ns=NS),)), "users[0].match.users '"),
        (settings(overrides=(override(GLOB, action="warn"),)), "users[0].match.users '"),
        (settings(overrides=(override(GLOB, dry_run=True),)), "users[0].match.users '"),
        (settings(overrides=(override(Match(uids=((5, 9),))),)), "users[0].match.uids: 5-9 holds system accounts"),
        (settings(overrides=(override(Match(users=("a",)), limit=200_000),)), "users[0], rule r: a limit of 200000"),
        (settings(metrics_textfile="/x/smtpguard.txt"), "files that end in .prom only, not '/x/smtpguard.txt'"),
        (settings(metrics_users=True, metrics_group="g"), "metrics.users: no file of metrics is written"),
    ],
)
def test_doubt(given: Settings, what: str) -> None:
    doubts = find_doubts(given, uid_min=1000)
    assert len(doubts) == 1
    assert what in doubts[0]


@pytest.mark.parametrize(
    "given",
    [
        settings(),
        settings(rules=(rule(count="bytes", limit=10**12),)),
        settings(rules=(rule(block_ns=2 * DAY_NS),), escalation=Escalation(max_ns=2 * DAY_NS)),
        settings(rules=(rule(action="warn", block_ns=2 * DAY_NS),)),
        settings(exempt=Exempt(users=("a",), uids=((1000, 1999),), networks=(ip_network("10.0.0.0/16"),))),
        settings(overrides=(override(GLOB, limit=5),)),
        settings(metrics_textfile="/x/smtpguard.prom", metrics_users=True, metrics_group="g"),
        settings(overrides=(override(GLOB, action="block"),)),
        settings(overrides=(override(Match(users=("a",)), limit=20),)),
    ],
)
def test_no_doubt(given: Settings) -> None:
    assert find_doubts(given, uid_min=1000) == []


def test_names_are_shown_safely() -> None:
    doubts = find_doubts(settings(shared_block=frozenset({"\x1b[2J"}), exempt=Exempt(users=("\u2028*",))))
    assert all(doubt.isascii() and doubt.isprintable() for doubt in doubts)


@pytest.mark.parametrize(
    ("duration_ns", "shown"),
    [(30 * NS, "30s"), (90 * NS, "90s"), (120 * NS, "2m"), (HOUR_NS, "1h"), (36 * HOUR_NS, "36h"), (7 * DAY_NS, "7d")],
)
def test_durations(duration_ns: int, shown: str) -> None:
    assert show_duration(duration_ns) == shown
