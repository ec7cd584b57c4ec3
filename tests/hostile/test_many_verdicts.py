"""Attack: a network namespace for every few connections, each of them somebody new, so that verdicts fill the log.

Anybody may make user and network namespaces. Each was told of by an EXCEEDED and a BLOCK line, a line in the journal,
an incident, evidence and rows of the state: 80 a second, 4 GB of log a day, and `blocks` held hundreds of them.
"""

import json
import sys
from dataclasses import replace

import pytest

from smtpguard.model import NS, Action, Verdict
from smtpguard.policy.container_verdicts import ALL_BURST, BURST, INTERVAL_NS, MAX_UIDS, ContainerVerdicts
from tests.support.host import OTHER, SPAMMER, Host, wait_for
from tests.support.policy import BURST as BURST_RULE
from tests.support.policy import engine_of, feed, only

RULE = {"name": "burst", "count": "connections", "limit": 20, "window": "10m", "action": "block", "block": "10m"}
NAMESPACES = """
import ctypes, os, socket, sys
uid, count = int(sys.argv[1]), int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
libc = ctypes.CDLL(None)
assert libc.unshare(0x10000000) == 0
made = 0
for _ in range(count):
    if libc.unshare(0x40000000):
        continue
    made += 1
    for _ in range(25):
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex(("198.18.0.1", 25))
print(made)
"""


def test_so_many_of_one_uid_and_of_all() -> None:
    verdicts = ContainerVerdicts()
    assert sum(verdicts.admit(61101, NS) for _ in range(100)) == BURST
    assert verdicts.untold == 100 - BURST
    assert verdicts.admit(61101, NS + INTERVAL_NS), "one more a minute later"
    assert not verdicts.admit(61101, NS + INTERVAL_NS)
    found = sum(verdicts.admit(700_000 + number, NS) for number in range(3 * MAX_UIDS))
    assert found <= ALL_BURST, "uids are free to take, too"


def test_what_is_remembered_of_uids_is_bounded() -> None:
    verdicts = ContainerVerdicts()
    for number in range(3 * MAX_UIDS):
        verdicts.admit(700_000 + number, NS + number * 10 * NS)
    assert len(verdicts._full_ns) <= MAX_UIDS
    assert verdicts.untold == 0


@pytest.mark.parametrize("action", ["block", "throttle", "warn"])
def test_what_is_not_told_is_not_judged_again_at_each_attempt(action: Action) -> None:
    engine = engine_of(replace(BURST_RULE, limit=2, action=action))
    verdicts = []
    for netns in range(1, 41):
        verdicts += only(Verdict, feed(engine, range(10), netns=netns))
    assert len(verdicts) == BURST
    assert {verdict.mode for verdict in verdicts} == {"dry-run"}
    repeats = 3 if action == "block" else 1
    assert 0 < engine.stats().untold <= repeats * (40 - BURST)


@pytest.mark.kernel
def test_with_the_real_guard() -> None:
    with Host(rules=[RULE]) as host:
        host.start()
        done = host.lab.run([sys.executable, "-c", NAMESPACES, str(SPAMMER[1]), "100"], inside=True)
        assert int(done.stdout) > 50
        assert host.connect(OTHER, 40).ok == RULE["limit"]
        assert host.connect(SPAMMER, 40).ok == RULE["limit"], "their own verdict has nothing to do with it"
        assert host.stop() == 0
        users = [row["USER"].partition("@")[0] for row in host.events("EXCEEDED")]
        contained = f"uid:{SPAMMER[1]}"
        assert 0 < users.count(contained) <= BURST + 1
        assert {OTHER[0], SPAMMER[0]} == set(users) - {contained}
        assert len(host.events("BLOCK")) == len(users)


@pytest.mark.kernel
def test_status_says_how_many() -> None:
    with Host(rules=[RULE]) as host:
        host.start()
        host.lab.run([sys.executable, "-c", NAMESPACES, str(SPAMMER[1]), "100"], inside=True)

        def windows() -> str:
            return str(json.loads(host.cli("status", "--json").stdout)["parts"]["windows"])

        wait_for(lambda: " 0 verdicts about containers not told" not in windows())
        assert windows().endswith("verdicts about containers not told")
