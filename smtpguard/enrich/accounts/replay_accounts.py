"""Who was who when an audit log was written: a `policy.directory.Directory` for replay.

An ENRICHED log names its users itself; for the rest this host's accounts are taken as they are now, read once and
never again, unless the log says that it is another host's. Nobody else is asked, so that the same log and the same
files give the same answer.
"""

from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.enrich.accounts.name_service import NameService
from smtpguard.model import Account, Connect
from smtpguard.policy.standing import AccountFacts, decide_standing
from smtpguard.settings import Settings

_NOWHERE = "/proc/self/fdinfo/none"
"""The root of a host of which nothing is known: no such folder can be."""
MAX_NAMES = 100_000
"""Names kept from records; beyond it accounts have the host's."""


class _Nobody(NameService):
    """Knows nothing beyond the host's files, and asks nobody in the background either."""

    def _request(self, key: int | str) -> None:
        del key


class ReplayAccounts:
    """The accounts of a log.

    Args:
        settings: For who is exempt and shared.
        accounts: This host's accounts; None reads them now.
        foreign: The log is another host's, whose accounts nobody here knows.

    Attributes:
        named: Names that records gave, by uid.
    """

    def __init__(self, settings: Settings, accounts: AccountDirectory | None = None, *, foreign: bool = False) -> None:
        self._settings = settings
        self._accounts = accounts or AccountDirectory(settings, root=_NOWHERE if foreign else "/", names=_Nobody())
        self.named: dict[int | None, str] = {}
        self._known: dict[int, Account] = {}  # of those whom records named

    def note(self, connect: Connect) -> None:
        """Take the name that a record gives its uid; the first one stays. Before the engine sees the Connect."""
        if connect.user is None or connect.uid is None or connect.uid in self.named:
            return
        if len(self.named) < MAX_NAMES:
            self.named[connect.uid] = connect.user.decode("utf-8", "surrogateescape")

    def owner(self, uid: int) -> int:
        """The uid that a uid counts for: the owner of the subordinate range it lies in, else itself."""
        return self._accounts.owner(uid)

    def account(self, uid: int) -> Account:
        """The account of an owner uid."""
        known = self._known.get(uid)
        if known is not None:
            return known
        account = self._accounts.account(uid)
        name = self.named.get(uid)
        if name is None:
            return account
        if name != account.name:
            standing, reason = decide_standing(
                AccountFacts(uid=uid, names=(name,)), self._settings, self._accounts.facts
            )
            account = Account(uid=uid, name=name, standing=standing, reason=reason)
        self._known[uid] = account
        return account
