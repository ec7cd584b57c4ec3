"""Exempt destinations that are given as host names: every address a name has given within a day is exempt.

Relays of large providers give another address every minute. So a name is asked again at half its lifetime, what it gave
before holds on for 24 hours, and when somebody is refused at an address that is not known, all names are asked at once:
their users lose one attempt a new address. In a thread of its own, because a resolver may hang; a name that can't be
looked up keeps the addresses of its last answer however old: a broken resolver must not stop legitimate mail.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

from smtpguard.enrich.host_addresses import Cleared, HostAddresses, Now, ResolveName, read_boottime
from smtpguard.enrich.resolver import resolve_host
from smtpguard.errors import ThreadError
from smtpguard.kernel.lasting_thread import start_lasting
from smtpguard.model import NS, Subject
from smtpguard.settings import Network
from smtpguard.text import render_address

log = logging.getLogger(__name__)

KEEP_NS = 24 * 3600 * NS
"""How long an address holds after a name gave it last."""
MIN_PAUSE_NS, MAX_PAUSE_NS = 30 * NS, 3600 * NS
UNKNOWN_PAUSE_NS = 60 * NS
"""Where nobody says how long an answer may be believed: /etc/hosts, mDNS."""
RETRY_NS = 15 * NS
"""After a look-up that failed for a name that was never known."""
MAX_ADDRESSES = 64
"""Addresses taken of one answer."""
MAX_KEPT = 256
"""Addresses kept of one name, and of all: what the kernel's sets hold, and `status` can show."""
MAX_KEPT_IN_ALL = 4096
MAX_DOUBTS = 256
MAX_DOUBTS_OF_ONE = 16
"""Refused attempts that wait to be told whether their destination is exempt, in all and of one user."""
DOUBTED_NS = 10 * NS
"""An address that no name gave is not asked for again for so long; and how many of these are remembered."""
MAX_DOUBTED = 4096
TRIES = 4
"""Questions to one name in one round for a doubted address: servers give their addresses in turn."""
LOOK_UP_PAUSE_NS = NS // 20
"""Between two rounds for doubted addresses lie 50 ms for each look-up that the first one made: 20 a second at most."""


