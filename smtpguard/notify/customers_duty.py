"""Customers are told of blocks by mail: some time after, unless a person has undone it meanwhile.

Whether, what and where is asked of the daemon at the moment of telling, as `why --customer` asks it: no letter holds a
text. A thread of its own asks and sends; the text is made by jinja2, in this process alone.
"""

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from smtpguard.daemon.outlet.frames import HelperSettings
from smtpguard.hooks import ClockS, Task
from smtpguard.kernel.capabilities import apply_capabilities
from smtpguard.kernel.lasting_thread import start_lasting
from smtpguard.model import NS
from smtpguard.notify.customer_book import CustomerBook, CustomerLetter
from smtpguard.notify.customer_sender import CustomerSender
from smtpguard.notify.helper import SayUp
from smtpguard.settings.notify import NotifySettings
from smtpguard.text import render_count

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 60.0
_SHOWN = 3
_NOBODY = "uid:"


class CustomersDuty:
    """The duty.

    Args:
        say: Tells the daemon.
        wake: Gives us a turn, from any thread.
        wall: Seconds since the epoch.

    Attributes:
        totals: Counts (kind, channel, result): sent, failed, given-up.
    """

    name = "customers"

    def __init__(self, say: SayUp, wake: Task, *, wall: ClockS = time.time) -> None:
        self._say = say
        self._wake = wake
        self._wall = wall
        self._settings = NotifySettings()
        self._book: CustomerBook | None = None
        self._sender: CustomerSender | None = None
        self._condition = threading.Condition()
        self._is_woken = False
        self._is_running = False
        self._trouble: str | None = None
        self._dropped = 0
        self.totals: Counter[tuple[str, str, str]] = Counter()

    def configure(self, settings: HelperSettings) -> None:
        """Take settings. Where customers are told no more, those who wait are not, either."""
        self._settings = settings.values["notify"]
        path = Path(settings.state_path)
        path = path.with_name(f"customers-{path.name}")
        is_on = self._settings.customers.enabled
        if self._book is None and (is_on or path.exists()):
            self._book = CustomerBook(str(path))
            if self._book.trouble:
                log.warning("notification: %s", self._book.trouble)
        if self._book is None:
            return
        if not is_on:
            self._drop_all("notify.customers was switched off")
        with self._condition:
            self._sender = (
                CustomerSender(self._book, self._settings, settings.control_socket, self.totals, wall=self._wall)
                if is_on
                else None
            )
        if is_on and not self._is_running:
            start_lasting("notify-customers", self._run)
            self._is_running = True
        self._rouse()

    def take(self, kind: str, content: Any) -> None:  # noqa: ANN401 - JSON values
        """Take an occasion; where nobody else keeps any, the daemon is told that it was taken."""
        if kind != "occasion":
            return
        if self._book is not None and self._settings.customers.enabled:
            try:
                self._consider(content, self._book)
            except sqlite3.Error as error:
                self._dropped += 1
                self._trouble = f"a customer may not be told: {error}"
        if not self._settings.has_channels:
            self._say("took", {"id": content["id"]})

    def next_due_s(self) -> float | None:
        """Never: the thread knows when."""
        return None

    def on_time(self, now_s: float) -> None:
        """Nothing is due here."""

    def report(self) -> Mapping[str, Any]:
        """How it fares."""
        if self._book is None or self._sender is None:
            return {}
        sent, waiting = sum(count for key, count in self.totals.items() if key[2] == "sent"), self._book.count_waiting()
        text = f"{sent} sent, {render_count(waiting, 'letter')} waiting"
        if self._dropped:
            text += f", {self._dropped} dropped"
        last = [f"{user} {outcome}" for user, outcome in self._book.list_outcomes(_SHOWN)]
        if last:
            text += f"; last: {', '.join(last)}"
        found = (self._book.trouble, self._trouble, self._sender.trouble)
        return {"text": text, "troubles": [told for told in found if told], "waiting": waiting}

    def close(self) -> None:
        """The end; what waits is in the file."""
        with self._condition:
            self._sender = None
            self._condition.notify()

    def _consider(self, occasion: Mapping[str, Any], book: CustomerBook) -> None:
        """A block that is really refused has its customer told later; the safety brake has nobody told who waits."""
        now_s = self._wall()
        if occasion["kind"] == "breaker" and occasion["brake"]["mode"] == "enforce" and occasion["brake"]["tripped"]:
            self._drop_all("the safety brake took hold")
        verdict = occasion.get("verdict")
        if occasion["kind"] != "incident-begins" or verdict is None:
            return
        user = str(occasion["user"])
        is_theirs = occasion["uid"] is not None and not user.startswith((_NOBODY, "@"))
        if (verdict["action"], verdict["mode"]) != ("block", "enforce") or not is_theirs:
            return
        begun_s = min(now_s, _read_begin(occasion))
        due_s = begun_s + self._settings.customers.delay_ns / NS
        letter = CustomerLetter(
            incident=str(occasion["key"]), uid=int(occasion["uid"]), user=user, begun_s=begun_s, due_s=due_s
        )
        if not book.add(letter):
            self._dropped += 1
            return
        self._trouble = None
        self._rouse()

    def _drop_all(self, outcome: str) -> None:
        try:
            count = 0 if self._book is None else self._book.drop_waiting(f"not told: {outcome}", self._wall())
        except sqlite3.Error as error:
            self._trouble = f"customers who were to be told: {error}"
            return
        if count:
            log.warning("notification: %s not told: %s", render_count(count, "customer"), outcome)

    def _rouse(self) -> None:
        with self._condition:
            self._is_woken = True
            self._condition.notify()

    def _run(self) -> None:
        apply_capabilities(())  # a thread has its own: whoever it starts has none
        while True:
            with self._condition:
                sender, self._is_woken = self._sender, False
            wait_s = _LONGEST_WAIT_S
            if sender is not None:
                wait_s = min(wait_s, sender.step())
                self._wake()
            with self._condition:
                if not self._is_woken and wait_s > 0:
                    self._condition.wait(wait_s)


def _read_begin(occasion: Mapping[str, Any]) -> float:
    """When the block began, seconds since the epoch."""
    blocks = occasion.get("blocks") or ()
    return datetime.fromisoformat(str(blocks[0]["since"] if blocks else occasion["time"])).timestamp()
