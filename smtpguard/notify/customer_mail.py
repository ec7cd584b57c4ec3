"""The mail to a customer or their reseller: headers that nothing can be put among, and the text of customer_text.py.

What a tenant chose in it, a login or a domain, is made visible by the template already.
"""

from email.message import EmailMessage

from smtpguard.notify.mail import begin_mail
from smtpguard.notify.plain import to_plain
from smtpguard.report.customer_text import CustomerText


def render_customer_mail(text: CustomerText, *, sender: str, to: str, name: str, made_s: float) -> EmailMessage:
    """The mail.

    Args:
        text: What it says.
        sender: The operator's address.
        to: An address that may be written to, see contact_address.py.
        name: Its own for ever.
        made_s: Seconds since the epoch.
    """
    name = f"{to_plain(name)}@{sender.rpartition('@')[2]}"
    mail = begin_mail(sender=sender, to=to, subject=_mend(text.subject), name=name, made_s=made_s)
    mail.set_content(_mend(text.body), charset="utf-8", cte="quoted-printable")
    return mail


def _mend(text: str) -> str:
    """Without lone surrogates, which no mail can have."""
    return text.encode("utf-8", "replace").decode("utf-8")
