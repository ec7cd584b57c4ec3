"""Connects at a third of the price, for decoders that make thousands a second: `seal(Draft(time_ns=..., ...))`.

A frozen dataclass sets each field through `object.__setattr__`: 2.2 us for a Connect, a quarter of what an audit event
costs from its bytes to the engine. A Draft is its unfrozen twin with the same slots, and `seal` makes it a Connect in
every respect (CPython lets an object change to a class of equal layout): 0.8 us. Nobody keeps a Draft.
"""

from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any

from smtpguard.model import Connect

Draft: Any = make_dataclass(
    "Draft",
    [
        (each.name, object) if each.default is MISSING else (each.name, object, field(default=each.default))
        for each in fields(Connect)
    ],
    slots=True,
    kw_only=True,
)
"""Takes what Connect takes."""


def seal(draft: Any) -> Connect:  # noqa: ANN401 - a Draft, whose type is made at run time
    """The Connect that a Draft is to be."""
    draft.__class__ = Connect
    connect: Connect = draft
    return connect
