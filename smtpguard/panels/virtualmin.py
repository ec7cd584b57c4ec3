"""Virtualmin: one file a virtual server, /etc/webmin/virtual-server/domains/ID, with `key=value` lines.

From Virtualmin's reference of its files and create-domain.pl, read 2026-11-29: dom, user, parent (of a sub-server),
alias (of another server), reseller, plan (an id, whose name is in plans/ID), emailto. Not tried on a real Virtualmin.
"""

from collections.abc import Iterator

from smtpguard.model import Customer
from smtpguard.panels.customer_table import name_package
from smtpguard.panels.panel_files import PanelFiles, read_pairs

_MAX_BYTES = 1 << 20


def read_customers(files: PanelFiles) -> Iterator[tuple[str, Customer]]:
    """All accounts; those of sub-servers and aliases are put together with what they are of by `merge`.

    Args:
        files: What reads.
    """
    with files.open("etc/webmin/virtual-server/plans") as directory:
        plans = {name: read_pairs(directory.read(name, _MAX_BYTES)).get("name") for name in directory.names()}
    below: list[tuple[str, Customer]] = []
    with files.open("etc/webmin/virtual-server/domains") as servers:
        for name in servers.names():
            said = read_pairs(servers.read(name, _MAX_BYTES)) if name.isascii() and name.isdigit() else {}
            user, domain = said.get("user"), said.get("dom")
            if not user or not domain:
                continue
            if said.get("parent") or said.get("alias"):
                below.append((user, Customer(domains=(domain,))))
                continue
            reseller = next(iter(said.get("reseller", "").split()), None)
            yield (
                user,
                Customer(
                    domain=domain,
                    domains=(domain,),
                    reseller=reseller,
                    package=name_package(plans.get(said.get("plan", "")), reseller),
                    contact=said.get("emailto") or said.get("email"),
                ),
            )
    yield from below
