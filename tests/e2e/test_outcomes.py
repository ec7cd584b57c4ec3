"""Rules that count what became of connections: failures and bytes, with bpf."""

import time

import pytest

from tests.support.host import INNOCENT, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel


def test_failures_count_and_success_does_not() -> None:
    rule = {"name": "failing", "count": "failures", "limit": 10, "window": "10m", "action": "block", "block": "30m"}
    with Host(rules=[rule], ports=[25, 2526]) as host:
        host.start()
        assert host.connect(SPAMMER, 40, 200).ok == 40
        assert host.connect(INNOCENT, 10, 200, port=2526).errors == {"ECONNREFUSED": 10}
        time.sleep(0.3)
        assert host.events("EXCEEDED") == []
        host.connect(SPAMMER, 11, 200, port=2526)
        verdict = wait_for(lambda: host.events("EXCEEDED"))[0]
        assert (verdict["USER"], verdict["RULE"], verdict["COUNT"]) == (SPAMMER[0], "failing", "11")
        wait_for(lambda: host.connect(SPAMMER).refused == 1)
        assert host.connect(INNOCENT).ok == 1


def test_bytes_of_open_and_closed_sessions_count() -> None:
    rule = {"name": "volume", "count": "bytes", "limit": 3000, "window": "10m", "action": "block", "block": "30m"}
    with Host(rules=[rule]) as host:
        host.start()
        session = host.session(SPAMMER, 60)  # 6 bytes every 50 ms
        time.sleep(2.5)
        assert host.events("EXCEEDED") == []
        host.connect(INNOCENT, 5)
        deliver = host.deliver(SPAMMER, 60)
        assert deliver.ok > 0
        verdict = wait_for(lambda: host.events("EXCEEDED"))[0]
        assert (verdict["USER"], verdict["RULE"]) == (SPAMMER[0], "volume")
        assert int(verdict["COUNT"]) > 3000
        assert session.communicate(timeout=10)[0].startswith("reset ECONN")
        assert host.connect(INNOCENT).ok == 1
