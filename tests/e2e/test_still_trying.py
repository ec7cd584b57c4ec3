"""The daemon lengthens a block in the kernel before it ends: nothing passes in between."""

import math

import pytest

from tests.support.host import SPAMMER, Host, wait_for
from tests.support.standstill import Standstill

pytestmark = pytest.mark.kernel

RULE = {"name": "mx", "ports": [25], "count": "connections", "limit": 5, "window": "10m", "block": "4s"}


@pytest.mark.parametrize(("still_trying", "ends"), [("extend", False), ("end", True)])
def test_it_goes_on_without_a_gap(standstill: Standstill, still_trying: str, ends: bool) -> None:
    with Host(
        rules=[RULE], sources=["bpf"], attribution={"process": False},
        escalation={"factor": 1, "max": "30s", "still_trying": still_trying},
    ) as host:  # fmt: skip
        host.start()
        done = host.connect(SPAMMER, 100, rate=20)
        # BPF counts. nft may end a block a moment after BPF: by as much as the machine stood still when it was told.
        assert done.ok + done.errors.get("ECONNREFUSED", 0) == 5 * (1 + ends)
        assert done.errors.get("ECONNREFUSED", 0) <= ends * (1 + math.ceil(20 * standstill.worst_s())), done
        wait_for(lambda: host.events("UNBLOCK" if ends else "EXTENDED"))
        told = host.events("EXTENDED")
        assert bool(told) is not ends
        assert {(row["BY"], row["RULE"], row["KIND"], row["PORTS"]) for row in told} <= {("guard", "mx", "block", "25")}
        assert len(host.events("UNBLOCK")) == ends
        assert not host.connect(SPAMMER, port=587).refused
