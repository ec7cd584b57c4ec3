"""What changes around a running guard: accounts, own addresses, addresses of exempt names. Watched, and told on.

Accounts are looked at every two seconds (a handful of stat(2) calls), addresses when the kernel says so.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from smtpguard.actions.base import Exemptions
from smtpguard.clock import next_beat
from smtpguard.enrich.accounts.directory import AccountDirectory, Renewal
from smtpguard.enrich.accounts.never_refused import subtract_uids
from smtpguard.enrich.accounts.reader import AccountReader
from smtpguard.enrich.exempt_hosts import ExemptHosts
from smtpguard.enrich.host_addresses import Cleared
from smtpguard.enrich.own_addresses import OwnAddresses
from smtpguard.enrich.translators import Translators
from smtpguard.errors import SourceError
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.panels.customer_watch import CustomerWatch
from smtpguard.policy.destinations import Destinations
from smtpguard.policy.networks import list_translated, use_translators
from smtpguard.settings import Settings

log = logging.getLogger(__name__)

MAX_TOLD = 3
"""Problems with account files that `status` shows."""
_LOOK_NS = 2 * NS
_NEWS_NS = NS // 10
"""Names that a directory gives are taken so late at most, many at once: until then a user is nobody in particular."""


class Changed(Protocol):
    """Told when something around the guard has changed."""

    def __call__(self, *, accounts: bool) -> None:
        """Take the change.

        Args:
            accounts: Whether it is accounts that have changed, and not only destinations.
        """


class OnCleared(Protocol):
    """Told whose doubted addresses turned out to be an exempt name's."""

    def __call__(self, found: Iterable[Cleared], /) -> None:
        """Take them; what passes is told already."""


