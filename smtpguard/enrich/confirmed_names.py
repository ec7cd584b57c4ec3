"""Names of addresses that lead back to them, and whose they are: for commands that people wait for.

What reverse DNS says is written by whoever has the address. A name is taken only where it stands for the address, too
(forward-confirmed), and only if it is a host name. Looked up beside the command, within a bounded time, and remembered
as long as that runs. Never in the daemon.
"""

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Protocol

from smtpguard.enrich.resolver import Resolved, resolve_host
from smtpguard.enrich.reverse_dns import ResolveAddress, resolve_name
from smtpguard.interpreter import install_command

MAX_LOOKUPS = 200
THREADS = 16
WAIT_S = 3.0
_HOST_NAME = re.compile(rb"(?=.{1,253}\Z)[a-z0-9_][a-z0-9_-]{0,62}(?:\.[a-z0-9_-]{1,63})+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedName:
    """What is known of an address.

    Attributes:
        name: A host name that stands for it, in small letters.
        provider: The domain in it that somebody registered; None if it is not known.
    """

    name: str
    provider: str | None


class ResolveHost(Protocol):
    """Looks addresses of names up; may wait long. Raises OSError."""

    def __call__(self, name: str, /) -> Resolved:
        """The addresses."""
        ...


def confirm_names(
    addresses: Iterable[str],
    *,
    wait_s: float = WAIT_S,
    resolve: ResolveAddress = resolve_name,
    resolve_back: ResolveHost = resolve_host,
) -> dict[str, ConfirmedName]:
    """Names of addresses, of those that have one and answer in time.

    Args:
        addresses: As text; of many the first ones.
        wait_s: How long it may take in all.
        resolve: Says the name of an address.
        resolve_back: Says the addresses of a name.
    """
    wanted: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[str, ConfirmedName | None]] = queue.SimpleQueue()
    distinct = list(dict.fromkeys(addresses))[:MAX_LOOKUPS]
    for address in distinct:
        wanted.put(address)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                address = wanted.get_nowait()
                answers.put((address, _confirm(address, resolve, resolve_back)))

    for number in range(min(THREADS, len(distinct))):  # those that hang end with the command
        threading.Thread(target=work, name=f"names-{number}", daemon=True).start()
    found: dict[str, ConfirmedName] = {}
    deadline = time.monotonic() + wait_s
    for _ in distinct:
        try:
            address, name = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if name is not None:
            found[address] = name
    return found


def find_provider(name: str) -> str | None:
    """The domain in a host name that somebody registered, by the Public Suffix List; None where that is not there."""
    domain = _read_suffixes().privatesuffix(name)
    return None if domain is None else str(domain)


def _confirm(address: str, resolve: ResolveAddress, resolve_back: ResolveHost) -> ConfirmedName | None:
    raw = resolve(address)
    if raw is None or _HOST_NAME.fullmatch(raw.removesuffix(b".")) is None:
        return None
    name = raw.removesuffix(b".").decode("ascii").lower()
    try:
        is_confirmed = address in resolve_back(name).addresses
    except OSError:
        return None
    return ConfirmedName(name=name, provider=find_provider(name)) if is_confirmed else None


class _Suffixes(Protocol):
    def privatesuffix(self, domain: str, /) -> object: ...


class _NoSuffixes:
    def privatesuffix(self, domain: str, /) -> object:
        del domain
        return None


def find_provider_trouble() -> str | None:
    """Why no provider can be told; None if they can."""
    if not isinstance(_read_suffixes(), _NoSuffixes):
        return None
    return f"providers are not told: publicsuffixlist is not installed ({install_command('publicsuffixlist')})"


@cache
def _read_suffixes() -> _Suffixes:
    """The Public Suffix List, some 4 MB: for who asks for names alone."""
    try:
        suffixes: _Suffixes = import_module("publicsuffixlist").PublicSuffixList()
    except ImportError:
        return _NoSuffixes()
    return suffixes
