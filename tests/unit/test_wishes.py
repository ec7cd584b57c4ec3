"""What people ask for beside what they asked for before: nothing is shortened, forgotten or opened silently."""

import pytest

from smtpguard.daemon.serve.allowance_terms import check_member, render_kept
from smtpguard.daemon.serve.block_wish import check_ports, merge_wish
from smtpguard.errors import PolicyError
from smtpguard.model import Allowance, Block, Subject
from smtpguard.policy.rules import Terms, allowed_terms
from smtpguard.settings import MINUTE_NS, Rule

HOUR_NS = 60 * MINUTE_NS
WHO = Subject(id=1001)


def block(minutes: int, reason: str = "", source: str = "admin", ports: tuple[int, ...] | None = None) -> Block:
    return Block(
        subject=WHO, name="web01", source=source, kind="block", since_ns=0, until_ns=minutes * MINUTE_NS,
        mode="enforce", reason=reason, ports=ports,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("held", "asked", "has_length", "minutes", "reason", "was"),
    [
        ([], block(60), False, 60, "", None),
        ([block(120, "old")], block(60), False, 120, "old", None),
        ([block(120, "old")], block(60), True, 60, "old", 120),
        ([block(120, "old")], block(60, "new"), True, 60, "new", 120),
        ([block(30, "old")], block(60), False, 60, "old", None),
        ([block(30, "old")], block(60, "new"), True, 60, "new", None),
        ([block(120, "theirs", source="guard")], block(60), True, 60, "", None),
        ([block(120, "25", ports=(25,))], block(60), True, 60, "", None),
        ([block(120, "all")], block(60, ports=(25,)), True, 60, "", None),
        ([block(120, "25", ports=(25,))], block(60, ports=(25,)), False, 120, "25", None),
        ([block(0, "over")], block(60), False, 60, "", None),
    ],
)
def test_a_block_beside_the_one_before(
    held: list[Block], asked: Block, has_length: bool, minutes: int, reason: str, was: int | None
) -> None:
    merged = merge_wish(asked, held, has_length=has_length)
    assert (merged.block.until_ns // MINUTE_NS, merged.block.reason) == (minutes, reason)
    assert merged.before_ns == (None if was is None else was * MINUTE_NS)


def test_ports_are_those_that_are_guarded() -> None:
    assert check_ports(None, {25}) is None
    assert check_ports([587, 25, 25], {25, 465, 587}) == (25, 587)
    with pytest.raises(PolicyError, match="port 26 is not guarded here"):
        check_ports([25, 26], {25})


def allowance(hours: int = 1, limit: int | None = None, *, everything: bool = False) -> Allowance:
    window_ns = None if limit is None else HOUR_NS
    return Allowance(
        subject=WHO, name="web01", since_ns=0, until_ns=hours * HOUR_NS, by="admin", limit=limit, window_ns=window_ns,
        everything=everything,
    )  # fmt: skip


def rule(name: str, **changed: object) -> Rule:
    return Rule(**{"name": name, "count": "connections", "limit": 30, "window_ns": HOUR_NS, **changed})  # type: ignore[arg-type] # a table


USUAL = (
    rule("mx", count="networks", ports=frozenset({25}), limit=10),
    rule("all", count="networks"),
    rule("submission", count="networks", ports=frozenset({587})),
    rule("busy", ports=frozenset({25})),
)


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        (allowance(), {"mx": 10, "all": 30, "submission": 300, "busy": 300}),
        (allowance(everything=True), {}),
        (allowance(limit=500), {"mx": 10, "all": 30, "allowance": 500}),
        (allowance(limit=500, everything=True), {"allowance": 500}),
    ],
)
@pytest.mark.parametrize("why", ["", "dry_run"])
def test_what_an_allowance_leaves_of_the_rules(given: Allowance, limits: dict[str, int], why: str) -> None:
    usual = Terms(told=USUAL, why=why) if why else Terms(enforced=USUAL)
    terms = allowed_terms(given, usual)
    assert {rule.name: rule.limit for rule in (terms.told if why else terms.enforced)} == limits
    assert not (terms.enforced if why else terms.told)
    assert ("networks of port 25 still apply" in render_kept(given)) is not given.everything


@pytest.mark.parametrize(
    ("hours", "held", "wrong"),
    [
        (24, [], None),
        (25, [], "at most 24 h"),
        (1, [block(30, source="guard")], None),
        (1, [block(30)], "an administrator has blocked this user"),
        (1, [block(0)], None),
    ],
)
def test_what_a_member_of_the_group_may_allow(hours: int, held: list[Block], wrong: str | None) -> None:
    if wrong is None:
        check_member(allowance(hours), held, longest_ns=24 * HOUR_NS)
    else:
        with pytest.raises(PolicyError, match=wrong):
            check_member(allowance(hours), held, longest_ns=24 * HOUR_NS)
