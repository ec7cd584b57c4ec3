"""Sends the letters to customers that are due: asks the daemon whether, what and where, then hands the mail over.

Bounds: 10 mails an hour in all, 3 a day about one user, 5 a day to one mailbox, whatever addresses tenants choose.
"""

import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smtpguard.control.client import ask
from smtpguard.errors import UNREADABLE, GuardError
from smtpguard.hooks import ClockS
from smtpguard.model import NS
from smtpguard.notify.contact_address import find_unfit, fold_address
from smtpguard.notify.customer_book import CustomerBook, CustomerLetter, Result, SentMail, Whom
from smtpguard.notify.customer_mail import render_customer_mail
from smtpguard.notify.customer_verdict import (
    LATEST_S,
    TOLD_STATES,
    UNDONE,
    find_doubt,
    find_objection,
    find_undoing,
    list_recipients,
)
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.mail_server import MailDeferredError, MailRefusedError, MailUncertainError, hand_over
from smtpguard.notify.metric_families import CUSTOMER
from smtpguard.notify.retry import next_pause
from smtpguard.report.why import build_why
from smtpguard.resources import OWN_FILES
from smtpguard.settings.notify import NotifySettings
from smtpguard.text import render_words

if TYPE_CHECKING:
    from smtpguard.report.customer_text import CustomerText

log = logging.getLogger(__name__)

PER_HOUR = 10
PER_USER_A_DAY = 3
PER_MAILBOX_A_DAY = 5
_HOUR_S, _DAY_S = 3600.0, 86_400.0
_KEEP_S = 40 * _DAY_S
_ASK_S = 20.0
_NEVER_S = 3600.0
_DEFERRED_S = 1800.0
"""Whoever chose an address that is not taken for now makes no alarm of it: two attempts an hour."""


