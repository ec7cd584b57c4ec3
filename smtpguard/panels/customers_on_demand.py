"""Whose accounts are, for commands that work without a daemon: the panel's files, else what it kept.

Only a person who writes a domain asks: nothing is read for names and numbers, and nothing at all of an account.
"""

from collections.abc import Sequence

from smtpguard.model import Customer
from smtpguard.panels.customer_table import CustomerTable
from smtpguard.settings import Settings


class CustomersOnDemand:
    """Reads when a domain is asked for.

    Args:
        settings: `accounts`, and where the state is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def find(self, names: Sequence[str], /) -> Customer | None:
        """None: no command says whose an account is, where no daemon runs."""
        del names
        return None

    def find_reseller(self, customer: Customer, /) -> Customer | None:
        """None, likewise."""
        del customer
        return None

    def owners(self, text: str, /) -> Sequence[str]:
        """The login names of all that claim a domain, or that of an address."""
        return self.read().owners(text) if "." in text else ()

    def read(self) -> CustomerTable:
        """All that is known: nobody where nobody is asked.

        Raises:
            GuardError: It can't be read.
        """
        if self._settings.accounts == "none":
            return CustomerTable()
        from smtpguard.panels.customer_reader import read_here
        from smtpguard.panels.kept_customers import read_kept
        from smtpguard.panels.known_panels import find_panel

        panel = find_panel() if self._settings.accounts == "auto" else None
        if panel is not None and not panel.has_command:
            return CustomerTable(read_here().text)
        return read_kept(self._settings)  # no program is started for a command that asks
