"""What the answer of a DNS block list means: RFC 5782, and the codes by which lists say that they don't answer. Pure.

Only a list that passes its own test (section 5) is believed, and only what it says in 127.0.0.0/8. Everything else is
"can't be asked": a resolver that redirects what does not exist, a list that is gone and lists the world, one that
refuses public resolvers. None of that is a listing, and none is "not listed".
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Literal

from smtpguard.decode.dns import NXDOMAIN, DnsAnswer
from smtpguard.text import render_address, render_words

MAX_CODES = 8
MAX_REASON = 200
"""Characters of what a list writes that are kept."""
_ANSWERS = IPv4Network("127.0.0.0/8")
_ERRORS = IPv4Network("127.255.255.0/24")
_SAID = {
    "127.255.255.252": "its name is misspelt",
    "127.255.255.254": "it does not answer public resolvers",
    "127.255.255.255": "it is asked too often from here",
}
"""https://www.spamhaus.org/faqs/dnsbl-usage/: others use the same codes."""
_KEY = re.compile(r"[a-z0-9]{20,}")
TESTS: dict[int, tuple[str, str]] = {4: ("127.0.0.2", "127.0.0.1"), 6: ("::ffff:127.0.0.2", "::ffff:127.0.0.1")}
"""IP version to an address that each list has, and one that none has: RFC 5782, section 5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAnswer:
    """What a list says of an address.

    Attributes:
        kind: "listed", "clean", or "unknown": it can't be asked.
        codes: What it answers where it lists, ascending.
        why: Why it can't be asked.
        reason: What it writes of the listing; escaped.
    """

    kind: Literal["listed", "clean", "unknown"]
    codes: tuple[str, ...] = ()
    why: str = ""
    reason: str = ""


def name_question(address: str, zone: str) -> str:
    """The name that is asked for: the address backwards, IPv6 by its 32 digits, before the list's name.

    Args:
        address: IPv4 or IPv6.
        zone: The list.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        return f"{'.'.join(reversed(parsed.exploded.replace(':', '')))}.{zone}"
    return f"{'.'.join(reversed(str(parsed).split('.')))}.{zone}"


def judge_answer(answer: DnsAnswer) -> ListAnswer:
    """What an answer to `name_question` means, from a list that has passed its test."""
    if answer.code == NXDOMAIN:
        return ListAnswer(kind="clean")
    if answer.code:
        return ListAnswer(kind="unknown", why=f"the name server answers with the code {answer.code}")
    if not answer.addresses:
        return ListAnswer(kind="unknown", why="an answer without an address")
    found = sorted(IPv4Address(address) for address in answer.addresses)
    for address in found:
        if address not in _ANSWERS:
            return ListAnswer(kind="unknown", why=f"{address} is no block list's answer: does a resolver redirect it?")
        if address in _ERRORS:
            return ListAnswer(kind="unknown", why=f"{_SAID.get(str(address), 'it refuses')} ({address})")
        if address == IPv4Address("127.0.0.1"):
            return ListAnswer(kind="unknown", why="127.0.0.1 is no block list's answer: it refuses, or a resolver does")
    codes = dict.fromkeys(render_address(address.packed) for address in found)
    return ListAnswer(kind="listed", codes=tuple(codes)[:MAX_CODES])


def judge_test(has: ListAnswer, has_not: ListAnswer) -> str | None:
    """Why a list can't be believed; None if it can.

    Args:
        has: Its answer for the address that each list has.
        has_not: The same for the one that none has.
    """
    if has.kind == "unknown":
        return has.why
    if has.kind == "clean":
        return "it does not list its own test entry: it is gone, or a resolver hides it"
    if has_not.kind == "unknown":
        return has_not.why
    return "it lists 127.0.0.1, so it lists everybody" if has_not.kind == "listed" else None


def render_reason(answer: DnsAnswer) -> str:
    """The first text of an answer as people may see it; nothing where there is none."""
    texts = [text for text in answer.texts if text]
    return render_words(texts[0].decode("utf-8", "surrogateescape"), max_bytes=MAX_REASON)[:MAX_REASON] if texts else ""


def show_zone(zone: str) -> str:
    """A list's name as people may see it: what looks like a customer's key in it stays here."""
    return _KEY.sub("KEY", zone)
