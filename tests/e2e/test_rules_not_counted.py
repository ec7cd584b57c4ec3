"""Rules that need bpf, on a host without it: a shipped one is inactive and named, one that somebody wrote is missed."""

import json

import pytest

from tests.support.host import Host

pytestmark = pytest.mark.kernel

WRITTEN = {"name": "mb", "count": "bytes", "limit": 5, "window": "1h", "action": "warn"}


def test_where_there_is_no_bpf() -> None:
    with Host(sources=["nflog"]) as host:  # the shipped rules
        host.start()
        status = json.loads(host.cli("status", "--json").stdout)
        assert status["ready"]
        assert status["inactive_rules"] == ["volume"]
        assert not [text for text in status["troubles"] if "volume" in text]
        assert "volume" in next(row for row in host.cli("status").stdout.splitlines() if "inactive" in row)
        host.configure(sources=["bpf", "nflog"], rules=[WRITTEN], cgroup="/sys/fs/cgroup/not-there")
        host.stop()
        host.start()  # by nflog, as bpf can't be had
        status = json.loads(host.cli("status", "--json").stdout)
        assert status["inactive_rules"] == []
        (trouble,) = [text for text in status["troubles"] if "mb" in text]
        assert "NOT COUNTED" in trouble


def test_where_there_is_bpf() -> None:
    with Host() as host:
        host.start()
        status = json.loads(host.cli("status", "--json").stdout)
        assert status["inactive_rules"] == []
        assert "inactive" not in host.cli("status").stdout
