"""The quick way of a SYSCALL and the SOCKADDR behind it: what it reads, what it leaves alone, its bound."""

import pytest

from smtpguard.decode.audit.pair import _MAX_REMEMBERED, PairReader
from tests.support.audit_records import Event, log


def read(event: Event, reader: PairReader | None = None) -> object:
    data = bytearray(log(event.lines()))
    return (reader or PairReader("replay")).read(data, 0, len(data))


@pytest.mark.parametrize("enriched", [False, True])
@pytest.mark.parametrize("node", ["", "web1"])
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8:1:2:3:4:5:6", "2001:db8::25", "::ffff:198.51.100.7"])
def test_what_it_reads(address: str, node: str, *, enriched: bool) -> None:
    event = Event(address=address, node=node, enriched=enriched, euid=0, comm=b"wp cron", millis=1042)
    pair = read(event)
    assert isinstance(pair, tuple)
    key, end, fd, exit_value, is_enriched, connect = pair
    assert key == (node.encode() or None, b"1771400001.042:1001")
    assert end == len("\n".join(event.lines()[:2])) + 1
    assert (fd, exit_value, is_enriched) == (b"3", b"-115", enriched)
    assert (connect.time_ns, connect.pid, connect.uid, connect.euid) == (event.time_ns, 4711, 1001, 0)
    assert (connect.port, connect.address) == (25, event.packed)
    assert (connect.proc, connect.exe) == (b"wp cron", b"/usr/sbin/php-fpm8.2")
    assert connect.user == (b"web01" if enriched else None)


@pytest.mark.parametrize(
    "event",
    [
        Event(syscall=44, a=(3, 0x7FFE01, 0x10, 0x20000000)),  # sendto with MSG_FASTOPEN: by its flags
        Event(syscall=49),  # bind
        Event(arch="40000003", syscall=102),  # socketcall
        Event(exit_value=-106),  # EISCONN
        Event(exit_value=None),
        Event(saddr="0200001"),
        Event(saddr="0100" + "2F" * 20),
        Event(between=["type=CWD msg=audit(1771400000.000:1001): cwd=22"]),
    ],
    ids=lambda event: event.call()[45:100],
)
def test_what_it_leaves_to_the_general_way(event: Event) -> None:
    assert read(event) is None


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("uid=1001 gid", "uid=x gid"),
        ("exit=-115", "exit=--115"),
        ('comm="php-fpm"', "comm=zz"),
        (" ses=4294967295", ""),
        ("msg=audit(1771400000.", "msg=audit(177140000x."),
        ("pid=4711", "pid=-4711"),
        ("a2=10", "a2=zz"),
    ],
)
def test_what_can_not_be_read_is_never_remembered(good: str, bad: str) -> None:
    reader = PairReader("replay")
    text = log(Event().lines()).decode()
    assert good in text
    data = bytearray(text.replace(good, bad).encode())
    for _ in range(2):
        assert reader.read(data, 0, len(data)) is None
    assert read(Event(), reader) is not None


def test_a_second_address_that_differs_from_the_digits_is_left_to_the_general_way() -> None:
    data = bytearray(log(Event(enriched=True).lines()).replace(b"laddr=192.0.2.1", b"laddr=192.0.2.2"))
    assert PairReader("replay").read(data, 0, len(data)) is None


def test_what_is_remembered_is_bounded() -> None:
    reader = PairReader("replay")
    for number in range(_MAX_REMEMBERED + 10):
        event = Event(uid=10_000 + number, comm=b"c%d" % number, enriched=True, user=f"u{number}", millis=number * 1000)
        pair = read(event, reader)
        assert isinstance(pair, tuple)
        assert (pair[-1].uid, pair[-1].proc, pair[-1].user) == (event.uid, event.comm, event.user.encode())
    memos = (reader._seconds, reader._fractions, reader._calls, reader._ids, reader._programs, reader._users)
    assert max(len(memo) for memo in memos) <= _MAX_REMEMBERED
    assert len(reader._ids) == 10
