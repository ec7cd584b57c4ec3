"""What people said about single accounts: allowances, and watches that halve their limits. Pure."""

from smtpguard.model import Account, Allowance, Subject, Watch
from smtpguard.policy.rules import Terms, allowed_terms, halve_terms


class OwnTerms:
    """Whose rules are others than the configuration says.

    Attributes:
        allowances: By subject.
        watches: By subject; while an allowance holds for the same, that one counts.
    """

    __slots__ = ("allowances", "watches")

    def __init__(self) -> None:
        self.allowances: dict[Subject, Allowance] = {}
        self.watches: dict[Subject, Watch] = {}

    def __contains__(self, subject: Subject) -> bool:
        return subject in self.allowances or subject in self.watches

    def concern(self, subject: Subject, account: Account) -> bool:
        """Whether somebody said something about the account that has the subject's number now."""
        held = (self.allowances.get(subject), self.watches.get(subject))
        return any(own is not None and account.may_be(own.name) for own in held)

    def apply(self, subject: Subject, account: Account, usual: Terms) -> Terms:
        """The rules of an account.

        Args:
            subject: Whose.
            account: Who has that number.
            usual: What the configuration says.
        """
        allowance, watch = self.allowances.get(subject), self.watches.get(subject)
        if allowance is not None and account.may_be(allowance.name):
            return allowed_terms(allowance, usual)
        return halve_terms(usual) if watch is not None and account.may_be(watch.name) else usual
