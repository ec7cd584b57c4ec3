"""A mail to the administrator, by SMTP to the local server: never by a set-id program, which NoNewPrivileges forbids.

Headers are printable ASCII whatever a message holds, so that nothing can be put among them.
"""

import email.utils
import json
import smtplib
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.mail_server import explain, open_server
from smtpguard.notify.plain import to_plain
from smtpguard.notify.spool import Letter

_MAX_SUBJECT = 150


def render_mail(letter: Letter, to: str) -> EmailMessage:
    """The mail of a message: the same bytes whenever it is sent again, but for nothing.

    Args:
        letter: The message.
        to: Whom it is for: an address, or a login of this host.
    """
    message: dict[str, Any] = json.loads(letter.body)
    host = to_plain(str(message["host"])).replace("=?", "= ?")
    mail = begin_mail(
        sender=f"smtpguard <root@{host}>" if "." in host else "smtpguard <root>",
        to=to,
        subject=to_plain(f"[smtpguard {host}] {message['text']}"),
        name=f"{to_plain(letter.id)}@{host or 'localhost'}",
        made_s=letter.made_s,
    )
    mail.set_content("\n".join(_list_lines(message)) + "\n", cte="7bit")
    return mail


def begin_mail(*, sender: str, to: str, subject: str, name: str, made_s: float) -> EmailMessage:
    """A mail with its headers and nothing in it yet.

    Args:
        sender: Whom it is from.
        to: Whom it is for.
        subject: What it is about; of any length.
        name: Its own for ever: a name, an @ and a host.
        made_s: Seconds since the epoch.
    """
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = to
    # EmailMessage decodes what looks like an encoded word (RFC 2047, 2), and can't write what comes of a hostile one.
    mail["Subject"] = subject.replace("=?", "= ?")[:_MAX_SUBJECT]
    mail["Date"] = email.utils.formatdate(made_s)
    mail["Message-ID"] = f"<{name}>"
    mail["Auto-Submitted"] = "auto-generated"
    return mail


def _list_lines(message: dict[str, Any]) -> list[str]:
    lines = [to_plain(str(message["text"])), ""]
    held = message.get("held_back", {}).get("messages", ())
    lines += [f"Before this, held back: {to_plain(str(earlier['text']))}" for earlier in held]
    shown = {name: message[name] for name in ("incident", "why", "digest", "breaker", "condition") if name in message}
    lines += json.dumps(shown, indent=2, ensure_ascii=True).splitlines() if shown else []
    return [line[i : i + 900] for line in lines for i in range(0, max(1, len(line)), 900)]


class MailChannel:
    """The server, and whom the mails are for.

    Args:
        to: An address, or a login of this host.
        server: Its address and port.
    """

    type = "mail"

    def __init__(self, to: str, server: str) -> None:
        self._to = to
        self._server = server
        self.key = f"mail:{to}"
        self.name = f"mail to {to}"

    def wants(self, kind: str) -> bool:
        """All kinds."""
        return bool(kind)

    def send(self, letter: Letter) -> str:
        """Hand it to the server."""
        mail = render_mail(letter, self._to)
        try:
            with open_server(self._server) as client:
                client.send_message(mail, to_addrs=[self._to])
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryError(explain(error)) from error
        return "the server took it"
