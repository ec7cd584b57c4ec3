"""Names of destinations (PTR), asked of the system's resolver in a few threads that nobody ever waits for.

A name is what the owner of the address wrote into their zone: untrusted bytes, decoration, never a reason for a verdict
(THREATS 9). A tenant may connect to addresses whose name servers never answer, which holds a thread for as long as
resolv.conf says (5 s, several times), so: one look-up under way for one user, a bounded queue, failures remembered,
and daemon threads, which the end of the process doesn't wait for. Start it after the looker has forked.
"""

import os
import socket
import threading
from dataclasses import dataclass
from typing import Protocol

from smtpguard.enrich.fair_queue import FairQueue
from smtpguard.enrich.ordered_wait import next_ticket
from smtpguard.kernel.lasting_thread import start_lasting
from smtpguard.model import NS
from smtpguard.text import render_address

MAX_NAME = 255
"""Longest name kept in bytes (RFC 1035 allows 255)."""
FOUND_NS = 3600 * NS
"""How long a name is believed."""
MISSING_NS = 300 * NS
"""How long the lack of one is believed."""
MAX_TICKETS = 64
"""Most lines waiting for one address; they wait 50 ms, and the rest do without."""
_STACK_BYTES = 512 * 1024  # the resolver keeps its buffers on the stack: some 80 KiB


class ResolveAddress(Protocol):
    """Looks names of addresses up; may wait long."""

    def __call__(self, address: str, /) -> bytes | None:
        """The name; None if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RdnsStats:
    """Totals since the start, and what is the case now.

    Attributes:
        hits: Answered from memory.
        asked: Look-ups queued.
        answered: Look-ups that came back.
        crowded: Look-ups refused because too many were waiting.
        busy: Threads that are with the resolver now.
        waiting: Look-ups in the queue.
    """

    hits: int = 0
    asked: int = 0
    answered: int = 0
    crowded: int = 0
    busy: int = 0
    waiting: int = 0


def resolve_name(address: str) -> bytes | None:
    """The name of an address by the system's resolver; None if it has none. Blocks, for many seconds at worst."""
    try:
        name, _port = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)
    except (OSError, UnicodeError):  # the C library gave bytes that are no text
        return None
    return name.encode("utf-8", "surrogateescape")[:MAX_NAME]


class ReverseDns:
    """Looks names up beside the main thread.

    Args:
        threads: Look-ups under way at once.
        per_user: Waiting for one user.
        waiting: Waiting in all.
        remembered: Addresses remembered; the one longest unused goes first.
        resolve: Does one look-up.
    """

    def __init__(
        self,
        *,
        threads: int = 4,
        per_user: int = 16,
        waiting: int = 256,
        remembered: int = 8192,
        resolve: ResolveAddress = resolve_name,
    ) -> None:
        self._threads = threads
        self._remembered = remembered
        self._resolve = resolve
        # The one longest unused first. An OrderedDict takes more than twice the memory.
        self._names: dict[bytes, tuple[int, bytes | None]] = {}
        self._tickets: dict[bytes, list[int]] = {}
        self._displaced: list[int] = []
        self._hits = self._asked = self._answered = self._crowded = 0
        # Shared with the threads, under the lock:
        self._lock = threading.Condition()
        self._queue: FairQueue[bytes] = FairQueue(per_key=per_user, total=waiting)
        self._busy: set[int] = set()
        self._done: list[tuple[bytes, bytes | None]] = []
        self._closed = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # touched under the lock and before the end only

    def start(self) -> None:
        """Start the threads."""
        old = threading.stack_size(_STACK_BYTES)
        try:
            for number in range(self._threads):
                start_lasting(f"rdns-{number}", self._work)
        finally:
            threading.stack_size(old)

    def close(self) -> None:
        """Let the threads go, without waiting for those that are with the resolver; may be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._lock.notify_all()
            os.close(self._event)

    def filenos(self) -> list[int]:
        """One descriptor, always the same, readable when `read` has something."""
        return [self._event]

    def ask(self, address: bytes, owner: int, now_ns: int) -> int | bytes | None:
        """The name if it is remembered; else a ticket that `read` will return.

        None means that there is nothing to wait for: it is remembered that there is no name, or too many look-ups are
        waiting (counted).

        Args:
            address: 4 or 16 bytes in network order.
            owner: Uid that is charged for it.
            now_ns: Any clock that does not go back.
        """
        kept = self._names.get(address)
        if kept is not None and kept[0] > now_ns:
            self._names[address] = self._names.pop(address)
            self._hits += 1
            return kept[1]
        waiting = self._tickets.get(address)
        if waiting is None:
            with self._lock:
                if not self._queue.push(owner, address):
                    self._crowded += 1
                    displaced = self._queue.make_room(owner)
                    if displaced is None or not self._queue.push(owner, address):
                        return None
                    self._displaced += self._tickets.pop(displaced[1], [])
                self._lock.notify()
            self._asked += 1
            waiting = self._tickets[address] = []
        if len(waiting) >= MAX_TICKETS:
            self._crowded += 1
            return None
        ticket = next_ticket()
        waiting.append(ticket)
        return ticket

    def read(self, now_ns: int) -> list[tuple[int, bytes | None]]:
        """What the threads have found out, by ticket, without waiting.

        Args:
            now_ns: The clock of `ask`.
        """
        with self._lock:
            if self._done and not self._closed:
                os.eventfd_read(self._event)
            done, self._done = self._done, []
        found: list[tuple[int, bytes | None]] = [(ticket, None) for ticket in self._displaced]
        self._displaced.clear()
        missing = (now_ns + MISSING_NS, None)  # one for all: most addresses of a crowd have no name
        for address, value in done:
            self._answered += 1
            self._names.pop(address, None)
            self._names[address] = missing if value is None else (now_ns + FOUND_NS, value)
            if len(self._names) > self._remembered:
                del self._names[next(iter(self._names))]
            found += [(ticket, value) for ticket in self._tickets.pop(address, [])]
        if done and not self._tickets:
            self._tickets = {}  # an emptied dict keeps its table: 144 kB after a crowd
        return found

    def stats(self) -> RdnsStats:
        """Totals and state, for `status` and metrics."""
        with self._lock:
            return RdnsStats(
                hits=self._hits,
                asked=self._asked,
                answered=self._answered,
                crowded=self._crowded,
                busy=len(self._busy),
                waiting=len(self._queue),
            )

    def _work(self) -> None:
        """A thread: takes what is fair, asks the resolver, puts the answer down."""
        while True:
            with self._lock:
                turn = None
                while not self._closed and (turn := self._queue.pop(may=lambda owner: owner not in self._busy)) is None:
                    self._lock.wait()
                if turn is None:
                    return
                owner, address = turn
                self._busy.add(owner)
            value = None
            try:
                value = self._resolve(render_address(address))
            finally:
                with self._lock:
                    self._busy.discard(owner)
                    if not self._closed:
                        self._done.append((address, value))
                        os.eventfd_write(self._event, 1)
