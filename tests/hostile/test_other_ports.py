"""Attack: a relay that listens on a port outside the list: 2587, 8025, 26. It is not counted; `doctor` gives a hint."""

import json
import sys

import pytest

from smtpguard.doctor.relays import MANY, RELAY_PORTS
from smtpguard.settings.load import read_shipped
from tests.support.host import INNOCENT, SPAMMER, Host

pytestmark = pytest.mark.kernel

SERVE = """
import socket, time
socks = []
for port in {ports}:
    sock = socket.socket()
    sock.bind(("0.0.0.0", port))
    sock.listen(200)
    socks.append(sock)
print("ready", flush=True)
time.sleep(600)
"""
HOLD = """
import os, socket, time
os.setuid({uid})
socks = [socket.create_connection(({to!r}, port), 5) for port in {ports} for _ in range({count})]
print("open", flush=True)
time.sleep(600)
"""


def hold(host: Host, uid: int, ports: list[int], count: int, to: str = "192.0.2.2") -> None:
    child = host.lab.start([sys.executable, "-c", HOLD.format(uid=uid, ports=ports, count=count, to=to)], inside=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"


def hint(host: Host) -> dict[str, str]:
    findings = json.loads(host.cli("doctor", "--json").stdout)["findings"]
    (found,) = (finding for finding in findings if finding["name"] == "other ports")
    return dict(found)


def test_doctor_names_who_has_many_sessions_there() -> None:
    ports = sorted(RELAY_PORTS)
    assert not RELAY_PORTS & read_shipped().ports
    with Host() as host:
        for net in (host.lab.peer, host.lab.host):
            child = host.lab.start([sys.executable, "-c", SERVE.format(ports=ports)], net=net)
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        hold(host, INNOCENT[1], ports, 2)
        hold(host, 0, [2587], MANY + 5)
        hold(host, SPAMMER[1], [8025], MANY + 5, to="127.0.0.1")
        assert hint(host)["level"] == "ok"
        hold(host, SPAMMER[1], [2587], MANY + 2)
        hold(host, 700_033, [2587], 3)  # their subordinate uid
        found = hint(host)
        assert found["level"] == "note"
        assert found["found"] == f"{SPAMMER[0]} has {MANY + 5} sessions to port 2587"
        assert "add 2587 to `ports`" in found["fix"]
        host.configure(ports=[25, 587, 2587])
        assert hint(host)["level"] == "ok"