class Ask(Protocol):
    """Asks the daemon, see control.client.ask."""

    def __call__(self, socket_path: str, verb: str, timeout_s: float = ..., **args: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        """The answer. Raises GuardError."""
        ...


class CustomerSender:
    """Sends them, in one thread.

    Args:
        book: What waits and what was sent.
        settings: From whom, by which server.
        control_socket: Where the daemon answers.
        totals: Counts (kind, channel, result).
        wall: Seconds since the epoch.
        ask: Asks the daemon.
        own_files: Where an administrator's templates are.

    Attributes:
        trouble: What keeps customers from being told; None if nothing does.
    """

    def __init__(
        self,
        book: CustomerBook,
        settings: NotifySettings,
        control_socket: str,
        totals: Counter[tuple[str, str, str]],
        *,
        wall: ClockS = time.time,
        ask: Ask = ask,
        own_files: Path = OWN_FILES,
    ) -> None:
        self._book = book
        self._settings = settings
        self._control_socket = control_socket
        self._totals = totals
        self._wall = wall
        self._ask_daemon = ask
        self._own_files = own_files
        self._pauses: dict[str, float] = {}
        self._note_due_s = 0.0
        self._tidy_due_s = 0.0
        self.trouble: str | None = None

    def step(self) -> float:
        """Do what is due; seconds until something is again."""
        try:
            return self._step()
        except sqlite3.Error as error:
            self.trouble = f"customers are not told: {error}"
            return _HOUR_S / 60

    def _step(self) -> float:
        now_s = self._wall()
        if not 0 < self._tidy_due_s - now_s <= _HOUR_S:  # in more than an hour: the clock was set back
            self._tidy_due_s = now_s + _HOUR_S
            self._book.believe_clock(now_s)
            self._book.forget_before(now_s - _KEEP_S)
        if now_s >= self._note_due_s:
            self._note(now_s)
        letter = self._book.find_next()
        if letter is None:
            self.trouble = None
            return _NEVER_S
        # A wall clock that was set back leaves nobody waiting for longer than was said.
        longest_s = max(self._settings.customers.delay_ns / NS, _HOUR_S)
        if letter.due_s > now_s + longest_s:
            self._book.postpone(letter.incident, now_s + longest_s)
        elif letter.due_s <= now_s:
            self._tell(letter, now_s)
            return 0.0
        return min(longest_s, letter.due_s - now_s)

    def _tell(self, letter: CustomerLetter, now_s: float) -> None:
        times = self._book.list_times(now_s - _HOUR_S)
        if len(times) >= PER_HOUR and now_s - letter.begun_s <= LATEST_S:
            self._book.postpone(letter.incident, times[0] + _HOUR_S + 1)
            return
        try:
            outcome = self._try(letter, now_s)
        except GuardError as error:  # the daemon, the template or the mail server: tried again
            self._failed(letter, str(error), now_s)
            return
        except UNREADABLE as error:  # a daemon of before an update, which answers in another way
            self._failed(letter, f"the guard's answer can't be read: {type(error).__name__}: {error}", now_s)
            return
        if outcome is None:  # the hour's room is used up, or an address is not taken for now
            return
        self._pauses.pop(letter.incident, None)
        self.trouble = None
        self._book.finish(letter.incident, outcome, now_s)
        log.info("notification: %s %s", letter.user, outcome)
        self._note(now_s)

    def _try(self, letter: CustomerLetter, now_s: float) -> str | None:
        """Tell whoever has not been told of it, and say what came of it; None where somebody has to wait."""
        user = f"uid:{letter.uid}"
        objection = find_objection(letter, now_s, self._ask("status")["status"])
        if objection is None:
            changes = self._ask("events", user=user, kinds=[*UNDONE], since_ns=round(letter.begun_s * NS))
            objection = "more has happened than is shown" if changes["has_more"] else find_undoing(changes["items"])
        if objection is None:
            answer = self._ask("why", user=user)
            why = build_why(answer["live"], answer["past"], answer["name"], standing=answer.get("standing"))
            objection = find_doubt(letter, why)
        if objection is not None:
            return f"not told: {objection}"
        from smtpguard.report.customer_text import write_customer_text  # with jinja2: where somebody is told at all

        text = write_customer_text(why, os.uname().nodename, own_files=self._own_files)
        if text.state not in TOLD_STATES:
            return "not told: nothing was refused"
        outcomes, is_deferred = [], False
        for whom, address in list_recipients(why, self._settings.customers.also):
            if (done := self._book.find_result(letter.incident, whom)) is not None:
                outcomes.append(f"{whom} {done}")
                continue
            if (unfit := self._find_unfit(letter, whom, address, now_s, why["account"])) is not None or address is None:
                outcomes.append(f"{whom} not told: {unfit}")
                continue
            times = self._book.list_times(now_s - _HOUR_S)
            if len(times) >= PER_HOUR:
                self._book.postpone(letter.incident, times[0] + _HOUR_S + 1)
                return None
            outcome = self._send(letter, whom, address, text, now_s)
            is_deferred = is_deferred or outcome is None
            outcomes.append(outcome or "")
        if is_deferred:
            self._book.postpone(letter.incident, now_s + _DEFERRED_S)
            return None
        return ", ".join(outcomes)

    def _find_unfit(
        self, letter: CustomerLetter, whom: Whom, address: str | None, now_s: float, account: Mapping[str, Any]
    ) -> str | None:
        """Why somebody is not written to."""
        unfit = find_unfit(address, os.uname().nodename)
        if unfit is not None or address is None:
            return unfit
        day_s = now_s - _DAY_S
        if self._book.count_about(day_s, uid=letter.uid, whom=whom) >= PER_USER_A_DAY:
            return f"told {PER_USER_A_DAY} times in a day already"
        # Others who name a mailbox as theirs keep nobody from being told at an address of their own domain.
        is_own = address.rpartition("@")[2].lower() in (account["domain"], *account["domains"])
        count = 0 if is_own else self._book.count_to(day_s, mailbox=fold_address(address), whom=whom)
        if count >= PER_MAILBOX_A_DAY:
            return f"{PER_MAILBOX_A_DAY} mails in a day went there already"
        return None

    def _send(self, letter: CustomerLetter, whom: Whom, address: str, text: "CustomerText", now_s: float) -> str | None:
        """Hand it over and say what came of it; None where the address is not taken for now. Raises DeliveryError."""
        sender = self._settings.customers.sender or ""
        name = f"customer-{letter.incident}-{whom}"
        mail = render_customer_mail(text, sender=sender, to=address, name=name, made_s=now_s)

        def begin() -> None:
            self._book.begin_mail(letter, whom, address, fold_address(address), now_s)

        try:
            hand_over(mail, server=self._settings.smtp, sender=sender, to=address, begin=begin)
        except MailDeferredError as error:
            self._count("failed")
            log.debug("notification: %s: %s", letter.user, error)
            return None
        except DeliveryError:
            self._book.end_mail(letter.incident, whom, None)
            self._count("failed")
            raise
        except MailRefusedError as error:
            if self._book.find_result(letter.incident, whom) is None:
                begin()
            self._end(letter, whom, "refused")
            self._count("given-up")
            return f"{whom} not told: {error}"
        except MailUncertainError as error:
            self._end(letter, whom, "perhaps")
            self._count("failed")
            return f"{whom} perhaps told at {address}: {error}"
        self._end(letter, whom, "sent")
        self._count("sent")
        return f"{whom} told at {address}"

    def _end(self, letter: CustomerLetter, whom: Whom, result: Result) -> None:
        self._book.end_mail(letter.incident, whom, result)

    def _failed(self, letter: CustomerLetter, why: str, now_s: float) -> None:
        age_s = max(0.0, now_s - letter.begun_s)
        why = render_words(why, max_bytes=300)
        if age_s > LATEST_S:
            self._count("given-up")
            self._book.finish(letter.incident, f"not told: {why}", now_s)
            return
        if self.trouble is None:
            log.warning("notification: a customer could not be told: %s; it is tried again for a day", why)
        self.trouble = f"customers can't be told: {why}; tried again"
        pause_s = next_pause(self._pauses.get(letter.incident), age_s)
        self._pauses[letter.incident] = pause_s
        self._book.postpone(letter.incident, now_s + pause_s)

    def _note(self, now_s: float) -> None:
        """Have the history keep who was told; where the daemon can't, a minute later."""
        self._note_due_s = now_s + _HOUR_S / 60
        try:
            for mail in self._book.list_unnoted(now_s - _DAY_S):
                self._ask("told", **_describe(mail))
                self._book.note(mail)
        except GuardError as error:
            log.debug("who was told is not in the history yet: %s", error)

    def _ask(self, verb: str, **args: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        return self._ask_daemon(self._control_socket, verb, _ASK_S, **args)

    def _count(self, result: str) -> None:
        self._totals[(*CUSTOMER, result)] += 1


def _describe(mail: SentMail) -> Mapping[str, Any]:
    return {
        "user": f"uid:{mail.uid}",
        "to": mail.address,
        "whom": mail.whom,
        "result": mail.result,
        "incident": mail.incident,
    }
