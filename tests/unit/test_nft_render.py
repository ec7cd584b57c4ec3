"""The ruleset as text: one golden file a topic; tests/kernel/test_nft_golden.py has nft check each of them."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest

from smtpguard.actions.base import Exemptions
from smtpguard.actions.nft.enforcer import NftEnforcer, read_templates
from smtpguard.actions.nft.render import (
    TableSpec,
    build_spec,
    cap_idle_s,
    render_rate,
    render_ruleset,
    split_networks,
)
from smtpguard.errors import ConfigError
from smtpguard.model import NS
from smtpguard.settings import Cap, Settings

NETWORKS = tuple(
    map(
        ip_network,
        ("192.0.2.7/32", "192.0.2.0/25", "2001:db8::/32", "2001:db8:1::/48", "::ffff:198.51.100.0/120", "10.0.0.0/8"),
    )
)
TOPICS = {
    "default": (TableSpec(), Exemptions()),
    "loopback-counts": (TableSpec(), Exemptions(loopback=False)),
    "drop": (TableSpec(verdict="drop"), Exemptions()),
    "cap": (TableSpec(cap=Cap(rate=60, per_ns=60 * NS, burst=30)), Exemptions()),
    "cap-not-for-all": (
        TableSpec(cap=Cap(rate=60, per_ns=60 * NS, burst=30)),
        Exemptions(uncapped=((1, 999), (61104, 61104), (500, 1000))),
    ),
    "cap-drop": (TableSpec(cap=Cap(rate=5, per_ns=NS, burst=0), verdict="drop"), Exemptions()),
    "passes": (
        TableSpec(),
        Exemptions(uids=((0, 0), (89, 89), (2000, 2999), (2500, 3100), (3101, 3101)), networks=NETWORKS),
    ),
    "everything-passes": (
        TableSpec(),
        Exemptions(uids=((0, 2**32 - 1),), networks=(ip_network("0.0.0.0/0"), ip_network("::/0"))),
    ),
    "own-table-one-port": (TableSpec(table="second_guard", ports=frozenset({25})), Exemptions()),
}


@pytest.mark.parametrize("topic", TOPICS)
def test_ruleset(topic: str, check_golden: Callable[[str, str], None]) -> None:
    spec, exemptions = TOPICS[topic]
    check_golden(f"nft/{topic}.nft", render_ruleset(spec, exemptions, read_templates()))


def test_what_passes_is_asked_before_what_is_refused() -> None:
    text = render_ruleset(TableSpec(cap=Cap(rate=1, per_ns=NS, burst=1)), Exemptions(), read_templates())
    rules = [line.strip() for line in text[text.rindex("chain output") :].splitlines()]
    first_refusal = next(i for i, rule in enumerate(rules) if "refused_" in rule)
    assert all("passed_" not in rule for rule in rules[first_refusal:])
    assert "meta skuid @root counter name passed_root accept" in rules[:first_refusal]
    assert sum("reject" in rule for rule in rules) == 3 + 2 * len(TableSpec().ports)


@pytest.mark.parametrize(
    ("rate", "per_s", "text"),
    [
        (60, 60, "60/minute"),
        (120, 120, "1/second"),
        (5, 60, "5/minute"),
        (1, 86_400, "1/day"),
        (30, 90, "20/minute"),
        (7, 604_800 * 2, "3/week"),
        (1, 604_800 * 9, "1/week"),
        (100_000, 11, "9090/second"),
    ],
)
def test_rate_is_exact_where_a_unit_fits_and_else_rounded_down(rate: int, per_s: int, text: str) -> None:
    assert render_rate(Cap(rate=rate, per_ns=per_s * NS, burst=1)) == text


def test_a_bucket_is_kept_until_it_is_full_again() -> None:
    assert cap_idle_s(None) == 600
    assert cap_idle_s(Cap(rate=60, per_ns=60 * NS, burst=30)) == 600
    assert cap_idle_s(Cap(rate=10, per_ns=3600 * NS, burst=100)) == 36_001


def test_networks_are_joined_and_mapped_ones_are_ipv4() -> None:
    v4, v6 = split_networks(NETWORKS)
    assert list(map(str, v4)) == ["10.0.0.0/8", "192.0.2.0/25", "198.51.100.0/24"]
    assert list(map(str, v6)) == ["2001:db8::/32"]


def test_dry_run_has_no_cap_and_tell_is_a_reset_for_what_tell_cannot_answer() -> None:
    cap = Cap(rate=1, per_ns=NS, burst=1)
    settings = Settings(cap=cap, block_verdict="tell", nft_table="t", ports=frozenset({25}))
    assert build_spec(settings) == TableSpec(table="t", ports=frozenset({25}))
    assert build_spec(replace(settings, dry_run=False, block_verdict="drop")) == TableSpec(
        table="t", ports=frozenset({25}), verdict="drop", cap=cap
    )


def test_a_template_with_an_unknown_placeholder_is_a_configuration_error() -> None:
    for bad in ("$nothing", "$", "${"):
        templates = {**read_templates(), "table.nft": bad}
        with pytest.raises(ConfigError, match="placeholder"):
            NftEnforcer(TableSpec(), templates=templates).render()
