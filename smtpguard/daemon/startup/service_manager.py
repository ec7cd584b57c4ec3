"""Tells the service manager how the guard fares, as sd_notify(3) describes: ready, alive, reloading, stopping.

The address never is in the daemon's environment, so no child gets it: `smtpguard run` takes it out before it becomes
the daemon (`take_address`). Without one, nothing is said. A manager that does not listen is never waited for.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Protocol

from smtpguard.clock import next_beat
from smtpguard.daemon.loop import TimedPart
from smtpguard.model import NS

log = logging.getLogger(__name__)

_ADDRESS, _WATCHDOG, _WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_LONGEST_PAUSE_NS = NS
_MAX_STATUS = 500


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service manager listens.

    Attributes:
        path: The socket; "@" in front means the abstract namespace. "" for nowhere.
        watchdog_ns: It wants to hear from us more often than this; 0 if it does not care.
    """

    path: str = ""
    watchdog_ns: int = 0


NOWHERE = Address()


def take_address(environment: MutableMapping[str, str]) -> Address:
    """Take what the service manager said out of an environment."""
    path = environment.pop(_ADDRESS, "")
    span, pid = environment.pop(_WATCHDOG, ""), environment.pop(_WATCHDOG_PID, "")
    is_ours = not pid or pid == str(os.getpid())
    watchdog_ns = int(span) * 1000 if span.isascii() and span.isdigit() and len(span) < 19 and is_ours else 0
    return Address(path if path.startswith(("/", "@")) and len(os.fsencode(path)) <= 107 else "", watchdog_ns)


class Headline(Protocol):
    """Says in one line how the guard fares."""

    def __call__(self) -> str:
        """The line."""
        ...


class ServiceManager(TimedPart):
    """What the service manager is told; the last part of the loop, so that a turn that ends is a sign of life.

    Args:
        address: Where it listens.
        headline: How the guard fares.
        now_ns: CLOCK_BOOTTIME.
    """

    def __init__(self, address: Address, headline: Headline, now_ns: int) -> None:
        self._address = "\0" + address.path[1:] if address.path.startswith("@") else address.path
        self._headline = headline
        self._pause_ns = max(min(_LONGEST_PAUSE_NS, address.watchdog_ns // 4 or _LONGEST_PAUSE_NS), 1_000_000)
        self._due_ns = next_beat(now_ns, self._pause_ns)
        self._shown = ""
        self._is_ready = False
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def ready(self) -> None:
        """What was to be opened is, or can't be: blind is an answer too, and is in the status line."""
        self._say("READY=1", self._status())

    def reloading(self) -> None:
        """The configuration is read again; `ready` has to follow."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The guard ends."""
        self._say("STOPPING=1")

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def next_deadline(self) -> int | None:
        """When the next sign of life is due."""
        if self._socket is None:
            return None
        return self._due_ns if self._is_ready else 0

    def on_time(self, now_ns: int) -> None:
        """A turn is over; after the first one, all that was to be opened is decided."""
        if self._socket is None:
            return
        if not self._is_ready:
            self._is_ready = True
            self.ready()
        if now_ns < self._due_ns:
            return
        self._due_ns = next_beat(now_ns, self._pause_ns)
        before = self._shown
        status = self._status()
        self._say("WATCHDOG=1", *([status] if self._shown != before else []))

    def _status(self) -> str:
        self._shown = " ".join(self._headline().split())[:_MAX_STATUS]
        return f"STATUS={self._shown}"

    def _say(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:  # it does not listen, or is too slow: the next turn says it again
            log.debug("the service manager can't be told: %s", error)
