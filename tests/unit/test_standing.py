"""Whom a verdict may hit (THREATS 1, 2): precedence, and what never counts as proof."""

import pytest

from smtpguard.model import Standing
from smtpguard.policy.standing import AccountFacts, HostFacts, decide_standing
from smtpguard.settings import Exempt, Settings

FACTS = HostFacts(
    uid_min=1000,
    mta_uids={107: "mail_owner in /etc/postfix/main.cf", 2500: "owner of /var/spool/exim"},
    service_uids={5000: "a service's user in /etc/dovecot/dovecot.conf"},
)
SETTINGS = Settings(
    shared_users=frozenset({"www-data", "webapps", "both", "vmail", "nobody"}),
    shared_shipped=frozenset({"vmail", "nobody"}),
    shared_block=frozenset({"webapps"}),
    exempt=Exempt(users=("news", "shop*", "both"), groups=("mailers",), uids=((3000, 3099),)),
)


def decide(uid: int, *names: str, groups: tuple[str, ...] = (), roots: int = 0) -> tuple[Standing, str]:
    identity = AccountFacts(uid=uid, names=names, groups=frozenset(groups), document_roots=roots)
    return decide_standing(identity, SETTINGS, FACTS)


@pytest.mark.parametrize(
    ("got", "standing", "reason"),
    [
        (decide(0, "root"), "root", "uid 0"),
        (decide(0, "toor"), "root", "uid 0"),
        (decide(107, "whatever"), "mta", "mail_owner in /etc/postfix/main.cf"),
        (decide(2500, "eximrun"), "mta", "owner of /var/spool/exim"),
        (decide(105, "postfix"), "mta", "a mail server's name below UID_MIN"),
        (decide(999, "Debian-exim"), "mta", "a mail server's name below UID_MIN"),
        (decide(1000, "postfix"), "tenant", ""),
        (decide(1001, "mailnull"), "tenant", ""),
        (decide(1001, "news"), "exempt", "exempt.users: news"),
        (decide(1001, "shopping"), "exempt", "exempt.users: shop*"),
        (decide(1001, "web", "news"), "exempt", "exempt.users: news"),
        (decide(1001, "newsletter"), "tenant", ""),
        (decide(1001, "web", groups=("mailers",)), "exempt", "exempt.groups: mailers"),
        (decide(3099), "exempt", "exempt.uids: 3000-3099"),
        (decide(3100), "tenant", "no login name"),
        (decide(1002, "both"), "exempt", "exempt.users: both"),
        (decide(33, "www-data"), "shared", "shared_users"),
        (decide(1500, "www-data"), "shared", "shared_users"),
        (decide(1500, "webapps"), "shared", "shared_users"),
        (decide(1500, "vmail"), "tenant", ""),
        (decide(500, "vmail"), "shared", "shared_users"),
        (decide(65534, "nobody"), "shared", "the kernel's overflow uid"),
        (decide(65534), "shared", "the kernel's overflow uid"),
        (decide(65533, "nobody"), "tenant", ""),
        (decide(5000, "vmail2"), "shared", "a service's user in /etc/dovecot/dovecot.conf"),
        (decide(33, "ftp"), "shared", "a system account (below UID_MIN 1000)"),
        (decide(999), "shared", "a system account (below UID_MIN 1000)"),
        (decide(1001, "web", roots=3), "shared", "3 sites run under it"),
        (decide(1001, "web", roots=2), "tenant", ""),
        (decide(1001, "web"), "tenant", ""),
    ],
)
def test_standing(got: tuple[Standing, str], standing: Standing, reason: str) -> None:
    assert got == (standing, reason)


def test_without_exemptions_nobody_is_exempt() -> None:
    identity = AccountFacts(uid=1001, names=("*", "", "?"), groups=frozenset({""}))
    assert decide_standing(identity, Settings(), HostFacts())[0] == "tenant"
