"""What the notifying process does: it takes packets from the daemon and gives each to the duties that want it.

A duty is one way to tell: messages to people, the file of figures. What one raises is told and keeps no other from its
work. What waits for somebody far away waits in a thread of that duty, never here.
"""

import logging
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from smtpguard.daemon.outlet.frames import MAX_BYTES, HelperSettings, Up, parse_frame, render_frame
from smtpguard.errors import ThreadError
from smtpguard.hooks import ClockS, Task

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 60.0
_MAX_UNSAID = 1024
"""Twice as many as the daemon hands over at once."""
_REPORT_S = 1.0
"""What the daemon is told of duties is so old at most."""


class SayUp(Protocol):
    """Says something to the daemon."""

    def __call__(self, kind: Up, content: object = None) -> None:
        """Never waits: what has no room is lost, and said again where it matters."""


class Duty(Protocol):
    """One way to tell."""

    @property
    def name(self) -> str:
        """What `status` calls it."""
        ...

    def configure(self, settings: HelperSettings) -> None:
        """Take settings: the first ones, or changed ones."""

    def take(self, kind: str, content: Any) -> None:  # noqa: ANN401 - JSON values
        """Take a packet: `occasion`, `snapshot` or `health`. Whoever keeps an occasion says `took` with its id."""

    def next_due_s(self) -> float | None:
        """When it wants its turn (monotonic); None for never."""
        ...

    def on_time(self, now_s: float) -> None:
        """Its turn: at least when it is due."""

    def report(self) -> Mapping[str, Any]:
        """How it fares: `text` for people, `troubles` (a list of texts), and figures."""
        ...

    def close(self) -> None:
        """The end."""


class MakeDuties(Protocol):
    """Makes them."""

    def __call__(self, say: SayUp, wake: Task) -> Sequence[Duty]:
        """All duties. `wake` gives each a turn, from any thread."""
        ...


class NotifyHelper:
    """The process's loop.

    Args:
        channel: The daemon's packets.
        make: Makes the duties.
        clock: Monotonic seconds.
    """

    def __init__(self, channel: socket.socket, *, make: MakeDuties, clock: ClockS = time.monotonic) -> None:
        channel.settimeout(0)
        self._channel = channel
        self._clock = clock
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._duties = tuple(make(self.say, self.wake))
        self._failing: dict[tuple[str, str], str] = {}
        self._reported: Mapping[str, Any] = {}
        self._reported_s = 0.0
        self._is_late = False
        self._unsaid: list[object] = []
        self._ended = False

    def wake(self) -> None:
        """Give each duty a turn; from any thread."""
        os.eventfd_write(self._wake, 1)

    def say(self, kind: Up, content: object = None) -> None:
        """Say something to the daemon; what was taken is said again until there is room for it."""
        try:
            self._channel.send(render_frame(kind, content))
        except BlockingIOError:
            if kind == "took" and len(self._unsaid) < _MAX_UNSAID:
                self._unsaid.append(content)
        except (OSError, ValueError) as error:
            log.debug("the daemon was not told: %s", error)

    def _say_again(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        for content in unsaid:
            self.say("took", content)

    def run(self) -> None:
        """Until the daemon is gone or says so."""
        self.say("ready")
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._ended:
            for fileno, _ in poll.poll(self._wait_s() * 1000):
                if fileno == self._wake:
                    os.eventfd_read(self._wake)
                else:
                    self._read()
            self._say_again()
            now_s = self._clock()
            for duty in self._duties:
                self._try(duty, "on_time", partial(duty.on_time, now_s))
            self._tell_report(now_s)
        for duty in self._duties:
            self._try(duty, "close", duty.close)

    def _read(self) -> None:
        while not self._ended:
            try:
                packet = self._channel.recv(MAX_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._ended = True
                return
            kind, content = parse_frame(packet, from_daemon=True)
            self.say("seen")
            self._ended = kind == "stop"
            for duty in self._duties:
                if kind == "reload":
                    self._try(duty, kind, partial(duty.configure, content))
                elif kind in ("occasion", "snapshot", "health"):
                    self._try(duty, kind, partial(duty.take, kind, content))

    def _try(self, duty: Duty, what: str, task: Task) -> None:
        try:
            task()
        except ThreadError as error:  # the daemon starts another process, which gets the settings anew
            log.error("notification: %s", error)  # noqa: TRY400 - one line for people
            self._ended = self._ended or what == "reload"
        except Exception as error:  # the supervisor of this process
            told = f"{type(error).__name__}: {error}"
            if self._failing.get((duty.name, what)) != told:
                self._failing[duty.name, what] = told
                log.exception("notification: the part %s has failed (%s)", duty.name, what)
        else:
            self._failing.pop((duty.name, what), None)

    def _wait_s(self) -> float:
        now_s = self._clock()
        due = [time_s for duty in self._duties if (time_s := duty.next_due_s()) is not None]
        if self._unsaid:
            due.append(now_s + _REPORT_S)
        if self._is_late:
            due.append(self._reported_s + _REPORT_S)
        return max(0.0, min([_LONGEST_WAIT_S, *(time_s - now_s for time_s in due)]))

    def _tell_report(self, now_s: float) -> None:
        found = {duty.name: dict(duty.report()) for duty in self._duties}
        for (name, what), told in self._failing.items():
            found[name]["troubles"] = [*found[name].get("troubles", ()), f"{name} has failed at {what}: {told}"]
        self._is_late = found != self._reported and now_s < self._reported_s + _REPORT_S
        if found != self._reported and not self._is_late:
            self._reported, self._reported_s = found, now_s
            self.say("report", found)
