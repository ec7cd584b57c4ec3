"""What a report is made of: parts of the history, names, and the rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smtpguard.text import render_user

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInput:
    """What a report is made of.

    Attributes:
        host: The host's name.
        since_ns, until_ns: Of what time.
        step: Minutes from point to point of the curves.
        parts: Of state/host_history.PARTS; None for one that took too long. `month` are the hours of 30 days, and
            `watched_month` the spans in these.
        names: Uid to login name, as far as it is known.
        rules: Rules of the configuration as `why` shows them; None if it can't be read.
        own_rules: By uid, rules that `users` changes for them; None if it is not known for everybody.
        ends_now: Whether `until_ns` is the present: the hour it is in has no more than what is there.
    """

    host: str
    since_ns: int
    until_ns: int
    step: int
    parts: Mapping[str, Found | None]
    names: Mapping[int, str]
    rules: Sequence[Found] | None
    own_rules: Mapping[int, Mapping[str, Found]] | None = field(default_factory=dict)
    ends_now: bool = False

    def rows(self, part: str) -> list[Any]:
        """Rows of a part; none if it is missing."""
        found = self.parts.get(part)
        return [] if found is None else found["rows"] or []

    def rules_of(self, uid: int) -> Iterable[Found]:
        """The rules as they stand for a user."""
        own = (self.own_rules or {}).get(uid, {})
        return (own.get(rule["name"], rule) for rule in self.rules or ())

    def user(self, uid: int) -> str:
        """A user as people know them."""
        return render_user(uid, self.names.get(uid))
