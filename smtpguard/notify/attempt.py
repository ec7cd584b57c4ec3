"""`smtpguard notify test`: one message of each kind is sent for real, and what came back is told."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

from smtpguard.errors import GuardError
from smtpguard.logline import render_time
from smtpguard.notify.body import render_body
from smtpguard.notify.channels import make_channels
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.heartbeat import send_heartbeat
from smtpguard.notify.mail_server import MailRefusedError, MailUncertainError, hand_over
from smtpguard.notify.samples import make_customer_sample, make_sample
from smtpguard.notify.spool import Letter
from smtpguard.settings.notify import Kind, NotifySettings

CUSTOMER: Literal["customer"] = "customer"
"""A kind of its own: it goes to no channel of notify."""
_BLOCK_NS = 1800 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of a message.

    Attributes:
        channel: By which way.
        kind: Of what; "GET" for the heartbeat.
        is_sent: Whether it was taken.
        answer: What came back.
    """

    channel: str
    kind: str
    is_sent: bool
    answer: str


def send_samples(settings: NotifySettings, kinds: Sequence[Kind | Literal["customer"]]) -> Iterator[Attempt]:
    """Send them, one after another, on each channel that wants them.

    Raises:
        GuardError: Nobody is to be told anything.
    """
    channels = make_channels(settings)
    if CUSTOMER in kinds:
        yield _send_customer_sample(settings)
        if len(kinds) == 1:
            return
    if not channels and settings.heartbeat is None:
        raise GuardError("nobody is notified", fix="set notify.webhooks, notify.urls, notify.mail or notify.hook")
    for kind in (kind for kind in kinds if kind != CUSTOMER):
        now_ns = time.time_ns()
        now, until = render_time(now_ns), render_time(now_ns + _BLOCK_NS)
        sample = make_sample(kind, now_s=now_ns / 1e9, now=now, until=until)
        body = render_body(sample, host=os.uname().nodename, share=settings.share)
        for channel in channels:
            if not channel.wants(kind):
                continue
            letter = Letter(
                id=sample["id"], channel=channel.key, thread="test", kind=kind, body=body, made_s=now_ns / 1e9
            )
            yield _try(channel.name, kind, partial(channel.send, letter))
    if settings.heartbeat is not None:
        yield _try("heartbeat", "GET", partial(send_heartbeat, settings.heartbeat.url))


def _send_customer_sample(settings: NotifySettings) -> Attempt:
    """What a customer would get, to the operator: no customer ever gets a test.

    Raises:
        GuardError: Nobody is there to get it.
    """
    wanted, to = settings.customers, settings.mail
    if wanted.sender is None or to is None:
        key = "notify.mail" if to is None else "notify.customers.from"
        raise GuardError(
            f"a sample of a customer's mail needs {key}", fix="it goes to notify.mail, never to a customer"
        )
    from smtpguard.notify.customer_mail import render_customer_mail
    from smtpguard.report.customer_text import render_customer_text

    now_ns = time.time_ns()
    values = make_customer_sample(os.uname().nodename, render_time(now_ns), render_time(now_ns + _BLOCK_NS))
    text = render_customer_text(values, (wanted.language,), {"template": wanted.template})
    text = replace(text, subject=f"TEST: {text.subject}", body=f"TEST, nothing has happened.\n\n{text.body}")
    name = f"test-customer-{now_ns}"
    mail = render_customer_mail(text, sender=wanted.sender, to=to, name=name, made_s=now_ns / 1e9)
    send = partial(hand_over, mail, server=settings.smtp, sender=wanted.sender, to=to, begin=_nothing)
    return _try(f"customers, a sample to {to}", CUSTOMER, send)


def _nothing() -> None:
    """A test may come twice."""


class _Send(Protocol):
    def __call__(self) -> str: ...


def _try(channel: str, kind: str, send: _Send) -> Attempt:
    try:
        return Attempt(channel=channel, kind=kind, is_sent=True, answer=send())
    except (DeliveryError, MailRefusedError, MailUncertainError) as error:
        return Attempt(channel=channel, kind=kind, is_sent=False, answer=str(error))
