"""What a panel said of all accounts, as one text that is searched: 20,000 accounts are 3 MB of it. Pure.

One line an account, sorted by user: user, domain, reseller, package, contact, language, all domains; tabs between them,
spaces between domains. It is what the process that reads a panel writes, and what is kept for the next start.
"""

import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from smtpguard.errors import DecodeError
from smtpguard.model import Customer
from smtpguard.text import to_bytes

MAX_BYTES = 32 << 20
MAX_ACCOUNTS = 100_000
MAX_DOMAINS = 5_000
"""Domains of one account."""
MAX_SHOWN = 100
"""Domains that are told of one."""
MAX_TEXT = 80
"""Characters of a package's or a reseller's name."""
_HEAD = b"smtpguard accounts 2"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_DOMAINS_AT = 6
_LANGUAGE = re.compile(r"[a-z]{2,3}(?![a-z])")
_PANELS_WORDS = {"english": "en", "german": "de", "french": "fr", "spanish": "es", "italian": "it", "dutch": "nl"}
_MAX_DOMAIN = 253
_RESELLERS_ARE_LOGINS = ("cPanel", "DirectAdmin", "command")
"""Elsewhere a reseller may be called like another customer's login."""
_MAX_ADDRESS = 254


def parse_domain(text: str) -> str | None:
    """A domain as it is looked up, lower case, without its last dot; None for what is none.

    Args:
        text: What a panel or a person wrote; may be anything.
    """
    if not text.isascii():  # lower() makes an ASCII k of the sign for kelvin: somebody else's domain
        return None
    domain = text.strip(" ").rstrip(".").lower()
    if not 0 < len(domain) <= _MAX_DOMAIN or not _LETTERS.issuperset(domain):
        return None
    return domain if "." in domain and not domain.startswith((".", "-")) and ".." not in domain else None


def parse_label(text: str) -> str | None:
    """The name of a reseller; None for what has none, or can't be shown."""
    label = text.strip(" ")
    return label if 0 < len(label) <= MAX_TEXT and label.isprintable() else None


def parse_package(text: str) -> str | None:
    """The name of a package, cut, with ? for what can't be shown; None for what has none.

    Never None for one that is odd: a reseller would leave `packages: ["res1/*"]` by a name of that kind.
    """
    label = text.strip(" ")[:MAX_TEXT]
    return "".join(sign if sign.isprintable() else "?" for sign in label) or None


def name_package(package: str | None, reseller: str | None) -> str | None:
    """A package as `users[].match` knows it: a reseller's own is RESELLER/PACKAGE, as they may call it like the host's.

    Args:
        package: As the panel calls it.
        reseller: Who made it; None for the host's own.
    """
    return f"{reseller}/{package}" if package and reseller else package


def parse_address(text: str) -> str | None:
    """The first address of a list; None for what is none: it must be safe in a header and on a terminal."""
    for part in text.replace(";", ",").split(","):
        local, at, domain = part.strip(" ").rpartition("@")
        plain = local.isascii() and local.isprintable() and not set(local) & set(' "\\<>()[]:;,@')
        fits = len(local) <= 64 and len(local) + 1 + len(domain) <= _MAX_ADDRESS
        domain = domain.strip(" ").rstrip(".")
        if at and local and plain and not local.startswith("-") and fits and parse_domain(domain):
            return f"{local}@{domain}"
    return None


def parse_language(text: str) -> str | None:
    """A language as `de`, from `de`, `de_DE`, `de-AT` or one of the English words that panels use; None for others."""
    word = text.strip(" ").lower()
    found = _LANGUAGE.match(_PANELS_WORDS.get(word, word))
    return found[0] if found else None


def parse_user(text: str) -> str | None:
    """A login name; None for what can't be one in this table."""
    return text if 0 < len(text) <= 255 and text.isprintable() and not set(text) & set(" :/") else None


def render_table(panel: str, customers: Mapping[str, Customer]) -> bytes:
    """The text.

    Args:
        panel: Who said it, for people.
        customers: By login name; what of it is no name, domain or label is left out.
    """
    rows = []
    users = sorted(customers, key=to_bytes)[:MAX_ACCOUNTS]
    claimed = {user: _list_domains(customers[user]) for user in users}
    firsts = {parse_domain(customers[user].domain or "") for user in users}
    claims = Counter(domain for domains in claimed.values() for domain in domains if domain in firsts)
    for user in users:
        customer, domains = customers[user], claimed[user]
        first = parse_domain(customer.domain or "")
        reseller = parse_label(customer.reseller or "")
        fields = (
            user,
            # Nobody is told of by a domain that somebody else has as well: a billing system has what people typed.
            first if first and claims[first] == 1 else "",
            reseller or "",
            (parse_package(customer.package or "") or "") if reseller or not customer.reseller else "",
            parse_address(customer.contact or "") or "",
            parse_language(customer.language or "") or "",
            " ".join(domains[:MAX_DOMAINS]),
        )
        if parse_user(user) is not None:
            rows.append(b"\t".join(map(to_bytes, fields)))
    return b"\n".join((b"%s %s" % (_HEAD, to_bytes(panel)), *rows, b""))


