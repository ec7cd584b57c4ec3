"""What the engine asks about accounts: answered from a snapshot, never by a look-up that could wait."""

from typing import Protocol

from smtpguard.model import Account


class Directory(Protocol):
    """Accounts as policy sees them. Answers come from memory; an unknown uid gets an Account without a name."""

    def owner(self, uid: int) -> int:
        """The uid that a uid counts for: the owner of the subordinate range it lies in, else itself."""
        ...

    def account(self, uid: int) -> Account:
        """The account of an owner uid."""
        ...
