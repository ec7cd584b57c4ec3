"""Plesk: its own command asks its own database, `plesk db`, which knows where that is and how to get in.

From Plesk's documentation of `plesk db` and the tables that its support articles query, read 2026-11-29: domains, their
webspace, its system user, its owner (clients), its vendor (a reseller), and the plan that it is subscribed to. Domain
aliases are not asked for. Not tried on a real Plesk.
"""

from collections.abc import Iterator

from smtpguard.model import Customer
from smtpguard.panels.customer_table import name_package

PROGRAM = "usr/sbin/plesk"
_QUERY = (
    "SELECT u.login, w.name, d.name, IFNULL(r.login, ''), IFNULL(t.name, ''), IFNULL(c.email, ''), IFNULL(c.locale, '')"
    " FROM domains d"
    " JOIN domains w ON w.id = IF(d.webspace_id > 0, d.webspace_id, d.id)"
    " JOIN hosting h ON h.dom_id = w.id"
    " JOIN sys_users u ON u.id = h.sys_user_id"
    " LEFT JOIN clients c ON c.id = w.cl_id"
    " LEFT JOIN clients r ON r.id = w.vendor_id AND r.type = 'reseller'"
    " LEFT JOIN Subscriptions s ON s.object_type = 'domain' AND s.object_id = w.id"
    " LEFT JOIN PlansSubscriptions p ON p.subscription_id = s.id"
    " LEFT JOIN Templates t ON t.id = p.plan_id AND t.type = 'domain'"
)
ARGUMENTS = ("db", "-Ne", _QUERY)
"""mysql(1)'s options: no names of columns; a row a line, tabs between its fields where nobody is at a terminal."""


def parse_customers(text: str) -> Iterator[tuple[str, Customer]]:
    """All accounts of what the command has printed; lines that are no row are passed over.

    Args:
        text: It.
    """
    for line in text.split("\n"):
        fields = line.split("\t")
        if len(fields) == 7:
            user, domain, other, reseller, package, contact, language = fields
            yield (
                user,
                Customer(
                    domain=domain,
                    domains=(domain, other),
                    reseller=reseller or None,
                    package=name_package(package or None, reseller or None),
                    contact=contact or None,
                    language=language or None,
                ),
            )
