"""What an allowance may be, and how it is told. Pure."""

from collections.abc import Iterable

from smtpguard.errors import PolicyError
from smtpguard.model import NS, Account, Allowance, Block
from smtpguard.policy.rules import ALLOWED_TIMES
from smtpguard.text import render_duration

MAX_ALLOW_NS = 31 * 86_400 * NS
"""Longest allowance: whoever needs more for longer needs another limit."""


def check_member(allowance: Allowance, held: Iterable[Block], *, longest_ns: int) -> None:
    """Refuse what a member of control.group may not allow.

    Args:
        allowance: What they ask for.
        held: The account's blocks.
        longest_ns: `control.allow_max`.

    Raises:
        PolicyError: It is for too long, or an administrator has blocked the account.
    """
    if allowance.until_ns - allowance.since_ns > longest_ns:
        longest = render_duration(longest_ns / NS)
        raise PolicyError(
            f"members of control.group may allow at most {longest}",
            fix="a shorter --for, control.allow_max, or ask root",
        )
    if any(block.source == "admin" and block.until_ns > allowance.since_ns for block in held):
        raise PolicyError("an administrator has blocked this user", fix="ask root")


def check_standing(account: Account, user: str) -> str:
    """Refuse an allowance that would do nothing.

    Args:
        account: Whose it would be.
        user: What people call them.

    Returns:
        What a person has to know, to be added to the answer; "" if nothing.

    Raises:
        PolicyError: Root is never refused, whatever happens: there is nothing to allow.
    """
    if account.standing == "root":
        raise PolicyError(f"{user} is never refused and never counted: there is nothing to allow")
    if account.standing in ("mta", "exempt"):
        return f". Note: {user} is never refused anyway ({account.reason or account.standing})"
    return ""


def render_much(allowance: Allowance) -> str:
    """How much passes, for people."""
    if allowance.limit is not None and allowance.window_ns is not None:
        return f"{allowance.limit} connections in {render_duration(allowance.window_ns / NS)}"
    if allowance.everything:
        return "any number of connections"
    return f"{ALLOWED_TIMES} times the connections that each rule allows"


def render_kept(allowance: Allowance) -> str:
    """Which rules go on all the same, for people; "" if none does."""
    return "" if allowance.everything else ". Rules on networks of port 25 still apply (--everything lifts them, too)"
