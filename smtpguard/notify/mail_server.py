"""The local mail server that takes mails, by SMTP (RFC 5321): whoever answers as one has 30 s in all."""

import smtplib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP

from smtpguard.errors import GuardError
from smtpguard.hooks import Task
from smtpguard.notify.cut_off import CutOff
from smtpguard.notify.delivery import DeliveryError
from smtpguard.settings.notations import parse_server
from smtpguard.text import render_words

TOTAL_S = 30.0
_TIMEOUT_S = 10.0
_DONE = 250
_FORWARDED = 251
_FOR_GOOD = 500


class MailRefusedError(GuardError):
    """The server refuses the address or the mail for good."""


class MailDeferredError(GuardError):
    """The server does not take the address for now, or says nothing: whoever chose it may be why, it is no trouble."""


class MailUncertainError(GuardError):
    """The server was given the mail, and did not say what became of it."""


@contextmanager
def open_server(server: str) -> Iterator[smtplib.SMTP]:
    """A connection that is cut after TOTAL_S. Raises DeliveryError, and OSError, of which SMTPException is one."""
    host, port = parse_server(server)
    client = smtplib.SMTP(timeout=_TIMEOUT_S, local_hostname="localhost")
    with CutOff(TOTAL_S, lambda: client.sock):
        try:
            try:
                client.connect(host, port)
            except smtplib.SMTPException:
                raise  # these are OSErrors, too: somebody has answered
            except OSError as error:
                what = render_words(str(error.strerror or error), max_bytes=200)
                raise DeliveryError(f"no mail server at {host} port {port} (notify.smtp): {what}") from error
            yield client
            with suppress(OSError):
                client.quit()
        finally:
            client.close()


def hand_over(mail: EmailMessage, *, server: str, sender: str, to: str, begin: Task) -> str:
    """Hand over a mail that must not come twice, and say what came back.

    Args:
        mail: It, with all its headers.
        server: Address and port.
        sender: Where bounces go to.
        to: Whom it is for.
        begin: Called when the server will take it, before it gets it. What it raises ends the attempt.

    Raises:
        DeliveryError: It was not taken, for now.
        MailRefusedError: It will never be.
        MailDeferredError: It may be later, and this address alone is why not.
        MailUncertainError: It may have been taken.
    """
    try:
        with open_server(server) as client:
            client.ehlo_or_helo_if_needed()
            _expect(client.mail(sender), "the sender")
            try:
                answer = client.rcpt(to)
            except (OSError, smtplib.SMTPException) as error:  # the server may be asking one whom the address leads to
                raise MailDeferredError(explain(error)) from error
            _expect(answer, "the address", MailRefusedError, MailDeferredError)
            begin()
            try:
                answer = client.data(mail.as_bytes(policy=SMTP))
            except smtplib.SMTPDataError as error:
                answer = (error.smtp_code, _to_bytes(error.smtp_error))
            except (OSError, smtplib.SMTPException) as error:
                raise MailUncertainError(explain(error)) from error
            _expect(answer, "the mail", MailRefusedError)
    except (OSError, smtplib.SMTPException) as error:
        raise DeliveryError(explain(error)) from error
    return "the server took it"


def explain(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, answer = next(iter(error.recipients.values()))
        return render_words(f"{code} {answer!r}", max_bytes=200)
    return render_words(f"{type(error).__name__}: {error}", max_bytes=200)


def _expect(
    answer: tuple[int, bytes],
    what: str,
    forever: type[GuardError] = DeliveryError,
    for_now: type[GuardError] = DeliveryError,
) -> None:
    code, said = answer
    if code not in (_DONE, _FORWARDED):
        text = render_words(f"the mail server refuses {what}: {code} {said!r}", max_bytes=200)
        raise (forever if code >= _FOR_GOOD else for_now)(text)


def _to_bytes(answer: bytes | str) -> bytes:
    return answer if isinstance(answer, bytes) else answer.encode("utf-8", "replace")
