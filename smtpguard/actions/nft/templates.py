"""The ruleset's templates: an administrator's, else the shipped ones; what makes text of them, and fills their sets."""

from collections.abc import Mapping
from typing import Literal, Protocol

from smtpguard.actions.base import Exemptions
from smtpguard.actions.nft.render import (
    TEMPLATE_NAMES,
    Content,
    TableSpec,
)
from smtpguard.decode.netlink.nft_numbers import NftChange
from smtpguard.decode.netlink.nft_ruleset import Ruleset
from smtpguard.kernel.nft.wire import render_create, render_flush
from smtpguard.resources import read_resource

NEEDED_SETS = ("blocked", "throttled", "exempt", "exempt4", "exempt6")
State = Literal["whole", "changed", "somebody else's", "deleted"]


class Render(Protocol):
    """Makes text of a ruleset."""

    def __call__(self, spec: TableSpec, exemptions: Exemptions, templates: Mapping[str, str]) -> str:
        """The text."""
        ...


def read_templates() -> dict[str, str]:
    """The ruleset's templates: an administrator's below /etc/smtpguard/nft, else the shipped ones."""
    return {name: read_resource("nft", name) for name in TEMPLATE_NAMES}


def render_contents(table: str, ruleset: Ruleset, contents: Mapping[str, Content]) -> list[NftChange]:
    """What puts their contents into those sets that the ruleset has."""
    changes: list[NftChange] = []
    for name, (width, intervals) in contents.items():
        if name in ruleset.sets:  # an administrator's own text may do without some
            changes += render_flush(table, name)
            changes += render_create(table, name, [(a, b, None, "") for a, b in intervals], width)
    return changes
