"""What is allowed in a configuration and yet seldom meant: warnings of `smtpguard check`. Pure.

Nothing here stops a start. Each says what follows from the setting, not only that it is unusual.
"""

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

from smtpguard.model import NS
from smtpguard.settings import DAY_NS, HOUR_NS, KEY_SLOTS, KEYED, KEYED_PER_PORT, MINUTE_NS, Rule, Settings

MAX_EXEMPT_UIDS = 10_000
MIN_EXEMPT_PREFIX = {4: 16, 6: 32}
"""Exempt networks larger than a /16 or a /32 are whole providers."""
MAX_REMEMBERED = 100_000
ATTEMPT_BYTES = 40
"""Memory of one remembered attempt: an integer and its place in a deque, CPython 3.11."""
MAX_WINDOW_NS = 7 * DAY_NS
_GLOB = frozenset("*?[")
_GLOB_PART = re.compile(r"\*|\?|\[[^]]*\]?")
_STRENGTH = {"warn": 0, "throttle": 1, "block": 2}


def find_notes(settings: Settings) -> list[str]:
    """What an administrator should know of a configuration that is meant as it is."""
    return ["dry run. Nothing is refused"] if settings.dry_run else []


def find_doubts(settings: Settings, *, uid_min: int = 1000) -> list[str]:
    """Warnings, in the order of the configuration's sections.

    Args:
        settings: The whole configuration.
        uid_min: First uid of people, UID_MIN of login.defs.
    """
    return [
        *_doubt_mode(settings),
        *_doubt_breaker(settings),
        *(text for rule in settings.rules for text in _doubt_rule(f"rule {rule.name}", rule, settings)),
        *_doubt_unused_blocks(settings),
        *_doubt_exact(settings),
        *_doubt_overrides(settings, uid_min),
        *_doubt_shared(settings),
        *_doubt_exempt(settings, uid_min),
        *_doubt_metrics(settings),
        *_doubt_notify(settings),
        *_doubt_listed(settings),
    ]


def _doubt_mode(settings: Settings) -> Iterator[str]:
    if settings.sources == "none":
        yield "sources is none: no connection is seen, so no rule is ever exceeded"
    if not settings.rules:
        yield "there are no rules: nothing is ever too much"


def _doubt_breaker(settings: Settings) -> Iterator[str]:
    if settings.breaker.blocks == 0 and any(rule.action == "block" for rule in settings.rules):
        yield "breaker.blocks is 0: no block is ever carried out, each becomes a throttle"


def _doubt_metrics(settings: Settings) -> Iterator[str]:
    path = settings.metrics_textfile
    if path is not None and not path.endswith(".prom"):
        yield f"metrics.textfile: node_exporter reads files that end in .prom only, not {path!a}"
    if path is None and settings.metrics_users:
        yield "metrics.users: no file of metrics is written, as metrics.textfile is null"


def _doubt_exact(settings: Settings) -> Iterator[str]:
    keyed = [rule for rule in settings.rules if rule.count in KEYED and rule.action != "warn"]
    for rule in keyed:
        if rule.limit > KEY_SLOTS:
            yield (
                f"rule {rule.name}: a limit of more than {KEY_SLOTS} {rule.count} is judged by the daemon, not exact: "
                "some connections may slip through before it knows; `cap` bounds them"
            )
    for number, rule in enumerate(keyed):
        for port in sorted(settings.ports if rule.ports is None else rule.ports):
            if sum(other.ports is None or port in other.ports for other in keyed[:number]) >= KEYED_PER_PORT:
                yield (
                    f"rule {rule.name}: {KEYED_PER_PORT} rules before it count destinations or networks on port {port},"
                    " so it is judged by the daemon, not exact"
                )
                break


def _doubt_rule(name: str, rule: Rule, settings: Settings) -> Iterator[str]:
    if rule.limit == 0 and rule.count in {"connections", *KEYED} and rule.action != "warn" and rule.novel_ns is None:
        yield f"{name}: a limit of 0 refuses everybody's first connection"
    if rule.count != "bytes" and rule.limit > MAX_REMEMBERED:
        mb = rule.limit * ATTEMPT_BYTES // 1_000_000
        yield f"{name}: a limit of {rule.limit} remembers up to {mb} MB for each user who comes near it"
    if rule.window_ns > MAX_WINDOW_NS:
        yield (
            f"{name}: a window of {show_duration(rule.window_ns)} holds every user's attempts in memory for so long; "
            "a shorter one with a lower limit finds the same people sooner"
        )
    if rule.action == "block" and rule.block_ns > settings.escalation.max_ns:
        longest = show_duration(settings.escalation.max_ns)
        yield f"{name}: a block of {show_duration(rule.block_ns)} ends after {longest}, which is escalation.max"
    if rule.novel_ns is not None and rule.novel_ns > settings.state_keep_ns:
        yield (
            f"{name}: novel looks back {show_duration(rule.novel_ns)}, but state.keep is "
            f"{show_duration(settings.state_keep_ns)}: who paused longer than that is new again"
        )


