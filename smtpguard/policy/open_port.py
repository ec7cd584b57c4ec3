"""A port in use by a subject: its lane, with the rules that count on it."""

from typing import TYPE_CHECKING

from smtpguard.policy.compiled_rules import Needs
from smtpguard.policy.windows import KeyTable, Lane

if TYPE_CHECKING:
    from smtpguard.policy.counters import Counter


class OpenPort(Lane):
    """A lane together with the rules that count on its port.

    Attributes:
        port: Which.
        counters, tables: The rules that count here, and where their keys are.
    """

    __slots__ = ("counters", "port", "tables")

    def __init__(self, port: int, needs: Needs) -> None:
        super().__init__(needs)
        self.port = port
        self.counters: tuple[Counter, ...] = ()
        self.tables: tuple[KeyTable, ...] = ()
