"""What the state keeps of how long it is known who sends: facts, as JSON of whole numbers. Wall times."""

import json
from collections.abc import Mapping

from smtpguard.policy.history import Span, add_spans

WATCHED = "watched"
"""From when to when the guard has watched."""
LEARNED = "learned"
"""Which times were read from logs."""


def read_spans(facts: Mapping[str, str], name: str) -> tuple[Span, ...]:
    """The spans that a fact holds; none if it is no such thing."""
    try:
        spans = [(first, last) for first, last in json.loads(facts.get(name, "[]"))]
    except (ValueError, TypeError, RecursionError):
        return ()
    if not all(type(edge) is int and edge >= 0 for span in spans for edge in span):
        return ()
    return add_spans((), (span for span in spans if span[0] <= span[1]))


def render_spans(spans: tuple[Span, ...]) -> str:
    """Spans as a fact."""
    return json.dumps(spans)
