"""cPanel: /var/cpanel/users/USER says plan, owner and contact of an account, /etc/userdomains whose each domain is.

From the WHM API's description of updateuserdomains and cPanel's published templates, read 2026-11-29. Not tried on a
real cPanel.
"""

import re
from collections.abc import Iterator

from smtpguard.model import Customer
from smtpguard.panels.panel_files import PanelFiles, iterate_pairs

_USERS = "var/cpanel/users"
_NOT_PEOPLE = frozenset({"system", "nobody", "root"})
_DOMAIN_KEY = re.compile(r"DNS\d*")
_MAX_USER_BYTES = 1 << 20
_MAX_LIST_BYTES = 64 << 20


def read_customers(files: PanelFiles) -> Iterator[tuple[str, Customer]]:
    """All accounts.

    Args:
        files: What reads.
    """
    domains: dict[str, list[str]] = {}
    for line in files.read("etc/userdomains", _MAX_LIST_BYTES).split("\n"):
        domain, colon, user = line.partition(":")
        if colon and domain != "*":
            domains.setdefault(user.strip(), []).append(domain)
    with files.open(_USERS) as users:
        for user in users.names():
            if user in _NOT_PEOPLE or user.startswith("."):
                continue
            pairs = list(iterate_pairs(users.read(user, _MAX_USER_BYTES)))
            said = {key: value for key, value in reversed(pairs) if value}
            owner = said.get("OWNER")
            plan = said.get("PLAN")
            yield (
                user,
                Customer(
                    domain=said.get("DNS"),
                    domains=(*(v for k, v in pairs if _DOMAIN_KEY.fullmatch(k)), *domains.get(user, ())),
                    reseller=None if owner in (user, "root") else owner,
                    package=None if plan == "undefined" else plan,
                    contact=said.get("CONTACTEMAIL") or said.get("CONTACTEMAIL2"),
                    language=said.get("LOCALE"),
                ),
            )
