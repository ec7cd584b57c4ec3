"""Refusals by BPF alone, where nftables takes nothing: the ports of a rule, subordinate uids, ends apart, unblock."""

import sys

import pytest

from smtpguard.control.client import ask
from smtpguard.errors import GuardError
from tests.support.host import INNOCENT, SPAMMER, SUBUIDS, Host, wait_for

pytestmark = pytest.mark.kernel

OWN = {"block": "1h", "action": "block", "window": "10m", "count": "connections"}
RULES = [
    {"name": "mx", "ports": [25], "limit": 20, **OWN},
    {"name": "submission", "ports": [587], "limit": 50, **OWN, "block": "30m"},
]
SUBUID = (f"uid:{SUBUIDS[0] + 7}", SUBUIDS[0] + 7)
OWNER = """
import nftables, time
nft = nftables.Nftables()
code, _, error = nft.cmd("add table inet smtpguard { flags owner; }")
print(error or "mine", flush=True)
time.sleep(300)
"""
"""A program that owns our table: as long as it lives, the kernel lets nobody else change or delete it (nft(8))."""


def refused(host: Host, user: tuple[str, int] = SPAMMER) -> list[int]:
    return [port for port in (25, 465, 587, 2525) if host.connect(user, port=port).refused]


def count_blocks(host: Host) -> int:
    return len(ask(f"{host.lab.directory}/control.sock", "blocks")["items"])


def test_a_block_refuses_its_ports_by_bpf_alone() -> None:
    with Host(rules=RULES, sources=["bpf"], breaker={"blocks": 100, "per": "10m"}) as host:
        host.expect_errors("nft", "smtpguard", "table")
        owner = host.lab.start([sys.executable, "-c", OWNER])
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        host.start(ready=False)

        def troubles() -> list[str]:
            try:
                status = ask(f"{host.lab.directory}/control.sock", "status")["status"]
            except GuardError:
                return []
            leads = any(source["state"] == "leads" for source in status["sources"])
            return [text for text in status["troubles"] if leads and "NOT ENFORCING: nft" in text]

        wait_for(troubles, 30)
        on_25 = host.session(SPAMMER, seconds=60, port=25)
        host.connect(SPAMMER, 30)
        wait_for(lambda: count_blocks(host))
        assert [refused(host), refused(host, SUBUID), refused(host, INNOCENT)] == [[25], [25], []]
        assert "reset" in on_25.communicate(timeout=20)[0]
        host.connect(SPAMMER, 60, port=587)
        wait_for(lambda: count_blocks(host) == 2)
        assert [refused(host), refused(host, SUBUID)] == [[25, 587], [25, 587]]
        assert "smtpguard_" not in host.nft("list", "table", "inet", "smtpguard"), "the table holds nothing of ours"
        host.cli("unblock", SPAMMER[0])
        assert refused(host) == refused(host, SUBUID) == []
