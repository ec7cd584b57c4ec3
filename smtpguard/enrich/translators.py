"""The prefixes of NAT64 between this host and IPv4, as the name server tells them (RFC 7050): asked beside the loop.

A name server behind a translator gives IPv6 addresses for ipv4only.arpa, which has none: they show the prefix. Whoever
answers may be anybody, as resolv.conf is root's choice: only plain prefixes are taken, four at most, and a server that
does not answer changes nothing. The question is asked again within the hour, and when the host's addresses change.
"""

import logging
import os
import socket
import threading
from contextlib import suppress
from ipaddress import IPv6Network
from typing import Literal, Protocol

from smtpguard.enrich.resolver import RESOLV_CONF, ask_servers, parse_servers, read_text
from smtpguard.errors import ThreadError
from smtpguard.kernel.lasting_thread import start_thread
from smtpguard.policy.networks import MAX_TRANSLATORS, find_prefix

log = logging.getLogger(__name__)

NAME = "ipv4only.arpa"
FIRST_S, MIN_S, MAX_S = 60.0, 30.0, 3600.0
"""How long until it is asked again: while nobody has answered; at least and at most, by the answer's lifetime."""
_MAX_ADDRESSES = 64
_CLOSE_S = 1.0

Chosen = tuple[IPv6Network, ...] | Literal["auto", "none"]


class AskAddresses(Protocol):
    """Asks for the addresses of a name; may wait for seconds."""

    def __call__(self, name: str, /) -> tuple[list[bytes], int | None] | None:
        """IPv6 addresses, packed, and for how many seconds they hold; None if nobody answered."""


def ask_name_servers(name: str, /) -> tuple[list[bytes], int | None] | None:
    """Ask the servers of resolv.conf(5)."""
    found = ask_servers(name, parse_servers(read_text(RESOLV_CONF)))
    if found is None:
        return None
    addresses = [socket.inet_pton(socket.AF_INET6, text) for text in found.addresses if ":" in text]
    return addresses[:_MAX_ADDRESSES], found.ttl_s


class Translators:
    """What is known of them.

    Args:
        chosen: What the configuration says.
        ask: Asks a name server.

    Attributes:
        prefixes: The prefixes that hold now.
    """

    def __init__(self, chosen: Chosen, *, ask: AskAddresses = ask_name_servers) -> None:
        self._chosen = chosen
        self._ask = ask
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._learnt: tuple[IPv6Network, ...] = ()
        self.prefixes: tuple[IPv6Network, ...] = ()
        self._settle()

    def start(self) -> None:
        """Begin to ask, where nobody has said."""
        if self._chosen == "auto" and self._thread is None:
            with suppress(ThreadError):  # the next look around, then
                self._thread = start_thread("nat64", self._go_on_asking)

    def replace(self, chosen: Chosen) -> bool:
        """Take what a new configuration says. Returns whether other prefixes hold."""
        self._chosen = chosen
        self.start()
        self.ask_again()
        return self._settle()

    def ask_again(self) -> None:
        """The host may be in another network: ask now."""
        self._wake.set()

    def fileno(self) -> int:
        """Readable when an answer has brought other prefixes."""
        return self._event

    def take_news(self) -> bool:
        """Take what was answered. Returns whether other prefixes hold."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        return self._settle()

    def close(self) -> None:
        """Ask no more; may be called twice. A question that hangs is left behind."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                return  # it may still write to the event
        if self._event >= 0:
            os.close(self._event)
            self._event = -1

    def _settle(self) -> bool:
        before = self.prefixes
        chosen = self._chosen
        self.prefixes = self._learnt if chosen == "auto" else () if chosen == "none" else chosen
        if self.prefixes != before:
            log.info("NAT64: %s", ", ".join(map(str, self.prefixes)) or "none")
        return self.prefixes != before

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _go_on_asking(self) -> None:
        while not self._closing:
            pause_s = MAX_S
            if self._chosen == "auto":
                pause_s = self._ask_once()
            self._wake.wait(pause_s)
            self._wake.clear()

    def _ask_once(self) -> float:
        answer = self._ask(NAME)
        if answer is None or self._closing:
            return FIRST_S
        addresses, ttl_s = answer
        found = sorted({prefix for address in addresses if (prefix := find_prefix(address)) is not None})
        learnt = tuple(found[:MAX_TRANSLATORS])
        if learnt != self._learnt:
            self._learnt = learnt
            os.eventfd_write(self._event, 1)
        return min(max(MIN_S, float(ttl_s or 0)), MAX_S)