class HostWatch:
    """Accounts and destinations as they are now, as a part of the loop.

    Args:
        settings: The configuration.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        accounts: Who is who.
        destinations: What never counts.
        on_change: Called when either has changed; says whether accounts have.
        on_cleared: Called with whose doubted addresses turned out to be exempt.
        doubt: Asks whether an address is an exempt name's, of whoever is refused there.
    """

    def __init__(self, settings: Settings, now: ClockNs) -> None:
        self._settings = settings
        self._now = now
        self._own = OwnAddresses()
        self._named = ExemptHosts(settings.exempt.names)
        self._translators = Translators(settings.nat64)
        self._due_ns = next_beat(now(), _LOOK_NS)
        self._hurries = False
        self._problems: tuple[str, ...] = ()
        self._untold: bool | None = None
        self._is_outdated = False
        self._own_trouble: str | None = None
        self._customers = CustomerWatch(settings, now)
        self.accounts = AccountDirectory(settings, patience_s=0, customers=self._customers)
        self._reader = AccountReader(self.accounts)
        self.destinations = Destinations()
        self.on_change: Changed | None = None
        self.on_cleared: OnCleared | None = None
        self.doubt = self._named.doubt

    def open(self) -> None:
        """Read what there is, and watch it from then on."""
        self.accounts.wait_for_spellings(0.3)  # at first: an exempt user of a directory is refused nothing
        self._open_own()
        self._named.start()
        self._translators.start()
        use_translators(self._translators.prefixes)
        self._replace_destinations()
        self._tell_problems()
        self._customers.look()

    def exemptions(self, forced: Iterable[int] = (), allowed: Iterable[int] = ()) -> Exemptions:
        """What passes in spite of any refusal, for the kernel.

        Args:
            forced: Exempt uids that a person blocked all the same.
            allowed: Accounts that have an allowance.
        """
        return Exemptions(
            uids=subtract_uids(self.accounts.passing_uids(), forced),
            uncapped=self.uncapped(allowed),
            networks=self.destinations.networks(),
            loopback=self._settings.loopback == "ignore",
            translators=self._translators.prefixes,
        )

    def uncapped(self, allowed: Iterable[int] = ()) -> tuple[tuple[int, int], ...]:
        """Uid ranges that neither credits nor the cap refuse: who is report-only, and who has an allowance.

        Args:
            allowed: Accounts that have an allowance.
        """
        accounts = self.accounts
        given = [part for uid in allowed for part in ((uid, 1), *accounts.account(uid).ranges)]
        return (*accounts.told_uids(), *((first, first + count - 1) for first, count in given))

    def reconfigure(self, settings: Settings, renewal: Renewal | None = None) -> None:
        """Take a new configuration.

        Args:
            settings: The configuration.
            renewal: The accounts by it, read beside the loop; None judges those that are known anew, here and now.
        """
        self._settings = settings
        if renewal is None or not self.accounts.fits(renewal, settings):
            self.accounts.reconfigure(settings)
        else:
            self.accounts.adopt(renewal, settings)
        self._named.replace(settings.exempt.names)
        if self._translators.replace(settings.nat64):
            use_translators(self._translators.prefixes)
        self._replace_destinations()

    def filenos(self) -> Sequence[int]:
        """Descriptors that tell of accounts that were read again, of changed addresses, and of names that came."""
        known = (
            self._reader.fileno(),
            self._named.fileno(),
            self._own.fileno(),
            self._translators.fileno(),
            self._customers.fileno(),
            *self._news_filenos(),
        )
        return [fileno for fileno in known if fileno >= 0]

    def _news_filenos(self) -> list[int]:
        """What tells of a directory's answers; nothing while they are about to be taken anyway."""
        accounts = self.accounts
        if self._hurries or accounts.names is None or accounts.inside is None:
            return []
        return [accounts.names.news_fileno(), accounts.inside.fileno()]

    def on_ready(self, fileno: int) -> None:
        """Accounts were read again, addresses have changed, or a directory has given names."""
        if fileno == self._reader.fileno():
            self._accounts_changed(self._reader.take())
            self._read_again()
            return
        if fileno == self._customers.fileno():
            self._is_outdated |= self._customers.take()
            self._read_again()
            return
        if fileno in self._news_filenos():
            self._hurries = True
            self._due_ns = min(self._due_ns, self._now() + _NEWS_NS)
            return
        if fileno == self._translators.fileno():
            if self._translators.take_news():
                use_translators(self._translators.prefixes)
                self._replace_destinations()
                self._tell(accounts=False)
            return
        cleared: list[Cleared] = []
        if fileno == self._named.fileno():
            cleared = self._named.take_news()
        else:
            try:
                self._own.read()
            except SourceError as error:
                log.warning("%s: the last known ones hold", error)
                self._own_trouble = f"{error}: the last known ones hold"
            else:
                self._own_trouble = None
                self._translators.ask_again()
        if self._replace_destinations():
            self._tell(accounts=False)
        if cleared and self.on_cleared is not None:
            self.on_cleared(cleared)

    def next_deadline(self) -> int:
        """When accounts are looked at again; at once after a command that was the first to name a directory's."""
        return 0 if self.accounts.has_untold else self._due_ns

    def on_time(self, now_ns: int) -> None:
        """Look whether accounts have changed; they are read beside the loop."""
        if self._untold is not None:  # who was told last has raised
            self._tell(accounts=self._untold)
        if self.accounts.has_untold:
            self._accounts_changed(self.accounts.take_news())
        if now_ns < self._due_ns:
            return
        self._due_ns = next_beat(now_ns, _LOOK_NS)
        self._hurries = False
        if self._own_trouble is not None:
            self._open_own()
            if self._replace_destinations():
                self._tell(accounts=False)
        self._named.start()  # no thread was to be had, perhaps
        self._translators.start()
        self._customers.look()
        if self.accounts.is_stale():
            self._reader.begin()
        elif not self._read_again():
            self._accounts_changed(self.accounts.take_news())

    def _read_again(self) -> bool:
        """Have accounts judged anew beside the loop if they are other customers' now; whether they are."""
        if not self._is_outdated:
            return False
        if not self._reader.is_reading:  # what is under way has begun with the customers of before
            self._reader.begin()
            self._is_outdated = False
        return True

    def troubles(self) -> list[str]:
        """What is not as it should be, for `status`."""
        names = self.accounts.names.trouble() if self.accounts.names is not None else None
        found = [] if names is None else [f"accounts outside /etc/passwd: {names}; what was known of them holds"]
        found += filter(None, (self._own_trouble, self._customers.trouble()))
        return [*found, *(f"exempt destination {name} can't be looked up" for name in self._named.failed())]

    def parts(self) -> dict[str, str]:
        """Lines for `status`."""
        named = self._named.render()
        parts = {"exempt names": f"{named}; addresses hold for 24 h"} if named else {}
        if self._translators.prefixes:
            parts["nat64"] = ", ".join(map(str, self._translators.prefixes))
        if customers := self._customers.render():
            parts["customers"] = customers
        if problems := self._problems:
            more = f"; and {len(problems) - MAX_TOLD} more, see the log" if len(problems) > MAX_TOLD else ""
            parts["accounts"] = "; ".join(problems[:MAX_TOLD]) + more
        return parts

    def close(self) -> None:
        """Stop watching."""
        self._reader.close()
        self._customers.close()
        self._own.close()
        self._named.close()
        self._translators.close()

    def _open_own(self) -> None:
        """Read own addresses and listen for changes; tried again at each look while it fails."""
        try:
            self._own.open()
        except SourceError as error:
            if self._own_trouble is None:
                log.warning("%s: connections to own addresses count", error)
            self._own_trouble = f"{error}: connections to own addresses may count"
        else:
            self._own_trouble = None

    def _replace_destinations(self) -> bool:
        exempt = (*self._settings.exempt.networks, *self._named.networks())
        translated = list_translated(exempt, self._translators.prefixes)
        return self.destinations.replace(own=self._own.networks, exempt=(*exempt, *translated))

    def _tell(self, *, accounts: bool) -> None:
        self._untold = accounts or self._untold is True
        if self.on_change is not None:
            self.on_change(accounts=self._untold)
        self._untold = None

    def _accounts_changed(self, uids: frozenset[int]) -> None:
        self._tell_problems()
        if uids:
            self._tell(accounts=True)

    def _tell_problems(self) -> None:
        if self.accounts.problems != self._problems:
            self._problems = self.accounts.problems
            for problem in self._problems:
                log.warning("accounts: %s", problem)
