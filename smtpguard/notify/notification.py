"""Messages to people: what is told at once, what goes into the summary, and what has to wait.

At once: what `notify.at_once` names, one message an incident and kind, and what concerns the guard itself; 30 an hour
in all, of which some places are kept for the guard. What had no room is named in the next message. All of it is in the
spool before the daemon hears that it was taken.
"""

import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smtpguard.daemon.outlet.frames import HelperSettings
from smtpguard.hooks import ClockS, Task
from smtpguard.notify import digest, held, urgency
from smtpguard.notify.body import render_body
from smtpguard.notify.channels import MakeChannels, make_channels
from smtpguard.notify.delivery import Delivery
from smtpguard.notify.helper import SayUp
from smtpguard.notify.spool import Letter, Spool
from smtpguard.notify.texts import render_text
from smtpguard.settings.notify import NotifySettings

log = logging.getLogger(__name__)

_KEEP_TOLD_S = 40 * 86_400.0
_TIDY_S = 600.0
_KEPT_IN_MEMORY = 512


class Notification:
    """The duty.

    Args:
        say: Tells the daemon.
        wake: Gives us a turn, from any thread.
        make: Makes channels.
        wall: Seconds since the epoch.
        clock: Monotonic seconds.

    Attributes:
        totals: Counts (kind, type of channel, result): sent, failed, given-up.
    """

    name = "messages"

    def __init__(
        self,
        say: SayUp,
        wake: Task,
        *,
        make: MakeChannels = make_channels,
        wall: ClockS = time.time,
        clock: ClockS = time.monotonic,
    ) -> None:
        self._say = say
        self._wake = wake
        self._make = make
        self._wall = wall
        self._clock = clock
        self._settings = NotifySettings()
        self._spool: Spool | None = None
        self._deliveries: dict[str, Delivery] = {}
        self._untaken: list[Mapping[str, Any]] = []
        self._tidy_s = 0.0
        self._host = os.uname().nodename
        self.totals: Counter[tuple[str, str, str]] = Counter()

    def configure(self, settings: HelperSettings) -> None:
        """Take settings: whoever is new is told from now on, whoever is gone no more."""
        self._settings = settings.values["notify"]
        if self._settings.has_channels and self._spool is None:
            path = Path(settings.state_path)
            self._spool = Spool(str(path.with_name(f"notify-{path.name}")))
            if self._spool.trouble:
                log.warning("notification: %s", self._spool.trouble)
        if self._spool is None:
            return
        channels = {channel.key: channel for channel in self._make(self._settings)}
        for delivery in self._deliveries.values():  # even the same one may have another secret or other kinds
            delivery.close()
        self._spool.keep_channels(channels)
        self._deliveries = {}
        for key, channel in channels.items():
            self._deliveries[key] = delivery = Delivery(
                channel, self._spool, totals=self.totals, changed=self._wake, clock=self._clock, wall=self._wall
            )
            delivery.start()
        self._tidy()

    def take(self, kind: str, content: Any) -> None:  # noqa: ANN401 - JSON values
        """Take an occasion."""
        if kind == "occasion" and self._spool is None:
            self._say("took", {"id": content["id"]})  # nobody is to be told
        elif kind == "occasion":
            if len(self._untaken) < _KEPT_IN_MEMORY:
                self._untaken.append(content)
            self._keep_untaken()

    def next_due_s(self) -> float | None:
        """When the summary is due, or a full disk may have room again."""
        if self._spool is None:
            return None
        wait_s = _TIDY_S
        if self._settings.digest != "none":
            wait_s = min(wait_s, max(1.0, self._next_digest() - self._wall()))
        return self._clock() + (min(wait_s, 5.0) if self._untaken else wait_s)

    def on_time(self, now_s: float) -> None:
        """Look whether anything is due."""
        if self._spool is None:
            return
        self._keep_untaken()
        if now_s >= self._tidy_s + _TIDY_S:
            self._tidy()
        if self._settings.digest != "none" and self._wall() >= self._next_digest():
            self._send_digest()

    def report(self) -> Mapping[str, Any]:
        """How it fares."""
        if self._spool is None:
            return {}
        troubles = [told for delivery in self._deliveries.values() if (told := delivery.trouble())]
        if self._spool.trouble:
            troubles.append(self._spool.trouble)
        text = ", ".join(delivery.report() for delivery in self._deliveries.values())
        if self._spool.dropped:
            text += f", {self._spool.dropped} dropped"
        return {"text": text, "troubles": troubles, "waiting": self.count_waiting()}

    def count_waiting(self) -> int:
        """Messages that wait to be sent."""
        return 0 if self._spool is None else self._spool.count_waiting()

    def close(self) -> None:
        """The end; what waits is in the file."""
        for delivery in self._deliveries.values():
            delivery.close()

    # -- what becomes of an occasion ---------------------------------------------------------------------------------

    def _keep_untaken(self) -> None:
        """Put what has come into the file; a disk that is full is tried again later."""
        while self._untaken:
            occasion = self._untaken[0]
            try:
                self._keep(occasion)
            except sqlite3.Error as error:
                # A disk that is full: it waits here, and so does what comes after it.
                if self._spool is not None:
                    self._spool.trouble = f"the spool can't be written: {error}"
                return
            except Exception:  # our mistake: it must not keep all others from being told
                self._let_go(occasion)
                raise
            if self._spool is not None and (self._spool.trouble or "").startswith("the spool"):
                self._spool.trouble = None
            self._let_go(occasion)

    def _let_go(self, occasion: Mapping[str, Any]) -> None:
        del self._untaken[0]
        self._say("took", {"id": occasion["id"]})

    def _keep(self, occasion: Mapping[str, Any]) -> None:
        spool = self._open_spool()
        if spool.was_told(occasion["id"]):
            return
        sums = spool.read_fact("digest") or digest.begin_sums(self._wall())
        urgency.count(sums, occasion)
        told: dict[str, bool] = {occasion["id"]: False}
        facts: dict[str, object] = dict(urgency.find_changes(occasion, self._settings.at_once))
        if "incident" in occasion:
            facts["going"] = going = spool.read_fact("going") or {}
            digest.keep_going(going, occasion, self._wall())
        messages: list[Letter] = []
        if urgency.is_urgent(occasion, self._settings.at_once, spool):
            if name := urgency.name_thread(occasion):
                told[name] = False
            if not (wanted := self._find_wanted(occasion["kind"])):
                pass  # nobody hears of it: it uses up nobody's room
            elif urgency.has_room(occasion, spool, self._wall()):
                told |= {occasion["id"]: True, **dict.fromkeys(urgency.name_marks(occasion), False)}
                messages = [self._make_message(occasion, key, facts) for key in wanted]
            else:
                for key in wanted:
                    self._hold(occasion, key, facts)
        spool.add(messages, told=told, facts={"digest": sums, **facts}, now_s=self._wall())
        for delivery in self._deliveries.values():
            delivery.wake()

    def _find_wanted(self, kind: str) -> list[str]:
        return [key for key, delivery in self._deliveries.items() if delivery.channel.wants(kind)]

    def _make_message(self, occasion: Mapping[str, Any], key: str, facts: dict[str, object]) -> Letter:
        all_held = self._read_held(facts)
        lines, count = held.show_lines(all_held[key], occasion["id"])
        share = self._settings.share
        body = render_body(occasion, host=self._host, share=share, held=lines, held_count=count)
        all_held[key] = held.name(all_held[key])
        return Letter(
            id=occasion["id"],
            channel=key,
            thread=occasion.get("key", occasion["kind"]),
            kind=occasion["kind"],
            body=body,
            made_s=self._wall(),
        )

    def _hold(self, occasion: Mapping[str, Any], key: str, facts: dict[str, object]) -> None:
        shown = {name: occasion[name] for name in ("id", "kind", "time")}
        shown["text"] = render_text(occasion, self._settings.share)
        all_held = self._read_held(facts)
        all_held[key] = held.hold(all_held[key], shown, occasion)

    def _send_held(self) -> None:
        """Send what was held back and that no message has named since, as soon as there is room."""
        facts: dict[str, object] = {}
        spool, all_held = self._open_spool(), self._read_held(facts)
        for key, kept in list(all_held.items()):
            occasion = kept.get("newest")
            if occasion is not None and urgency.has_room(occasion, spool, self._wall()):
                message = self._make_message(occasion, key, facts)
                told = {occasion["id"]: True, **dict.fromkeys(urgency.name_marks(occasion), False)}
                spool.add([message], told=told, facts=facts, now_s=self._wall())
                self._deliveries[key].wake()

    def _read_held(self, facts: dict[str, object]) -> dict[str, held.Held]:
        """What was held back, by channel, as part of what is kept next."""
        if not isinstance(found := facts.get("held back"), dict):
            before = self._open_spool().read_fact("held back") or {}
            facts["held back"] = found = {key: before.get(key) or held.begin_held() for key in self._deliveries}
        return found

    # -- the summary -------------------------------------------------------------------------------------------------

    def _next_digest(self) -> float:
        sums = self._open_spool().read_fact("digest")
        is_weekly = self._settings.digest == "weekly"
        return digest.next_digest(sums["since"] if sums else self._wall(), is_weekly=is_weekly)

    def _send_digest(self) -> None:
        spool, now_s = self._open_spool(), self._wall()
        sums, going = spool.read_fact("digest"), spool.read_fact("going") or {}
        digest.forget_lost(going, now_s)
        facts: dict[str, object] = {"digest": digest.begin_sums(now_s)}
        name, messages, all_held = f"digest-{int(now_s)}", [], self._read_held(facts)
        for key in self._find_wanted("digest"):
            unnamed = all_held[key]["unnamed"]
            if digest.is_empty(sums, going, unnamed) and self._settings.heartbeat is not None:
                continue  # that the guard lives is known
            text, shown = digest.show_digest(sums, going, unnamed, now_s, self._settings.share)
            occasion = {"id": name, "kind": "digest", "time": shown["until"], "what": text, "digest": shown}
            messages.append(self._make_message(occasion, key, facts))
            all_held[key]["unnamed"] = 0
        try:
            spool.add(messages, told={name: True} if messages else {}, facts=facts, now_s=now_s)
        except sqlite3.Error as error:
            spool.trouble = f"the spool can't be written: {error}"
            return
        for delivery in self._deliveries.values():
            delivery.wake()

    def _tidy(self) -> None:
        self._tidy_s = self._clock()
        spool, now_s = self._open_spool(), self._wall()
        spool.believe_clock(now_s)
        self._send_held()
        spool.forget_before(now_s - _KEEP_TOLD_S)
        sums = spool.read_fact("digest") or digest.begin_sums(now_s)
        spool.add(facts={"digest": {**sums, "since": min(sums["since"], now_s)}})

    def _open_spool(self) -> Spool:
        if self._spool is None:
            raise RuntimeError("there are no settings yet")
        return self._spool
