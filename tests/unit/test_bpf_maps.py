"""The arithmetic beside the BPF maps: ranges as prefixes, networks as keys, the cgroup's mount point."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.sources.bpf.cgroup import is_inside, parse_cgroup_root
from smtpguard.sources.bpf.maps import pack_network, pack_uid_prefix, split_range


@given(st.integers(0, 2**32), st.integers(0, 2**20))
def test_a_range_becomes_prefixes_that_cover_it_exactly(first: int, count: int) -> None:
    position = first
    for uid, bits in split_range(first, count):
        assert uid == position
        assert uid % (1 << (32 - bits)) == 0
        position += 1 << (32 - bits)
    assert position == max(first, min(first + count, 2**32))


def test_some_ranges() -> None:
    assert split_range(0, 1) == [(0, 32)]
    assert split_range(0, 2**32) == [(0, 0)]
    assert split_range(2000, 1000) == [
        (2000, 28),
        (2016, 27),
        (2048, 23),
        (2560, 24),
        (2816, 25),
        (2944, 27),
        (2976, 28),
        (2992, 29),
    ]
    assert split_range(5, 0) == []
    assert split_range(5, -3) == []


def test_keys_are_big_endian_behind_a_native_length() -> None:
    assert pack_uid_prefix(0x01020304, 24)[4:] == bytes([1, 2, 3, 4])
    assert pack_network(ipaddress.ip_network("192.0.2.0/24"))[1][4:] == bytes([192, 0, 2, 0])


def test_a_mapped_network_is_an_ipv4_network() -> None:
    assert pack_network(ipaddress.ip_network("::ffff:192.0.2.0/120")) == pack_network(
        ipaddress.ip_network("192.0.2.0/24")
    )
    assert pack_network(ipaddress.ip_network("2001:db8::/32"))[0] == 6


HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
"""


@pytest.mark.parametrize(
    ("text", "root"),
    [
        (HYBRID, "/sys/fs/cgroup/unified"),
        ("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate", "/sys/fs/cgroup"),
        ("30 23 0:26 / /odd\\040place rw - cgroup2 none rw", "/odd place"),
        ("29 23 0:26 /part /bind rw - cgroup2 none rw\n30 23 0:26 / /whole rw - cgroup2 none rw", "/whole"),
        ("29 23 0:26 /part /bind rw - cgroup2 none rw", "/bind"),
        ("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw", None),
        ("garbled", None),
        ("", None),
    ],
)
def test_where_the_hierarchy_is_mounted(text: str, root: str | None) -> None:
    assert parse_cgroup_root(text.splitlines()) == (Path(root) if root else None)


@pytest.mark.parametrize(
    ("own", "inside"),
    [
        ("0::/", False),
        ("0::/a", True),
        ("0::/a/b", True),
        ("0::/ab", False),
        ("0::/../a", False),
        ("4:memory:/a", False),
    ],
)
def test_whether_a_process_is_below_a_cgroup(own: str, inside: bool) -> None:
    assert is_inside(Path("/cg/a"), own, Path("/cg")) == inside
    assert is_inside(Path("/cg"), "9:name=systemd:/\n0::/", Path("/cg"))
    assert not is_inside(Path("/cg"), own, None)