def _doubt_unused_blocks(settings: Settings) -> Iterator[str]:
    """Lengths of blocks that somebody wrote and no action ever uses."""
    usual_ns = Rule(name="usual", count="connections", limit=1, window_ns=NS).block_ns
    for rule in settings.rules:
        changed = [override.rules[rule.name] for override in settings.overrides if rule.name in override.rules]
        given = [each for each in (rule, *changed) if each.block_ns != usual_ns]
        if given and rule.action == "throttle" and all(each.action != "block" for each in changed):
            length = show_duration(given[0].block_ns)
            yield f"rule {rule.name}: `block: {length}` is never used, as `action` is {rule.action}, not block"


def _doubt_overrides(settings: Settings, uid_min: int) -> Iterator[str]:
    rules = {rule.name: rule for rule in settings.rules}
    for index, override in enumerate(settings.overrides):
        place = f"users[{index}]"
        for name, rule in override.rules.items():
            yield from _doubt_rule(f"{place}, rule {name}", rule, settings)
        if any(_is_milder(rule, rules[name]) for name, rule in override.rules.items()):
            yield from _doubt_globs(f"{place}.match.users", override.match.users, "get its milder limits")
        for first, last in override.match.uids:
            if first < uid_min:
                yield f"{place}.match.uids: {first}-{last} holds system accounts (below {uid_min})"


def _is_milder(rule: Rule, usual: Rule) -> bool:
    return (
        rule.limit > usual.limit
        or rule.window_ns < usual.window_ns
        or _STRENGTH[rule.action] < _STRENGTH[usual.action]
        or (rule.dry_run and not usual.dry_run)
    )


def _doubt_shared(settings: Settings) -> Iterator[str]:
    for name in sorted(settings.shared_block):
        yield f"shared_users.block: a block of {name!a} stops the mail of every site that runs under it"


def _doubt_exempt(settings: Settings, uid_min: int) -> Iterator[str]:
    exempt = settings.exempt
    yield from _doubt_globs("exempt.users", exempt.users, "never be limited")
    for first, last in exempt.uids:
        if first < uid_min:
            yield f"exempt.uids: {first}-{last} holds system accounts (below {uid_min})"
        if last - first >= MAX_EXEMPT_UIDS:
            yield f"exempt.uids: {first}-{last} exempts {last - first + 1} uids, those given out later too"
    for network in exempt.networks:
        if network.prefixlen < MIN_EXEMPT_PREFIX[network.version]:
            size = f"{network.num_addresses} addresses" if isinstance(network, IPv4Network) else "a whole provider"
            yield f"exempt.destinations: {network} is {size}: what is sent there is never counted or refused"


def _doubt_globs(place: str, names: Iterable[str], follows: str) -> Iterator[str]:
    for name in names:
        if _GLOB.intersection(name):
            login = _GLOB_PART.sub("99", ascii(name)[1:-1])
            risk = f"a customer who picks a login such as {login} would {follows}"
            yield f"{place} {name!a}: {risk}. Use a group or uids."


def show_duration(duration_ns: int) -> str:
    """A duration as the configuration writes it, in the largest unit that is exact."""
    for unit, size_ns in (("d", DAY_NS), ("h", HOUR_NS), ("m", MINUTE_NS)):
        if duration_ns % size_ns == 0:
            return f"{duration_ns // size_ns}{unit}"
    return f"{duration_ns / NS:g}s"


def _doubt_notify(settings: Settings) -> Iterator[str]:
    notify = settings.notify
    if notify.mail is not None and not (notify.webhooks or notify.urls or notify.hook):
        yield (
            "notify.mail is the only way to tell anybody: a host on block lists can't mail that it is. "
            "Add a webhook or a hook"
        )
    plain = [webhook.url for webhook in notify.webhooks] + ([notify.heartbeat.url] if notify.heartbeat else [])
    for url in plain:
        if url.startswith("http://"):
            host = url.removeprefix("http://").partition("/")[0]
            yield f"notify: what goes to http://{ascii(host)[1:-1]} can be read and changed on its way; use https"


def _doubt_listed(settings: Settings) -> Iterator[str]:
    if settings.listed.zones and not settings.notify.has_channels:
        yield "listed.zones: nobody is told of a listing, only `status` shows it. Add a webhook, a hook or a mail"
