"""Who has many sessions to ports on which relays listen, too, and which are not guarded: a way around `ports`.

Relays offer further ports because providers close the usual ones (Mailgun, SendGrid, Postmark, SMTP2GO, SparkPost:
2525; SMTP2GO and others: 8025, 2587, 2465; hosts: 26; LMTP by RFC 2033: 24). What speaks there need not be SMTP, so
this is a hint and no more: the operator knows. Whoever owns a server can listen on any port whatever.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from smtpguard.decode.netlink.sock_diag import Session
from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.text import render_user

RELAY_PORTS = frozenset({24, 26, 2465, 2526, 2587, 8025})
MANY = 10
"""Sessions at once. A site that sends by such a relay has one or two."""
MAX_SHOWN = 5
_MAPPED = bytes(10) + b"\xff\xff"


def check_relays(host: ExaminedHost) -> Iterator[Finding]:
    """Sessions of users to relays' other ports, now."""
    ports = RELAY_PORTS - host.settings.ports
    sessions: list[Session] = []
    if ports:
        with SockDiag() as diag:
            sessions = diag.read_sessions(ports)
    yield judge_relays(host, sessions)


def judge_relays(host: ExaminedHost, sessions: Iterable[Session]) -> Finding:
    """Whether somebody has many.

    Args:
        host: What is looked at.
        sessions: To ports that are not guarded.
    """
    name = "other ports"
    held: Counter[tuple[int, int]] = Counter()
    for session in sessions:
        if session.uid is not None and not _is_loopback(session.address):
            subject = subject_of(host.accounts, session.uid)
            if account_of(host.accounts, subject).standing not in ("root", "mta", "exempt"):
                held[subject.id, session.port] += 1
    many = [(uid, port, count) for (uid, port), count in held.most_common() if count >= MANY]
    if not many:
        return Finding(name=name, level="ok", found="nobody has many sessions to ports of relays that are not guarded")
    shown = [
        f"{render_user(uid, host.accounts.account(uid).name)} has {count} sessions to port {port}"
        for uid, port, count in many[:MAX_SHOWN]
    ]
    if len(many) > MAX_SHOWN:
        shown.append(f"and {len(many) - MAX_SHOWN} more")
    ports = sorted({port for _, port, _ in many})
    return Finding(
        name=name,
        level="note",
        found="; ".join(shown),
        means="relays listen there too; it is neither counted nor refused",
        fix=f"look at what speaks there; if it is SMTP, add {', '.join(map(str, ports))} to `ports`",
    )


def _is_loopback(address: bytes) -> bool:
    address = address.removeprefix(_MAPPED) if len(address) == 16 else address
    return address[:1] == b"\x7f" if len(address) == 4 else address == bytes(15) + b"\x01"