class ExemptHosts:
    """Names and the networks they stand for.

    Args:
        names: Host names; none starts no thread.
        resolve: Looks one up.
        now: The clock.
    """

    def __init__(self, names: Iterable[str], *, resolve: ResolveName = resolve_host, now: Now = read_boottime) -> None:
        self._resolve = resolve
        self._now = now
        self._lock = threading.Condition()
        self._hosts = {name: HostAddresses() for name in names}
        self._doubts: dict[bytes, dict[Subject, None]] = {}
        self._doubted: dict[bytes, int] = {}
        self._cleared: list[Cleared] = []
        self._round_ns = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def start(self) -> None:
        """Look the names up, in the background, from now on."""
        with self._lock:
            if self._hosts and self._thread is None:
                with contextlib.suppress(ThreadError):  # the next look around, then
                    self._thread = start_lasting("names-of-destinations", self._run)

    def replace(self, names: Iterable[str]) -> None:
        """Take other names; what is known of those that stay is kept."""
        with self._lock:
            self._hosts = {name: self._hosts.get(name) or HostAddresses() for name in names}
            self._doubted.clear()
            self._lock.notify_all()
        self.start()

    def fileno(self) -> int:
        """Readable when `networks` has changed, or `take_news` has something."""
        return self._event

    def take_news(self) -> list[Cleared]:
        """Whose doubted addresses turned out to be exempt; makes `fileno` wait for the next change."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return []
        with self._lock:
            cleared, self._cleared = self._cleared, []
        return cleared

    def doubt(self, address: bytes, subject: Subject) -> None:
        """Somebody is refused at an address: if a name gives it now, `take_news` tells. Never waits.

        Args:
            address: Packed; not exempt as far as is known.
            subject: Whose attempt it was.
        """
        if not self._hosts or self._doubted.get(address, 0) > self._now():
            return
        with self._lock:
            waiting = self._doubts.get(address)
            if waiting is None:
                mine = sum(subject in subjects for subjects in self._doubts.values())
                if len(self._doubts) >= MAX_DOUBTS or mine >= MAX_DOUBTS_OF_ONE:
                    return
                waiting = self._doubts[address] = {}
                self._lock.notify_all()
            if len(waiting) < MAX_DOUBTS_OF_ONE:
                waiting[subject] = None

    def networks(self) -> tuple[Network, ...]:
        """What all names stand for now, those first that were given last."""
        with self._lock:
            newest: dict[str, int] = {}
            for host in self._hosts.values():
                for address, seen_ns in host.addresses.items():
                    newest[address] = max(seen_ns, newest.get(address, 0))
        kept = sorted(newest, key=lambda address: (-newest[address], address))[:MAX_KEPT_IN_ALL]
        return tuple(ip_network(address) for address in kept)

    def failed(self) -> tuple[str, ...]:
        """Names whose last look-up failed, for `status`."""
        with self._lock:
            return tuple(sorted(name for name, host in self._hosts.items() if host.failed))

    def render(self) -> str:
        """Names with how many addresses each has given, for `status`; "" where none are exempt."""
        now_ns = self._now()
        with self._lock:
            shown = [
                f"{name} {len(host.addresses)}"
                + (f" ({host.dropped} more did not fit)" if host.dropped else "")
                + (" (not found)" if host.failed else f" (asked again in {max(0, host.due_ns - now_ns) // NS} s)")
                for name, host in list(self._hosts.items())[:20]
            ]
            more = len(self._hosts) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")

    def close(self) -> None:
        """Let the thread go, without waiting for a resolver that hangs."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._lock.notify_all()
                os.close(self._event)

    def look_up(self, *, due_only: bool = False) -> bool:
        """Look names up once; whether any network has changed. Waits for the resolver.

        Args:
            due_only: Only those whose time has come.
        """
        changed = False
        with self._lock:
            names = [name for name, host in self._hosts.items() if not due_only or host.due_ns <= self._now()]
        for name in names:
            changed |= self._look_up(name)
            if due_only and self._doubts:
                break  # somebody was refused, and goes first
        return changed

    def settle(self) -> bool:
        """Ask all names for the doubted addresses; whether any network has changed. Waits for the resolver."""
        with self._lock:
            doubts, self._doubts = self._doubts, {}
            names = list(self._hosts)
        changed, look_ups = False, 0
        for name in names:
            for _ in range(TRIES):
                if not self._find_unknown(doubts):
                    break
                changed |= self._look_up(name)
                look_ups += 1
                if name in self.failed():
                    break  # a resolver that hangs is not asked four times
        now_ns = self._now()
        unknown = self._find_unknown(doubts)
        with self._lock:
            self._round_ns = now_ns + look_ups * LOOK_UP_PAUSE_NS
            if len(self._doubted) + len(unknown) > MAX_DOUBTED:
                self._doubted.clear()
            self._doubted.update(dict.fromkeys(unknown, now_ns + DOUBTED_NS))
            for address, subjects in doubts.items():
                text = render_address(address)
                giver = next((name for name, host in self._hosts.items() if text in host.addresses), None)
                if giver is not None:
                    self._cleared += [Cleared(subject=one, address=address, name=giver) for one in subjects]
        return changed

    def _find_unknown(self, doubts: Iterable[bytes]) -> list[bytes]:
        """Doubted addresses that no name has given."""
        with self._lock:
            known = {address for host in self._hosts.values() for address in host.addresses}
        return [address for address in doubts if render_address(address) not in known]

    def _look_up(self, name: str) -> bool:
        try:
            found = self._resolve(name)
            addresses = [_render(address) for address in found.addresses[:MAX_ADDRESSES]]
        except (OSError, ValueError, UnicodeError) as error:
            self._note_failure(name, error)
            return False
        pause_ns = UNKNOWN_PAUSE_NS if found.ttl_s is None else found.ttl_s * NS // 2
        now_ns = self._now()
        with self._lock:
            host = self._hosts.get(name)
            if host is None:
                return False
            host.failed = False
            host.due_ns = now_ns + min(max(pause_ns, MIN_PAUSE_NS), MAX_PAUSE_NS)
            before = set(host.addresses)
            host.latest = frozenset(addresses)
            host.addresses.update(dict.fromkeys(addresses, now_ns))
            self._prune(host, now_ns)
            return before != set(host.addresses)

    def _note_failure(self, name: str, error: Exception) -> None:
        with self._lock:
            host = self._hosts.get(name)
            if host is None:
                return
            if not host.failed:
                hold = "its last addresses hold" if host.addresses else "nothing is exempt by it"
                why = (isinstance(error, OSError) and error.strerror) or error
                log.warning("exempt destination %s can't be looked up, %s: %s", name, hold, why)
            host.failed = True
            host.due_ns = self._now() + (MIN_PAUSE_NS if host.addresses else RETRY_NS)

    @staticmethod
    def _prune(host: HostAddresses, now_ns: int) -> None:
        """Forget what was not given for a day, and the oldest of too many."""
        for address, seen_ns in list(host.addresses.items()):
            if address not in host.latest and seen_ns <= now_ns - KEEP_NS:
                del host.addresses[address]
        excess = len(host.addresses) - MAX_KEPT
        host.dropped = max(0, excess)
        for address in sorted(host.addresses, key=lambda key: host.addresses[key])[: max(0, excess)]:
            del host.addresses[address]

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._closed and (wait_ns := self._wait_ns()) > 0:
                    self._lock.wait(wait_ns / NS)
                if self._closed:
                    return
                is_doubted = bool(self._doubts) and self._round_ns <= self._now()
            changed = self.settle() if is_doubted else self.look_up(due_only=True)
            with self._lock:
                if not self._closed and (changed or self._cleared):
                    os.eventfd_write(self._event, 1)

    def _wait_ns(self) -> int:
        """Until when there is nothing to do; an hour at most."""
        now_ns = self._now()
        due_ns = [host.due_ns for host in self._hosts.values()]
        if self._doubts:
            due_ns.append(self._round_ns)
        return max(0, min(due_ns, default=now_ns + MAX_PAUSE_NS) - now_ns)


def _render(text: str) -> str:
    """An address as sensors and kernel name it: an IPv4-mapped one is the IPv4 one. Raises ValueError if it is none."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
