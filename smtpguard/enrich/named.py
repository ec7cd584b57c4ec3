"""Exempt destinations that are given as host names: looked up again and again, the last good answer kept.

In a thread of its own, because a resolver may hang; whoever asks `networks` gets what is known now. A name that can
not be looked up keeps its addresses: a broken resolver must not stop legitimate mail.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network

from smtpguard.settings import Network

log = logging.getLogger(__name__)

REFRESH_S = 300.0
RETRY_S = 15.0
"""Pause after a look-up that failed for some name that was never known."""
MAX_ADDRESSES = 64
"""Addresses taken of one name."""


def resolve_host(name: str) -> list[str]:
    """The addresses of a name, by the system's resolver; may wait long. Raises OSError if it has none now."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return sorted({str(entry[4][0]).partition("%")[0] for entry in found})


class NamedDestinations:
    """Names and the networks they stand for.

    Args:
        names: Host names; none starts no thread.
        resolve: Looks one up.
    """

    def __init__(self, names: Iterable[str], *, resolve: Callable[[str], list[str]] = resolve_host) -> None:
        self._resolve = resolve
        self._lock = threading.Condition()
        self._names = tuple(dict.fromkeys(names))
        self._known: dict[str, tuple[Network, ...]] = {}
        self._failed: set[str] = set()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def start(self) -> None:
        """Look the names up, in the background, from now on."""
        with self._lock:
            if self._names and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="names-of-destinations", daemon=True)
                self._thread.start()

    def replace(self, names: Iterable[str]) -> None:
        """Take other names; what is known of those that stay is kept."""
        with self._lock:
            self._names = tuple(dict.fromkeys(names))
            self._known = {name: self._known[name] for name in self._names if name in self._known}
            self._failed &= set(self._names)
            self._lock.notify_all()
        self.start()

    def fileno(self) -> int:
        """Readable when `networks` has changed."""
        return self._event

    def take_news(self) -> None:
        """Make `fileno` wait for the next change."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return

    def networks(self) -> tuple[Network, ...]:
        """What all names stand for now."""
        with self._lock:
            return tuple(network for networks in self._known.values() for network in networks)

    def failed(self) -> tuple[str, ...]:
        """Names whose last look-up failed, for `status`."""
        with self._lock:
            return tuple(sorted(self._failed))

    def close(self) -> None:
        """Let the thread go, without waiting for a resolver that hangs."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._lock.notify_all()
                os.close(self._event)

    def look_up(self) -> bool:
        """Look all names up once; whether any network has changed. Waits for the resolver."""
        changed = False
        for name in self._names:
            try:
                addresses = self._resolve(name)[:MAX_ADDRESSES]
                networks = tuple(ip_network(ip_address(address)) for address in addresses)
            except (OSError, ValueError, UnicodeError) as error:
                with self._lock:
                    if name not in self._failed:
                        log.warning(
                            "exempt destination %s can't be looked up, its last addresses hold: %s", name, error
                        )
                    self._failed.add(name)
                continue
            with self._lock:
                self._failed.discard(name)
                if name in self._names and self._known.get(name) != networks:
                    self._known[name] = networks
                    changed = True
        return changed

    def _run(self) -> None:
        while True:
            changed = self.look_up()
            with self._lock:
                if self._closed:
                    return
                if changed:
                    os.eventfd_write(self._event, 1)
                before = self._names
                missing = any(name not in self._known for name in before)
                self._lock.wait_for(
                    lambda names=before: self._closed or self._names is not names,  # type: ignore[misc]
                    RETRY_S if missing else REFRESH_S,
                )
                if self._closed:
                    return
