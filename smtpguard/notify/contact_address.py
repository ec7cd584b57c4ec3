"""Whether an address that a panel names may be written to. Customers and resellers choose theirs: it is hostile. Pure.

Stricter than RFC 5321: no quoted words, no routes (%, !), no pipes or files, no address of this host itself or of what
runs it, so that nobody has the guard write to root, to a program, or into a header.
"""

import re

MAX_ADDRESS = 254
_LOCAL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_+-]|\.(?=[A-Za-z0-9_+-])){0,63}")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_OF_HOSTS = frozenset(
    ("root", "postmaster", "mailer-daemon", "hostmaster", "abuse", "noc", "security", "nobody", "daemon", "bin", "mail")
)
"""Who runs hosts (RFC 2142), and accounts of every host: on many they are local whatever the domain."""
_NOWHERE = ("localhost", "localdomain", "local", "internal", "invalid", "onion", "arpa", "home", "lan")
"""Top-level domains that lead to this host, to this network, or nowhere (RFC 6761, 6762)."""


def find_unfit(address: str | None, host: str) -> str | None:
    """Why an address is not written to; None if it may be.

    Args:
        address: What the panel has; None for nothing.
        host: This host's name.
    """
    if not address:
        return "no address is known"
    local, at, domain = address.rpartition("@")
    labels = domain.split(".")
    if (
        not at
        or len(address) > MAX_ADDRESS
        or not _LOCAL.fullmatch(local)
        or len(labels) < 2
        or not all(map(_LABEL.fullmatch, labels))
        or labels[-1].isdigit()
    ):
        return "the address is not of the plain kind"
    if labels[-1].lower() in _NOWHERE or domain.lower() == host.lower():
        return "the address is this host's own"
    if local.lower().partition("+")[0] in _OF_HOSTS:
        return "the address is of who runs a host"
    return None


def fold_address(address: str) -> str:
    """Whose mailbox it is, as far as that can be told: without case, dots before the @, and what follows a plus."""
    local, _, domain = address.lower().rpartition("@")
    return f"{local.partition('+')[0].replace('.', '')}@{domain}"
