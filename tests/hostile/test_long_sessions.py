"""Attack 16: a few long sessions and tens of thousands of recipients: few connections, and not many bytes either.

Measured: what the `volume` rule sees of it, and of an honest user's attachments. It warns of the one only after more
recipients than the other has bytes for; docs/threats.md says so.
"""

import json
import sys
from typing import Any

import pytest

from tests.support.host import INNOCENT, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

VOLUME = {"name": "volume", "count": "bytes", "limit": 200_000_000, "window": "1h", "action": "warn"}
"""As it is shipped."""
SEND = """
import json, os, socket, sys, time
uid, sessions, mails, recipients, size, seconds = map(int, sys.argv[1:])
os.setuid(uid)
out = []
def talk(sock, lines, replies):
    sock.sendall(b"".join(lines))
    while replies:
        line = file.readline()
        if not line:
            raise SystemExit("the server hung up")
        replies -= line[3:4] == b" "
socks = []
for _ in range(sessions):
    sock = socket.create_connection(("192.0.2.2", 25), 10)
    file = sock.makefile("rb")
    talk(sock, [], 1)
    talk(sock, [b"EHLO x\\r\\n"], 1)
    socks.append((sock, file))
body = b"Subject: x\\r\\n\\r\\n" + (b"x" * 996 + b"\\r\\n") * (size // 998) + b"http://x.example/\\r\\n.\\r\\n"
deadline = time.monotonic() + seconds
sent = {"mails": 0, "recipients": 0}
while sent["mails"] < mails and (time.monotonic() < deadline or sent["recipients"] <= 1000):
    for sock, file in socks:
        names = [b"RCPT TO:<someone.%d@example.com>\\r\\n" % n for n in range(recipients)]
        talk(sock, [b"MAIL FROM:<a@b.example>\\r\\n", *names, b"DATA\\r\\n"], recipients + 2)
        talk(sock, [body], 1)
        sent["mails"] += 1
        sent["recipients"] += recipients
for sock, file in socks:  # struct tcp_info: tcpi_bytes_acked, tcpi_bytes_received, tcpi_data_segs_out
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    for name, place, width in (("acked", 120, 8), ("received", 128, 8), ("segments", 156, 4)):
        sent[name] = sent.get(name, 0) + int.from_bytes(info[place:place + width], "little")
print(json.dumps(sent))
"""


def send(
    host: Host, user: tuple[str, int], *, sessions: int, mails: int, recipients: int, size: int, seconds: int
) -> dict[str, Any]:
    words = [str(value) for value in (user[1], sessions, mails, recipients, size, seconds)]
    child = host.lab.start([sys.executable, "-c", SEND, *words], inside=True)
    text, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    found: dict[str, Any] = json.loads(text)
    return found


def test_what_the_shipped_rule_sees() -> None:
    with Host(rules=[VOLUME]) as host:
        host.start()
        honest = send(host, INNOCENT, sessions=1, mails=5, recipients=1, size=13_700_000, seconds=60)
        spam = send(host, SPAMMER, sessions=4, mails=10_000, recipients=100, size=300, seconds=3)
        each = spam["acked"] / spam["recipients"]
        print(
            f"five attachments of 10 MB: {honest['acked']} bytes, {honest['received']} received, "
            f"{honest['segments']} segments; spam: {spam['recipients']} recipients in 3 s, {each:.0f} bytes each, "
            f"{spam['received'] / spam['recipients']:.0f} received,"
            f" {spam['segments'] / spam['recipients']:.2f} segments"
            f"; the rule warns after {VOLUME['limit'] / each:.0f} recipients"
        )
        assert honest["mails"] == 5
        assert 65e6 < honest["acked"] < 75e6, "a third of what the rule lets pass in an hour"
        assert spam["recipients"] > 1000
        assert 20 < each < 60, "67,000 of them are as many bytes as one picture"
        assert spam["acked"] < honest["acked"]
        assert not host.events("EXCEEDED"), "bytes can't tell them apart"
        # What the peer says does: a reply for each recipient, and next to nothing for an attachment.
        assert spam["received"] / spam["recipients"] > 5
        assert honest["received"] < 5000
        rest = send(host, SPAMMER, sessions=1, mails=10, recipients=1, size=20_500_000, seconds=90)
        (told,) = wait_for(lambda: host.events("EXCEEDED"))
        assert rest["acked"] + spam["acked"] > VOLUME["limit"]
        assert (told["UID"], told["RULE"], told["ACTION"]) == (str(SPAMMER[1]), "volume", "warn")
        assert host.connect(SPAMMER).ok == 1, "it warns"
