"""Since when it is known who sends: `novel` rules say nothing before they have seen, or were taught, their whole span.

On the day a guard is installed everybody would be a newcomer. What it watched counts, and what was read from logs of
before (`replay --learn`), as far as one follows the other. Pure.
"""

from collections.abc import Iterable

from smtpguard.settings import DAY_NS, Rule

Span = tuple[int, int]
"""From and to, in nanoseconds of any one timeline, inclusive."""
MAX_GAP_NS = DAY_NS
"""A longer time in which nothing was seen ends what is known: who sent meanwhile would be taken for a newcomer."""
MAX_SPANS = 100
"""Spans that are kept, the latest; a month of logs is a handful."""


def add_spans(spans: Iterable[Span], more: Iterable[Span]) -> tuple[Span, ...]:
    """Spans joined where one follows another within the gap; in order, the latest of them."""
    joined: list[Span] = []
    for first, last in sorted([*spans, *more]):
        if joined and first <= joined[-1][1] + MAX_GAP_NS:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined[-MAX_SPANS:])


def known_since(watched_ns: int, learned: Iterable[Span]) -> int:
    """Since when all is known without a gap: the guard's own watching, and the learned spans that lead up to it.

    Args:
        watched_ns: Since when the guard watches.
        learned: What was read from logs.
    """
    since_ns = watched_ns
    for first, last in sorted(learned, key=lambda span: -span[1]):
        if last >= since_ns - MAX_GAP_NS:
            since_ns = min(since_ns, first)
    return since_ns


def watched_since(spans: Iterable[Span], now_ns: int) -> int:
    """Since when the guard watches without a gap until now; now, if it has not.

    Args:
        spans: What it noted of its watching.
        now_ns: The time now.
    """
    return min((first for first, last in spans if first <= now_ns <= last + MAX_GAP_NS), default=now_ns)


def speaks_from(rule: Rule, since_ns: int) -> int | None:
    """When a rule begins to speak; None for a rule that asks nothing of the past."""
    return None if rule.novel_ns is None else since_ns + rule.novel_ns
