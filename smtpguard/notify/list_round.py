"""Asks DNS block lists for addresses, one question after the other: by one thread, with one socket at a time.

A list that fails its test is asked nothing more, nor is one that fails several times running: what does not answer
costs a round seconds, not hours.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Protocol

from smtpguard.decode.dns import DnsAnswer, Kind
from smtpguard.enrich.own_addresses import OwnAddresses
from smtpguard.enrich.resolver import RESOLV_CONF, ask_question, parse_servers, read_text
from smtpguard.errors import DecodeError
from smtpguard.hooks import YesNo
from smtpguard.notify.list_answers import TESTS, ListAnswer, judge_answer, judge_test, name_question, render_reason

MAX_ADDRESSES = 64
"""Addresses that are asked for."""
_MAX_FAILURES = 3
"""Running; then the list is asked no more in this round."""


class AskName(Protocol):
    """Asks a name server. Raises OSError where nobody answers."""

    def __call__(self, name: str, kind: Kind, /) -> DnsAnswer:
        """The answer; may take seconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of asking.

    Attributes:
        answers: By address and list. What was not asked is not there.
        not_asked: List to why it can't be asked, about all addresses or some.
    """

    answers: Mapping[tuple[str, str], ListAnswer] = field(default_factory=dict)
    not_asked: Mapping[str, str] = field(default_factory=dict)


def find_public(extra: Sequence[str]) -> tuple[str, ...]:
    """The addresses that are asked for: those named, then the public ones of this host's interfaces.

    Raises:
        SourceError: The interfaces can't be read.
    """
    own = OwnAddresses()
    try:
        own.open()
        found = [network.network_address for network in own.networks]
    finally:
        own.close()
    public = [str(address) for address in found if address.is_global and not address.is_multicast]
    return tuple(dict.fromkeys([*extra, *public]))[:MAX_ADDRESSES]


def ask_system(name: str, kind: Kind, /) -> DnsAnswer:
    """Ask the servers of resolv.conf(5)."""
    return ask_question(name, kind, parse_servers(read_text(RESOLV_CONF)))


def ask_lists(zones: Sequence[str], addresses: Sequence[str], *, ask: AskName, is_wanted: YesNo) -> Round:
    """Ask each list for each address.

    Args:
        zones: The lists.
        addresses: What for.
        ask: Asks a name server.
        is_wanted: Whether to go on; what is left out then is in neither of the answers.
    """
    answers: dict[tuple[str, str], ListAnswer] = {}
    not_asked: dict[str, str] = {}
    for zone in zones:
        for version in TESTS:
            mine = [address for address in addresses if ip_address(address).version == version]
            if not mine:
                continue
            whom = f" (IPv{version})" if len(mine) < len(addresses) else ""
            trouble = _test(zone, version, ask)
            if trouble is not None:
                not_asked.setdefault(zone, f"{trouble}{whom}")
                continue
            failures = 0
            for address in mine:
                if not is_wanted():
                    return Round(answers=answers, not_asked=not_asked)
                found = answers[address, zone] = _ask(address, zone, ask)
                failures = failures + 1 if found.kind == "unknown" else 0
                if found.kind == "unknown":
                    not_asked.setdefault(zone, f"{found.why} (about {address})")
                if failures == _MAX_FAILURES:
                    break
    return Round(answers=answers, not_asked=not_asked)


def _test(zone: str, version: int, ask: AskName) -> str | None:
    has, has_not = TESTS[version]
    found = _ask(has, zone, ask)
    # What fails at the first question is not asked the second: each may take seconds.
    return judge_test(found, ListAnswer(kind="clean") if found.kind != "listed" else _ask(has_not, zone, ask))


def _ask(address: str, zone: str, ask: AskName) -> ListAnswer:
    name = name_question(address, zone)
    try:
        found = judge_answer(ask(name, "A"))
    except (OSError, DecodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        return ListAnswer(kind="unknown", why=str(error) if number is None else os.strerror(number))
    if found.kind != "listed" or address in (entry for pair in TESTS.values() for entry in pair):
        return found
    try:
        return ListAnswer(kind="listed", codes=found.codes, reason=render_reason(ask(name, "TXT")))
    except (OSError, DecodeError):
        return found  # a list need not write anything