def _list_domains(customer: Customer) -> list[str]:
    return list(dict.fromkeys(filter(None, map(parse_domain, (customer.domain or "", *customer.domains)))))


class CustomerTable:
    """The text, searched.

    Args:
        text: From `render_table`.

    Attributes:
        text: It.
        panel: Who said it.

    Raises:
        DecodeError: It is none.
    """

    def __init__(self, text: bytes = _HEAD + b" nobody\n") -> None:
        head, _, _ = text.partition(b"\n")
        if not head.startswith(_HEAD + b" ") or not text.endswith(b"\n"):
            raise DecodeError("is no table of accounts")
        self.text = text
        self.panel = head[len(_HEAD) + 1 :].decode("utf-8", "replace")
        self._starts = array("I")
        start = len(head) + 1
        while start < len(text):
            end = text.index(b"\n", start)
            if text.count(b"\t", start, end) != _DOMAINS_AT:
                raise DecodeError("is no table of accounts")
            self._starts.append(start)
            start = end + 1

    def __len__(self) -> int:
        """How many accounts it knows."""
        return len(self._starts)

    def find(self, names: Sequence[str]) -> Customer | None:
        """Whose the account of some login names is."""
        for name in names:
            fields = self._find(to_bytes(name))
            if fields is not None:
                return _build(fields)
        return None

    def find_reseller(self, customer: Customer) -> Customer | None:
        """Who sold an account to a customer; None if nobody did, or the panel's names of resellers are no logins."""
        if customer.reseller is None or self.panel not in _RESELLERS_ARE_LOGINS:
            return None
        return self.find((customer.reseller,))

    def labels(self) -> tuple[frozenset[tuple[str, str | None]], frozenset[str]]:
        """All packages, each with the reseller of an account that has it, and all resellers."""
        fields = {tuple(line.split(b"\t", 4)[2:4]) for line in self.text.split(b"\n")[1:-1]}
        texts = [tuple(field.decode("utf-8", "surrogateescape") for field in line) for line in fields]
        packages = frozenset((package, reseller or None) for reseller, package in texts if package)
        return packages, frozenset(reseller for reseller, _ in texts if reseller)

    def owners(self, text: str) -> list[str]:
        """The login names of all that claim a domain; more than one where the panel's files contradict each other.

        Args:
            text: What a person wrote: a domain, with www. before it or not, or an address at one; may be anything.
        """
        domain = parse_domain(text.rpartition("@")[2])
        if domain is None:
            return []
        # Both: somebody else may have been given `www.` of it as a domain of their own.
        names = dict.fromkeys((domain, domain.removeprefix("www.")))
        return list(dict.fromkeys(owner for name in names for owner in self._find_owners(name)))

    def _find_owners(self, domain: str) -> list[str]:
        found: dict[str, None] = {}
        # From the sign before it on: a tenant's 5,000 domains may each hold what is looked for 80 times, which took
        # the loop 170 ms for one such account. At its beginning each can have it once.
        for wanted in (b"\t" + domain.encode("ascii"), b" " + domain.encode("ascii")):
            at = self.text.find(wanted)
            while at >= 0:
                after = at + len(wanted)
                if self.text[after : after + 1] in (b" ", b"\n"):
                    line = self.text[self.text.rfind(b"\n", 0, at) + 1 : after]
                    if line.count(b"\t") == _DOMAINS_AT:  # in the last field: a package may be called like a domain
                        found[line.partition(b"\t")[0].decode("utf-8", "surrogateescape")] = None
                at = self.text.find(wanted, after)
        return list(found)

    def _find(self, name: bytes) -> list[bytes] | None:
        low, high = 0, len(self._starts)
        while low < high:
            middle = (low + high) // 2
            start = self._starts[middle]
            line = self.text[start : self.text.index(b"\n", start)]
            user = line[: line.index(b"\t")]
            if user == name:
                return line.split(b"\t")
            if user < name:
                low = middle + 1
            else:
                high = middle
        return None


def merge(entries: Iterable[tuple[str, Customer]]) -> dict[str, Customer]:
    """Accounts by login name; what is said twice of one is put together, the first word wins."""
    found: dict[str, Customer] = {}
    for user, customer in entries:
        before = found.get(user)
        if before is None:
            found[user] = customer
            continue
        found[user] = Customer(
            domain=before.domain or customer.domain,
            domains=(*before.domains, *customer.domains),
            reseller=before.reseller or customer.reseller,
            package=before.package or customer.package,
            contact=before.contact or customer.contact,
            language=before.language or customer.language,
        )
    return found


def _build(fields: Sequence[bytes]) -> Customer:
    _, domain, reseller, package, contact, language, domains = (
        part.decode("utf-8", "surrogateescape") for part in fields
    )
    return Customer(
        domain=domain or None,
        domains=tuple(domains.split(" ", MAX_SHOWN)[:MAX_SHOWN]) if domains else (),
        reseller=sys.intern(reseller) if reseller else None,
        package=sys.intern(package) if package else None,
        contact=contact or None,
        language=language or None,
    )
