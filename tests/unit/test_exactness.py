"""What `status` says of limits that are judged after the fact."""

from typing import Any

import pytest

from smtpguard.policy.exactness import Exactness, describe_exactness
from smtpguard.settings import MINUTE_NS, Rule
from tests.support.policy import settings_of


def rule(name: str, count: Any = "connections", **more: Any) -> Rule:  # noqa: ANN401
    more = {"limit": 5, "window_ns": MINUTE_NS, "action": "block", **more}
    return Rule(name=name, count=count, **more)


RULES = (
    rule("burst"),
    rule("told", action="warn"),
    rule("trial", dry_run=True),
    rule("failing", "failures"),
    rule("volume", "bytes", action="throttle"),
    rule("new", "networks", novel_ns=MINUTE_NS),
)


@pytest.mark.parametrize(
    ("name", "words"),
    [("failing", "known at its end"), ("volume", "in a second"), ("new", "before the daemon has judged")],
)
def test_each_rule_that_refuses_is_exact_or_says_by_how_much_it_is_not(name: str, words: str) -> None:
    found = describe_exactness(settings_of(*RULES), {"burst"})
    assert found.exact == ("burst",)
    assert [judged for judged, _ in found.judged] == ["failing", "volume", "new"]
    assert words in dict(found.judged)[name]


def test_where_the_kernel_enforces_nothing_all_are_judged_and_dry_run_has_no_limits() -> None:
    assert [name for name, _ in describe_exactness(settings_of(*RULES), ()).judged] == [
        "burst",
        "failing",
        "volume",
        "new",
    ]
    assert describe_exactness(settings_of(*RULES, dry_run=True), {"burst"}) == Exactness(exact=(), judged=())
