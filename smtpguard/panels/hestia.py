"""HestiaCP: data/users/USER/user.conf says package and contact, web.conf and mail.conf which domains there are.

From its own bin/v-add-user at 001f322, read 2026-11-29: KEY='value' pairs, mode 0660 of root and root's group. It
knows no resellers. Not tried on a real HestiaCP.
"""

import re
from collections.abc import Iterator

from smtpguard.model import Customer
from smtpguard.panels.panel_files import PanelFiles

_PAIR = re.compile(r"(?:^|(?<=\s))([A-Z0-9_]+)='([^']*)'")
_MAX_BYTES = 4 << 20


def read_customers(files: PanelFiles) -> Iterator[tuple[str, Customer]]:
    """All accounts.

    Args:
        files: What reads.
    """
    with files.open("usr/local/hestia/data/users") as users:
        for user in users.names():
            with users.open(user) as directory:
                said = dict(_PAIR.findall(directory.read("user.conf", _MAX_BYTES)))
                if not said:
                    continue
                domains: list[str] = []
                for name in ("web.conf", "mail.conf"):
                    for line in directory.read(name, _MAX_BYTES).split("\n"):
                        site = dict(_PAIR.findall(line))
                        domains += [site["DOMAIN"]] if "DOMAIN" in site else []
                        domains += site.get("ALIAS", "").split(",") if name == "web.conf" else []
            yield (
                user,
                Customer(
                    domain=domains[0] if domains else None,
                    domains=tuple(domains),
                    package=said.get("PACKAGE"),
                    contact=said.get("CONTACT"),
                    language=said.get("LANGUAGE"),
                ),
            )
