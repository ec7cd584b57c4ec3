"""The control socket as a part of the loop."""

import logging
import time
from collections.abc import Sequence

from smtpguard.clock import next_beat
from smtpguard.control.listener import read_gid
from smtpguard.control.server import ControlServer
from smtpguard.control.watch_item import TOPIC, render_item
from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.errors import ConfigError

log = logging.getLogger(__name__)


def find_group(group: str | None) -> tuple[str | None, str | None]:
    """The group that may use the socket, and why it may not though it ought to; an LDAP group may come late.

    A guard that only root can ask is better than none.
    """
    try:
        if group is not None:
            read_gid(group)
    except ConfigError as error:
        log.error("only root may use the control socket: %s", error)  # noqa: TRY400 - one line for people
        return None, f"{error.what}; restart the guard when it is there"
    return group, None


class ControlPart:
    """Serves the control socket in the loop's turns.

    Args:
        server: The socket; it counts in CLOCK_MONOTONIC.
    """

    def __init__(self, server: ControlServer) -> None:
        self.server = server
        self._due_ns = 0

    def publish(self, entry: Entry, wall_ns: int) -> None:
        """Hand an attempt to whoever watches."""
        if self.server.has_readers(TOPIC):
            item = render_item(entry.connect, entry.account, wall_ns)
            self.server.publish(TOPIC, item, time.monotonic_ns())

    def filenos(self) -> Sequence[int]:
        """The server's own epoll descriptor."""
        return (self.server.fileno(),)

    def on_ready(self, fileno: int) -> None:
        """A client has come, asked, or read."""
        del fileno
        self.server.serve(time.monotonic_ns())

    def next_deadline(self) -> int:
        """Slow clients are looked at once a second."""
        return self._due_ns

    def on_time(self, now_ns: int) -> None:
        """Cut who is too slow."""
        if now_ns >= self._due_ns:
            self._due_ns = next_beat(now_ns)
            self.server.tick(time.monotonic_ns())
