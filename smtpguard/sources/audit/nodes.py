"""Which records of an audit log are this host's: those without node=, and those whose node= is a name of ours.

A log that collects several hosts holds the same uid as somebody else's too; blocking here for what was done there would
hit an innocent. What auditd calls this host is told by its auditd.conf(5) (`name_format`, `name`): the host name, in
short or in full, an address, or a name of the administrator's.
"""

import contextlib
import os
import re
import socket
from pathlib import Path

AUDITD_CONF = "/etc/audit/auditd.conf"
_MAX_KNOWN = 1000
"""Nodes whose answer is remembered."""
_NAME = re.compile(rb"^\s*name\s*=\s*([^\s#]+)", re.MULTILINE | re.IGNORECASE)
_DOMAIN = re.compile(r"^\s*(?:domain|search)\s+([A-Za-z0-9._-]+)", re.MULTILINE)
_LINE = re.compile(rb"(?:\A|\n)(?:type=|node=([^ \n]{1,255}) )").finditer


class OwnNodes:
    """Knows our names.

    Args:
        node: The only one, if the configuration says so.
        conf: auditd's configuration.
        root: Where this host's files are; "/" but in tests.
    """

    def __init__(self, node: str | None = None, *, conf: str = AUDITD_CONF, root: str = "/") -> None:
        self.names = frozenset({node.encode()}) if node is not None else _read_names(conf, Path(root))
        self._addresses = node is None
        self._known: dict[bytes, bool] = {}
        self._in_line = False

    def is_own(self, node: bytes) -> bool:
        """Whether a node is this host."""
        known = self._known.get(node)
        if known is None:
            known = node.lower() in self.names or node in self.names or (self._addresses and _is_own_address(node))
            if len(self._known) < _MAX_KNOWN:
                self._known[node] = known
        return known

    def find_own(self, text: bytes | memoryview) -> tuple[bool, bytes | None]:
        """Whether a stretch of the log, which goes on where the last one ended, holds a record of ours.

        Returns:
            Whether it does; and the name of another host, if it holds one before that.
        """
        start = 0
        data = bytes(text)
        if self._in_line:
            start = data.find(b"\n")
        self._in_line = not data.endswith(b"\n")
        other = None
        for line in _LINE(data, start) if start >= 0 else ():
            if line[1] is None or self.is_own(line[1]):
                return True, other
            other = line[1]
        return False, other


def _read_names(conf: str, root: Path) -> frozenset[bytes]:
    """What auditd may call this host, as far as its files say; nobody is asked over the network."""
    host = os.uname().nodename
    names = {host, host.partition(".")[0]}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (root / "etc/hosts").read_text("utf-8").splitlines():
            words = line.partition("#")[0].split()[1:]
            if host in words:  # a name's canonical form comes first
                names.add(words[0])
    with contextlib.suppress(OSError, UnicodeDecodeError):
        domains = _DOMAIN.findall((root / "etc/resolv.conf").read_text("utf-8"))
        names |= {f"{host}.{domain}" for domain in domains if "." not in host}
    found: list[bytes] = []
    with contextlib.suppress(OSError):
        found = _NAME.findall(Path(conf).read_bytes())
    return frozenset({name.lower().encode() for name in names} | set(found))


def _is_own_address(node: bytes) -> bool:
    """Whether it is an address of this host: one that a socket can be bound to."""
    text = node.decode("ascii", "replace")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        if not any(packed):
            return False
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind((text, 0))
            except OSError:
                return False
            return True
    return False
