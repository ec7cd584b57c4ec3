"""Whose accounts are, kept up to date beside the loop: the panel found here, or a command, read again and again.

The last answer holds while a reading fails, and over a restart: it is kept beside the state. So no customer's larger
limit lapses because a database is down.
"""

import contextlib
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from smtpguard.errors import DecodeError, GuardError
from smtpguard.hooks import ClockNs
from smtpguard.kernel.lasting_thread import start_thread
from smtpguard.model import NS, Customer
from smtpguard.panels.customer_table import CustomerTable
from smtpguard.panels.customers_apart import Reading, read_apart
from smtpguard.panels.kept_customers import read_kept, write_kept
from smtpguard.panels.known_panels import Signature, find_panel, read_signature
from smtpguard.settings import Settings

if TYPE_CHECKING:
    import threading

log = logging.getLogger(__name__)

_AGAIN_NS = 60 * NS
"""After a panel's files were read, they are so again: what only changes inside of one shows by nothing else."""
_COMMAND_AGAIN_NS = 300 * NS
_RETRY_NS = 30 * NS
_SHARE = 200
"""Reading takes one 200th of the time at most, whatever it costs ..."""
_CHANGED_SHARE = 10
"""... and a tenth while files change: tenants add and remove domains as fast as they like."""


class ReadApart(Protocol):
    """Reads in a child; customers_apart.read_apart."""

    def __call__(self, command: Sequence[str], /) -> Reading:
        """What is said. Raises GuardError."""
        ...


class CustomerWatch:
    """Whose accounts are, as a part of the loop.

    Args:
        settings: `accounts`, and where the state is.
        now: CLOCK_BOOTTIME in nanoseconds.
        read: Reads in a child.

    Attributes:
        table: What is known.
    """

    def __init__(self, settings: Settings, now: ClockNs, read: ReadApart = read_apart) -> None:
        choice = settings.accounts
        self._is_on = choice != "none"
        self._command: tuple[str, ...] = choice if isinstance(choice, tuple) else ()
        self._settings = settings
        self._now = now
        self._read = read
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if self._is_on else -1
        self._thread: threading.Thread | None = None
        self._found: CustomerTable | GuardError | None = None
        self._told: tuple[str, ...] = ()
        self._signature: Signature | None = None
        self._due_ns = self._soon_ns = 0
        self._failure: str | None = None
        self._problems: tuple[str, ...] = ()
        self.table = self._load() if self._is_on else CustomerTable()

    def find(self, names: Sequence[str], /) -> Customer | None:
        """Whose the account of some login names is, as far as is known."""
        return self.table.find(names)

    def find_reseller(self, customer: Customer, /) -> Customer | None:
        """Who sold an account to a customer; None if nobody did, or the panel's names of resellers are no logins."""
        return self.table.find_reseller(customer)

    def owners(self, text: str, /) -> list[str]:
        """The login names of all that claim a domain, or that of an address."""
        return self.table.owners(text)

    def fileno(self) -> int:
        """Readable when something was read; -1 where nobody is asked."""
        return self._wake

    def look(self) -> None:
        """Read again if something has changed, or it is long ago: some five calls of stat(2), else."""
        if not self._is_on or self._thread is not None:
            return
        now_ns = self._now()
        if self._command:
            if now_ns >= self._due_ns:
                self._begin()
            return
        panel = find_panel()
        if panel is None:
            if len(self.table) or self._failure is not None:  # it is gone: nobody is anybody's
                self._begin()
                self._signature = None
            return
        signature = read_signature(panel)
        if (signature != self._signature and now_ns >= self._soon_ns) or now_ns >= self._due_ns:
            self._begin()
            self._signature = signature

    def take(self) -> bool:
        """Take over what was read; whether anything is another now."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if self._thread is None or self._found is None:
            return False
        self._thread.join()
        found, self._thread, self._found = self._found, None, None
        if isinstance(found, GuardError):
            if str(found) != self._failure:
                log.warning("accounts: %s; what was known before holds", found)
            self._failure = str(found)
            return False
        if self._failure is not None:
            log.info("accounts: %s says again whose they are", found.panel)
        self._failure = None
        if self._told != self._problems:
            self._problems = self._told
            for problem in self._problems:
                log.warning("accounts: %s", problem)
        is_another, self.table = found.text != self.table.text, found
        return is_another

    def trouble(self) -> str | None:
        """Why nobody says now whose accounts are; None if all is well, or nobody is asked."""
        return None if self._failure is None else f"accounts: {self._failure}; what was known before holds"

    def render(self) -> str:
        """A line for `status`; "" where no panel is."""
        if not len(self.table):
            return ""
        more = f"; {'; '.join(self._problems[:3])}" if self._problems else ""
        return f"{self.table.panel}: {len(self.table)} accounts{more}"

    def close(self) -> None:
        """Forget a reading that is under way; its child ends by itself."""
        self._is_on = False
        wake, self._wake = self._wake, -1
        if wake >= 0 and self._thread is None:
            os.close(wake)

    def _begin(self) -> None:
        self._thread = start_thread("customers", self._run)

    def _run(self) -> None:
        begun_ns, again_ns = self._now(), _COMMAND_AGAIN_NS if self._command else _AGAIN_NS
        found: CustomerTable | GuardError = DecodeError("nothing was read")
        try:
            reading = self._read(self._command)
            found, self._told = CustomerTable(reading.text), reading.problems
            if found.text != self.table.text:
                self._keep(found.text)
        except GuardError as error:
            found, again_ns = error, _RETRY_NS
        finally:
            now_ns = self._now()
            self._soon_ns = now_ns + _CHANGED_SHARE * (now_ns - begun_ns)
            self._due_ns = now_ns + max(again_ns, _SHARE * (now_ns - begun_ns))
            self._found = found
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _load(self) -> CustomerTable:
        """What was known the last time, of who can be asked still."""
        if not self._command and find_panel() is None:
            return CustomerTable()
        try:
            return read_kept(self._settings)
        except GuardError as error:
            log.warning("accounts: what was known before can't be used: %s", error)
            return CustomerTable()

    def _keep(self, text: bytes) -> None:
        """For the next start. Where it can't be written, that begins with nothing, and asks."""
        try:
            write_kept(self._settings, text)
        except OSError as error:
            log.warning("accounts: can't be kept for the next start: %s", error)
