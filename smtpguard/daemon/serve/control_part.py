"""The control socket as a part of the loop."""

import time
from collections.abc import Sequence

from smtpguard.clock import next_beat
from smtpguard.control.server import ControlServer
from smtpguard.control.watch_item import TOPIC, render_item
from smtpguard.daemon.record.enrichment_queue import Entry


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
