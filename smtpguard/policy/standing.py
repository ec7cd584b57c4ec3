"""Whom a verdict may hit: an account's standing, from what root alone can write (THREATS 1, 2). Pure.

Never from /proc, a process name, a path or a listening port: a tenant chooses those.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from smtpguard.model import Standing
from smtpguard.settings import Settings

MTA_NAMES = frozenset(
    {
        *("postfix", "exim", "Debian-exim", "mail", "mailnull", "smmsp", "smmta", "sendmail"),
        *("opensmtpd", "smtpd", "smtpq", "_smtpd", "_smtpq", "courier", "nullmail", "nullmailer"),
        *("qmaild", "qmailq", "qmailr", "qmails", "alias", "mailman", "list", "dovecot", "dovenull"),
        *("msmtpd", "maddy", "haraka", "stalwart", "stalwart-mail", "cpaneleximfilter", "cpaneleximscanner"),
    }
)
"""Names under which distributions and panels install mail servers. They count below UID_MIN only: at sign-up a tenant
may get to choose a name, but not such a uid."""

MTA_UNITS = frozenset(
    {
        *("postfix", "postfix@", "exim", "exim4", "exim4-base", "sendmail", "opensmtpd", "smtpd", "courier-mta"),
        *("nullmailer", "qmail", "mailman", "mailman3", "dovecot", "msmtpd", "maddy", "haraka", "stalwart"),
        *("stalwart-mail", "dma", "esmtpd"),
    }
)
"""systemd units of mail servers; the User= of an installed one is a mail server's account."""

OVERFLOW_UID = 65534
"""Stands in for uids that can't be shown (/proc/sys/kernel/overflowuid): nobody's own, whoever is called so."""

DOCUMENT_ROOTS_OF_SHARED = 3
"""A uid under which so many sites run is shared between customers (THREATS 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the host's own files say about accounts.

    Attributes:
        uid_min: First uid of people, UID_MIN of login.defs(5).
        mta_uids: Uids of installed mail servers, and what says so.
        service_uids: Uids under which web and mail daemons serve many customers, and which file of root's says so.
    """

    uid_min: int = 1000
    mta_uids: Mapping[int, str] = field(default_factory=dict)
    service_uids: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFacts:
    """An account as passwd and group have it.

    Attributes:
        uid: Its uid.
        names: Login names of that uid, the one that look-ups give first; empty if it has none.
        groups: Names of the groups it is in.
        document_roots: How many sites are known to run under it, from files of root's; 0 if nobody knows.
    """

    uid: int
    names: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    document_roots: int = 0


def decide_standing(identity: AccountFacts, settings: Settings, facts: HostFacts) -> tuple[Standing, str]:
    """Whom a verdict may hit, and why: root, then mail servers, exempt, shared, and else a tenant.

    Args:
        identity: The account.
        settings: The configuration.
        facts: What is known of the host.
    """
    if identity.uid == 0:
        return "root", "uid 0"
    mta = _find_mta(identity, facts)
    if mta is not None:
        return "mta", mta
    exempt = find_exemption(identity, settings)
    if exempt is not None:
        return "exempt", exempt
    shared = _find_sharing(identity, settings, facts)
    if shared is not None:
        return "shared", shared
    return "tenant", "" if identity.names else "no login name"


def _find_mta(identity: AccountFacts, facts: HostFacts) -> str | None:
    if identity.uid in facts.mta_uids:
        return facts.mta_uids[identity.uid]
    if identity.uid < facts.uid_min and not MTA_NAMES.isdisjoint(identity.names):
        return "a mail server's name below UID_MIN"
    return None


def find_exemption(identity: AccountFacts, settings: Settings) -> str | None:
    """What in the configuration exempts an account; None if nothing does.

    Args:
        identity: The account.
        settings: The configuration.
    """
    exempt = settings.exempt
    for pattern in exempt.users:
        if any(fnmatchcase(name, pattern) for name in identity.names):
            return f"exempt.users: {pattern}"
    for group in exempt.groups:
        if group in identity.groups:
            return f"exempt.groups: {group}"
    for first, last in exempt.uids:
        if first <= identity.uid <= last:
            return f"exempt.uids: {first}-{last}"
    return None


def _find_sharing(identity: AccountFacts, settings: Settings, facts: HostFacts) -> str | None:
    if identity.uid == OVERFLOW_UID:
        return "the kernel's overflow uid"
    # At sign-up a tenant may get to choose a name of the shipped list, but not a uid below UID_MIN.
    below = identity.uid < facts.uid_min
    believed = settings.shared_users if below else settings.shared_users - settings.shared_shipped
    if not believed.isdisjoint(identity.names):
        return "shared_users"
    if identity.uid in facts.service_uids:
        return facts.service_uids[identity.uid]
    if below:
        return f"a system account (below UID_MIN {facts.uid_min})"
    if identity.document_roots >= DOCUMENT_ROOTS_OF_SHARED:
        return f"{identity.document_roots} sites run under it"
    return None
