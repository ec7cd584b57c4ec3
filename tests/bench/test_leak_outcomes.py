"""By how much rules are exceeded that count what became of connections: failures and bytes are known after the fact.

The real daemon, a tenant's program, a new user for each trial. `status` and docs/bpf.md say by what they are bounded;
here it is measured, in attempts and in what a session sends in a second.
"""

import itertools
import json
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from smtpguard.demo.lab import PEER4
from tests.support.host import CLIENT, Host

pytestmark = [pytest.mark.bench, pytest.mark.kernel]

NOBODY_LISTENS, DISCARD = 26, 27
LIMIT = 10
TRIALS = 7
RATES = {"100/s": (100, 60), "1,000/s": (1000, 300), "full speed": (0, 2000)}
LIMIT_BYTES = 10_000_000
FIRST_UID = 61300
SERVER = f"""
import socket, threading
def discard(peer):
    try:
        while peer.recv(1 << 20): pass
    except OSError: pass
server = socket.create_server(("0.0.0.0", {DISCARD}), backlog=64)
print("ready", flush=True)
while True:
    threading.Thread(target=discard, args=[server.accept()[0]], daemon=True).start()
"""
SENDER = f"""
import os, socket, sys, time
uid, sessions, per_s = map(int, sys.argv[1:])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
peers = [socket.create_connection(("{PEER4}", {DISCARD})) for _ in range(sessions)]
block, sent, begun = bytes(1 << 16), 0, time.monotonic()
try:
    while time.monotonic() < begun + 20:
        for peer in peers:
            sent += peer.send(block)
        if per_s:
            time.sleep(max(0.0, begun + sent / per_s - time.monotonic()))
except OSError: pass
print(sent, time.monotonic() - begun)
"""


def rule(count: str, limit: int) -> dict[str, Any]:
    return {"name": "limit", "count": count, "limit": limit, "window": "1h", "action": "block", "block": "1h"}


@pytest.fixture(scope="module")
def uids() -> Iterator[int]:
    return itertools.count(FIRST_UID)


def spread(values: list[float]) -> str:
    return f"{statistics.median_low(values):.2f} [{min(values):.2f}..{max(values):.2f}]"


def test_failures_beyond_the_limit(uids: Iterator[int]) -> None:
    calm = {"blocks": 100_000, "per": "1h"}
    with Host(sources=["bpf"], ports=[NOBODY_LISTENS], rules=[rule("failures", LIMIT)], breaker=calm) as host:
        host.start()
        for speed, (rate, count) in RATES.items():
            beyond: list[float] = []
            for _ in range(TRIALS):
                words = ["connect", "--uid", str(next(uids)), "--count", str(count), "--rate", str(rate)]
                child = host.lab.start([*CLIENT, *words, "--port", str(NOBODY_LISTENS), PEER4], inside=True)
                text, _ = child.communicate(timeout=120)
                found = json.loads(text)
                assert found["errors"]["EPERM"] > 0, found
                beyond.append(found["errors"]["ECONNREFUSED"] - LIMIT)
            print(f"\nbpf, failures rule, {speed:>10}: {spread(beyond)} beyond {LIMIT} in {TRIALS} trials", end="")
            assert min(beyond) >= 0, "nobody is refused before the limit"
            if rate:
                assert statistics.median_low(beyond) <= 3 * 0.025 * rate + 3


@pytest.mark.parametrize(("sessions", "per_s"), [(1, 5_000_000), (8, 20_000_000), (1, 0)])
def test_bytes_beyond_the_limit(uids: Iterator[int], sessions: int, per_s: int) -> None:
    with Host(sources=["bpf"], ports=[DISCARD], rules=[rule("bytes", LIMIT_BYTES)]) as host:
        server = host.lab.start([sys.executable, "-c", SERVER], net=host.lab.peer)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        host.start()
        seconds: list[float] = []
        for _ in range(3):
            words = [sys.executable, "-c", SENDER, str(next(uids)), str(sessions), str(per_s)]
            text, _ = host.lab.start(words, inside=True).communicate(timeout=60)
            sent, took = map(float, text.split())
            seconds.append((sent - LIMIT_BYTES) / (sent / took))
        pace = f"{per_s / 1e6:.0f} MB/s" if per_s else f"full speed, {sent / took / 1e6:.0f} MB/s"
        print(f"\nbpf, bytes rule, {sessions} session(s) at {pace}: {spread(seconds)} s of it beyond the limit", end="")
        assert statistics.median_low(seconds) < 3 * 1.1
