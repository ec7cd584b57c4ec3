"""passwd, group, subuid, login.defs: as the man pages say, and any bytes at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.accounts.files import parse_group, parse_passwd, parse_subuid, parse_uid_min
from smtpguard.enrich.accounts.mail_servers import parse_mail_owner, parse_unit_user
from smtpguard.policy.subuids import Claim


def test_passwd() -> None:
    passwd = parse_passwd(
        b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\nweb01:x:1001:1001:a b, c:/home/web01:/bin/false\n"
        b"web01:x:1002:1002::/:/bin/sh\n\n# web09:x:9:9::/:/bin/sh\n+nis::0:0:::\n-nis:x:8:8:::\nshort:x:5:5\n"
        b"nouid:x::5::/:/bin/sh\nminus:x:-1:5::/:/bin/sh\nlast:x:4294967295:5::/:\nhigh:x:4294967294:5::/:\n"
        b":x:7:7:::\n\xff\xfe:x:1003:1003::/:\nnonl:x:1004:1004::/:"
    )
    assert passwd.uids == {"root": 0, "toor": 0, "web01": 1001, "high": 4294967294, "\udcff\udcfe": 1003, "nonl": 1004}
    assert passwd.names[0] == ("root", "toor")
    assert passwd.names[1001] == ("web01",)
    assert passwd.gids[1001] == 1001


def test_group() -> None:
    groups = parse_group(b"root:x:0:\nmailers:x:50:a,b,,c\nother:x:51:b\n+nis:::\nbad:x:y:a\n")
    assert groups.names == {0: "root", 50: "mailers", 51: "other"}
    assert groups.of == {"a": ("mailers",), "b": ("mailers", "other"), "c": ("mailers",)}


def test_subuid() -> None:
    claims = parse_subuid(
        b"web01:100000:65536\n1002:200000:5\nnobodyhome:300000:5\nweb01:1:4294967295\nx:y\nweb01:a:5\n7:1:2:3\n",
        {"web01": 1001},
    )
    assert claims == [
        Claim(owner=1001, first=100000, count=65536, line=1),
        Claim(owner=1002, first=200000, count=5, line=2),
        Claim(owner=1001, first=1, count=4294967295, line=4),
    ]


@pytest.mark.parametrize(
    ("content", "uid_min"),
    [
        (b"", 1000),
        (b"# UID_MIN 5\nUID_MIN\t\t  500\nUID_MAX 60000", 500),
        (b"UID_MIN 0", 1000),
        (b"UID_MIN 4294967295", 1000),
        (b"UID_MIN lots", 1000),
        (b"UID_MIN", 1000),
    ],
)
def test_uid_min(content: bytes, uid_min: int) -> None:
    assert parse_uid_min(content) == uid_min


@pytest.mark.parametrize(
    ("content", "owner"),
    [
        (b"", None),
        (b"mail_owner = postfix\n", "postfix"),
        (b"#mail_owner = a\nmail_owner=b\n", "b"),
        (b"mail_owner = a\nmail_owner = b\n", "b"),
        (b"mail_owner =\n  c\n", "c"),
        (b"mydestination = a,\n# comment\n  mail_owner = d\n", None),
        (b"mail_owner = $other\n", None),
        (b"mail_owner_x = a\n", None),
    ],
)
def test_mail_owner(content: bytes, owner: str | None) -> None:
    assert parse_mail_owner(content) == owner


@pytest.mark.parametrize(
    ("content", "user"),
    [
        (b"[Service]\nUser=haraka\n", "haraka"),
        (b"[Service]\nUser=a\nUser=b\n", "b"),
        (b"[Service]\nUser=a\nUser=\n", None),
        (b"[Unit]\nUser=a\n[Service]\nExecStart=/x\n", None),
        (b"[Service]\n#User=a\n; User=b\n", None),
        (b"[Service]\nUser=%i\n", None),
        (b"User=a\n", None),
    ],
)
def test_unit_user(content: bytes, user: str | None) -> None:
    assert parse_unit_user(content) == user


@given(st.binary(max_size=300) | st.text(":\n0123456789ab,#= $[Service]User", max_size=300).map(str.encode))
def test_any_bytes(content: bytes) -> None:
    passwd = parse_passwd(content)
    parse_group(content)
    parse_subuid(content, passwd.uids)
    assert 100 <= parse_uid_min(content) <= 100_000
    parse_mail_owner(content)
    parse_unit_user(content)
