"""DirectAdmin: data/users/USER/user.conf says package, creator and address, domains.list which domains there are.

From DirectAdmin's documentation of its data directory and scripts of hosters that read it, 2026-11-29. The files belong
to the panel's own system account, diradmin, who is trusted as root is while its uid is a system's (identify). Domain
pointers count, subdomains do not. Not tried on a real DirectAdmin.
"""

from collections.abc import Iterator

from smtpguard.model import Customer
from smtpguard.panels.customer_table import name_package
from smtpguard.panels.panel_files import PanelDirectory, PanelFiles, read_pairs

_USERS = "usr/local/directadmin/data/users"
_MAX_BYTES = 1 << 20


def read_customers(files: PanelFiles) -> Iterator[tuple[str, Customer]]:
    """All accounts.

    Args:
        files: What reads.
    """
    resellers = set(files.read("usr/local/directadmin/data/admin/reseller.list", _MAX_BYTES).split())
    with files.open(_USERS) as users:
        for user in users.names():
            with users.open(user) as directory:
                said = read_pairs(directory.read("user.conf", _MAX_BYTES))
                if not said:
                    continue
                creator = said.get("creator")
                reseller = creator if creator in resellers and creator != user else None
                yield (
                    user,
                    Customer(
                        domain=said.get("domain"),
                        domains=_list_domains(directory),
                        reseller=reseller,
                        package=name_package(said.get("package"), reseller),
                        contact=said.get("email"),
                        language=said.get("language"),
                    ),
                )


def _list_domains(directory: PanelDirectory) -> tuple[str, ...]:
    domains = directory.read("domains.list", _MAX_BYTES).split()
    with directory.open("domains") as folder:
        pointers = [
            pointer for name in folder.names() if name.endswith(".pointers")
            for pointer in read_pairs(folder.read(name, _MAX_BYTES))
        ]  # fmt: skip
    return (*domains, *pointers)
