"""Attack: keep others from being told of, by namespaces of one's own, hostile names, an account called like another."""

import json
import sys
from email import message_from_string
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from smtpguard.notify.urgency import FOR_ONE
from tests.e2e.test_notify_customers import PORT, start_mailbox
from tests.hostile.test_many_namespaces import NAMESPACES
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for
from tests.support.webhook import Receiver

pytestmark = [pytest.mark.kernel, pytest.mark.long]  # tests/unit/test_notification.py has its short forms

RULE = {"name": "burst", "count": "connections", "limit": 0, "window": "10m", "action": "block", "block": "10m"}
CONTAINERS = FOR_ONE - 1
"""Messages about all of them in an hour; the last of a user's is for a block that is really refused."""
EVIL = "=?utf8?b?w6n+?=\r\nBcc: a@b\x1b[2J\t*_<!channel>"
ACCOUNTS = [
    {"user": SPAMMER[0], "domain": EVIL, "domains": ["www.shop.example", "x\ty.example"], "package": "business",
     "reseller": "evil*", "contact": f"a@b.example\r\nBcc: {EVIL}", "language": "../../x"},
    {"user": INNOCENT[0], "domain": "shop.example", "package": "business", "contact": "owner@shop.example"},
    {"user": OTHER[0], "domain": "evil.example", "package": EVIL, "reseller": EVIL, "contact": "root@localhost"},
]  # fmt: skip
# A script as PHP and others name theirs on the command line, in a directory that anybody may write.
SENDER = """
import os, socket, sys
os.setgid({uid}); os.setuid({uid})
with socket.socket() as client:
    client.settimeout(1)
    try:
        client.connect(({peer!r}, 25))
    except OSError:
        pass
"""


def test_whoever_is_new_is_told_of_however_many_others_there_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "answer.json").write_text(json.dumps({"accounts": ACCOUNTS}))
    (tmp_path / "who").write_text(f"#!/bin/sh\nexec cat {tmp_path}/answer.json\n")
    (tmp_path / "who").chmod(0o755)
    script = tmp_path / "=?utf8?b?w6n+?=\x1b[2J.py"
    script.write_text(SENDER.format(uid=SPAMMER[1], peer=PEER4))
    mails = tmp_path / "mails"
    users = [{"match": {"packages": ["business"]}, "rules": {"burst": {"limit": 3}}}]
    with Host(rules=[RULE], sources=["bpf"], users=users, accounts=[str(tmp_path / "who")]) as host:
        receiver = Receiver(host)
        receiver.start()
        start_mailbox(host, mails)
        notify: dict[str, Any] = {"mail": "root@hoster.example", "smtp": f"{PEER4}:{PORT}", "digest": "none"}
        host.configure(notify={"webhooks": [receiver.webhook], "at_once": ["block", "throttle", "dry-run"], **notify})
        host.start()
        control = f"{host.lab.directory}/control.sock"
        wait_for(lambda: "command: 3 accounts" in str(ask(control, "status")["status"]["parts"]))
        done = host.lab.run([sys.executable, "-c", NAMESPACES, str(OTHER[1]), "60"], inside=True)
        assert done.returncode == 0, done.stderr
        told = wait_for(lambda: found if len(found := receiver.taken()) == CONTAINERS else None)
        for message in told:
            assert message["incident"]["user"] == f"uid:{OTHER[1]}@container"
            assert (message["incident"]["uid"], message["why"]["commands"]) == (None, [])
        # Nobody's limit is larger for a package of a reseller's own that is called like the host's.
        done = host.lab.run([sys.executable, str(script)], inside=True)
        assert done.returncode == 0, done.stderr
        spammers = wait_for(lambda: receiver.taken()[CONTAINERS:])[0]
        assert spammers["incident"]["user"] == SPAMMER[0]
        assert spammers["incident"]["domain"] in (None, "www.shop.example"), "what is no domain is none"
        assert host.connect(INNOCENT, 8).ok == 3
        innocents = wait_for(lambda: receiver.taken()[CONTAINERS + 1 :])[0]
        assert innocents["incident"]["user"] == INNOCENT[0]
        assert innocents["incident"]["domain"] == "shop.example"
        lines = wait_for(lambda: found if len(found := mails.read_text().splitlines()) == CONTAINERS + 2 else None)
        for line in lines:
            sent = json.loads(line)
            assert sent["to"] == ["root@hoster.example"]
            mail = message_from_string(sent["mail"], policy=default)
            assert mail["Bcc"] is None
            assert str(mail["Subject"]).isprintable()
        for name in ("www.shop.example", "owner@www.shop.example"):
            done = host.cli("unblock", name)
            assert done.returncode == 1
            assert SPAMMER[0] in done.stderr
            assert INNOCENT[0] in done.stderr
        assert not ask(control, "status")["status"]["troubles"]
        for words in (("status", "-v"), ("incidents",), ("events",), ("why", SPAMMER[0])):
            shown = host.cli(*words).stdout
            assert "\x1b" not in shown
        assert host.stop() == 0
