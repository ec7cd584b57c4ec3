"""What counts as a connect in an audit log, what does not, and how damage and forgery are passed over."""

from dataclasses import asdict

import pytest

from smtpguard.decode.audit.decoder import AuditDecoder
from smtpguard.decode.audit.line_buffer import LineBuffer
from smtpguard.decode.audit.retries import Retries
from smtpguard.model import Connect
from tests.support.audit_records import Event, log, unix_lines

PORTS = (25, 465, 587, 2525)
FASTOPEN = 0x20000000


def decode(data: bytes, *, ports: tuple[int, ...] = PORTS, **options: object) -> tuple[list[Connect], dict[str, int]]:
    decoder = AuditDecoder(ports=ports, sensor="replay", **options)  # type: ignore[arg-type]
    connects = decoder.feed(data) + decoder.finish()
    counts = {name: count for name, count in asdict(decoder.counters).items() if count}
    return connects, counts


def expected(event: Event, **changes: object) -> Connect:
    values: dict[str, object] = {
        "time_ns": event.time_ns,
        "uid": event.uid,
        "euid": event.uid if event.euid is None else event.euid,
        "pid": event.pid,
        "port": event.port,
        "address": event.packed,
        "sensor": "replay",
        "proc": event.comm,
        "exe": event.exe,
        "user": event.user.encode() if event.enriched else None,
        "node": event.node.encode() or None,
    }
    return Connect(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "event",
    [
        Event(),
        Event(port=465),
        Event(port=587, lower=True),
        Event(port=2525, address="2001:db8::1"),
        Event(port=465, address="2001:db8::1", lower=True),
        Event(address="::ffff:192.0.2.7"),
        Event(enriched=True),
        Event(enriched=True, address="2001:db8::25", port=587),
        Event(enriched=True, address="::ffff:192.0.2.7"),
        Event(node="web7.example.net"),
        Event(node="web7", enriched=True, lower=True),
        Event(comm=b"wp cron", exe=b"/home/my site/php"),
        Event(comm=b'a"b', exe=b"/tmp/\xff\n\x00x"),
        Event(exit_value=0),
        Event(exit_value=-1),
        Event(exit_value=-111),
        Event(exit_value=None),
        Event(uid=1001, euid=0),
        Event(address="127.0.0.1"),
        Event(address="0.0.0.0"),
        Event(address="::1"),
        Event(saddr="02000019C00002010000000000000000" + "00" * 112),
    ],
    ids=repr,
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_connect_is_read_whole(event: Event, end: str) -> None:
    connects, counts = decode(log(event.lines(), end))
    assert (connects, counts) == ([expected(event)], {})


def test_an_unset_uid_is_none() -> None:
    connects, _ = decode(log(Event(uid=4294967295).lines()))
    assert (connects[0].uid, connects[0].euid) == (None, None)


def test_an_unset_user_name_is_none() -> None:
    assert decode(log(Event(enriched=True, user="unset").lines()))[0][0].user is None


def test_only_the_ports_asked_for() -> None:
    events = [Event(serial=port, port=port) for port in (25, 24, 26, 443, 587, 0x9D2, 2525, 6400, 25601)]
    data = log([line for event in events for line in event.lines()])
    assert [connect.port for connect in decode(data)[0]] == [25, 587, 2525]
    assert [connect.port for connect in decode(data, ports=(6400, 24))[0]] == [24, 6400]


@pytest.mark.parametrize(
    ("arch", "syscall", "a", "counts"),
    [
        ("c000003e", 42, (3, 1, 16, 0), True),
        ("c000003e", 49, (3, 1, 16, 0), False),  # bind
        ("c000003e", 52, (3, 1, 16, 0), False),  # getpeername
        ("c000003e", 44, (3, 1, 5, FASTOPEN | 0x4000), True),  # sendto
        ("c000003e", 44, (3, 1, 5, 0x4000), False),
        ("c000003e", 46, (3, 1, FASTOPEN, 0), True),  # sendmsg
        ("c000003e", 46, (3, 1, 0, FASTOPEN), False),
        ("c000003e", 307, (3, 1, 1, FASTOPEN), True),  # sendmmsg
        ("c000003e", 307, (3, 1, FASTOPEN, 0), False),
        ("c000003e", 0x4000002A, (3, 1, 16, 0), True),  # x32 connect
        ("c000003e", 0x40000206, (3, 1, FASTOPEN, 0), True),  # x32 sendmsg
        ("c000003e", 102, (3, 1, 16, 0), False),  # getuid
        ("40000003", 362, (3, 1, 16, 0), True),
        ("40000003", 102, (3, 0xFFFF, 0, 0), True),  # socketcall connect
        ("40000003", 102, (2, 0xFFFF, 0, 0), False),  # socketcall bind
        ("40000003", 102, (7, 0xFFFF, 0, 0), False),  # socketcall getpeername
        ("40000003", 102, (0xB, 0xFFFF, 0, 0), True),  # socketcall sendto
        ("40000003", 42, (3, 1, 16, 0), False),  # pipe
        ("40000003", 369, (3, 1, 5, FASTOPEN), True),
        ("40000003", 370, (3, 1, FASTOPEN, 0), True),
        ("40000003", 345, (3, 1, 1, FASTOPEN), True),
        ("c00000b7", 203, (3, 1, 16, 0), True),
        ("c00000b7", 206, (3, 1, 5, FASTOPEN), True),
        ("c00000b7", 42, (3, 1, 16, 0), False),
        ("40000028", 283, (3, 1, 16, 0), True),
        ("c00000f3", 203, (3, 1, 16, 0), True),
        ("c0000015", 328, (3, 1, 16, 0), True),
        ("deadbeef", 42, (3, 1, 16, 0), False),
    ],
)
def test_call_numbers_are_those_of_the_architecture(
    arch: str, syscall: int, a: tuple[int, int, int, int], *, counts: bool
) -> None:
    connects, counters = decode(log(Event(arch=arch, syscall=syscall, a=a).lines()))
    assert (len(connects), counters) == ((1, {}) if counts else (0, {"others": 1}))


@pytest.mark.parametrize("exit_value", [-106, -114])
def test_a_repeat_on_one_socket_does_not_count(exit_value: int) -> None:
    assert decode(log(Event(exit_value=exit_value).lines())) == ([], {"others": 1})


def test_io_uring_connects_count_and_its_other_operations_do_not() -> None:
    event = Event(exit_value=-115)
    connects, _ = decode(log([event.uring_call(), event.sockaddr()]))
    assert connects == [expected(event, proc=None, exe=None)]
    old = event.uring_call().replace("type=URINGOP", "type=UNKNOWN[1336]")
    assert decode(log([old, event.sockaddr()]))[0] == connects
    assert decode(log([event.uring_call(op=9), event.sockaddr()])) == ([], {"unpaired": 1})


def test_a_connect_by_io_uring_enter_has_the_programs_name() -> None:
    """As kernel 6.18 writes it: the operation twice, then the system call it was part of."""
    event = Event(syscall=426, exit_value=1)
    first = Event(exit_value=-11).uring_call()
    again = Event(exit_value=0).uring_call()
    other = event.uring_call(op=22)
    lines = [first, other, again, *event.lines()]
    assert decode(log(lines)) == ([expected(event)], {})
    noise = [line for serial in range(9) for line in unix_lines(serial + 5000)]
    assert decode(log([first, event.call(), *noise, event.sockaddr()])) == ([expected(event)], {})
    assert decode(log([other, *event.lines()])) == ([], {"others": 1})
    repeat = Event(exit_value=-106).uring_call()
    assert decode(log([repeat, *event.lines()])) == ([], {"others": 1})


def test_the_sockaddr_may_come_first() -> None:
    event = Event()
    noise = [line for serial in range(50) for line in unix_lines(serial + 5000)]
    connects, counts = decode(log([event.sockaddr(), *noise, event.call()]))
    assert (connects, counts) == ([expected(event)], {})


@pytest.mark.parametrize("length", [80, 7000])
@pytest.mark.parametrize("reverse", [False, True])
def test_4096_records_may_lie_between(length: int, reverse: bool) -> None:
    event = Event()
    title = Event(serial=7).proctitle()
    noise = [title + "0" * (length - len(title))] * 4096
    first, last = (event.sockaddr(), event.call()) if reverse else (event.call(), event.sockaddr())
    connects, counts = decode(log([first, *noise, last]))
    assert (connects, counts) == ([expected(event)], {})


def test_events_may_interleave() -> None:
    a, b, c = (Event(serial=serial, pid=serial) for serial in (1, 2, 3))
    lines = [a.call(), b.call(), b.sockaddr(), c.sockaddr(), a.proctitle(), a.sockaddr(), c.call()]
    connects, _ = decode(log(lines))
    assert [connect.pid for connect in connects] == [2, 1, 3]


def test_the_same_serial_of_two_nodes_is_two_events() -> None:
    events = [Event(node=node, uid=uid) for node, uid in (("a", 1001), ("b", 1002), ("", 1003))]
    lines = [event.call() for event in events] + [event.sockaddr() for event in reversed(events)]
    assert sorted(connect.uid or 0 for connect in decode(log(lines))[0]) == [1001, 1002, 1003]


def test_a_hole_of_nul_bytes_is_passed_over() -> None:
    events = [Event(serial=serial) for serial in (1, 2, 3)]
    a, b, c = (log(event.lines()) for event in events)
    connects, counts = decode(a + bytes(300_000) + b + bytes(10) + c)
    assert (len(connects), counts) == (3, {})


def test_a_record_cut_off_by_a_hole_costs_itself_only() -> None:
    data = log(Event(serial=1).lines())
    connects, _ = decode(data[:200] + bytes(200_000) + log(Event(serial=2).lines()))
    assert len(connects) == 1


@pytest.mark.parametrize("size", [5_000, 70_000, 3_000_000])
def test_a_line_of_any_length_is_passed_over(size: int) -> None:
    decoder = AuditDecoder(ports=PORTS, sensor="replay", buffer=LineBuffer(chunk_bytes=4096))
    line = "type=EXECVE msg=audit(1.000:9): argc=1 a0=" + "A" * size
    event = Event()
    connects = decoder.feed(log([line, event.call(), line, event.sockaddr(), line]))
    assert connects == [expected(event)]
    assert decoder.overlong == (3 if size > 65_536 else 0)


def test_the_last_line_needs_no_newline() -> None:
    event = Event()
    assert decode(log([event.call(), event.sockaddr()])[:-1])[0] == [expected(event)]


SYSCALL_FIELDS = Event().call().split(" ")


@pytest.mark.parametrize("field", range(2, len(SYSCALL_FIELDS) - 1))
def test_a_syscall_record_that_lacks_a_field_is_garbled(field: int) -> None:
    garbled = " ".join(SYSCALL_FIELDS[:field] + SYSCALL_FIELDS[field + 1 :])
    event = Event(serial=77)
    connects, counts = decode(log([garbled, Event().sockaddr(), *event.lines()]))
    assert (connects, counts) == ([expected(event)], {"garbled": 1})


@pytest.mark.parametrize("kind", ["SYSCALL", "URINGOP"])
def test_a_record_that_a_newline_cuts_in_two_is_garbled(kind: str) -> None:
    """Found by fuzzing: a field went on in the next line if that had come by then."""
    event = Event()
    line = (event.call() if kind == "SYSCALL" else event.uring_call()).replace("sgid=1001", "sgid=10\n01")
    for lines in ([line, event.sockaddr()], [event.sockaddr(), line], [line, *unix_lines(7), event.sockaddr()]):
        assert decode(log(lines))[0] == []


@pytest.mark.parametrize("field", range(2, len(SYSCALL_FIELDS) - 2))
def test_a_syscall_record_in_another_order_is_garbled(field: int) -> None:
    fields = SYSCALL_FIELDS.copy()
    fields[field], fields[field + 1] = fields[field + 1], fields[field]
    connects, counts = decode(log([" ".join(fields), Event().sockaddr()]))
    assert (connects, counts) == ([], {"garbled": 1})


@pytest.mark.parametrize(
    "saddr", ["02000019C00002", "02000019C000020G", "02000019C0000201\0", "0A00001900000000", "02000019C000020 "]
)
def test_a_garbled_address_is_counted(saddr: str) -> None:
    connects, counts = decode(log(Event(saddr=saddr).lines()))
    assert (connects, counts) == ([], {"garbled": 1})


@pytest.mark.parametrize("comm", ["comm=php", "comm=ABC", 'comm="php', "comm="])
def test_a_garbled_text_is_counted(comm: str) -> None:
    line = Event().call().replace('comm="php-fpm"', comm)
    assert decode(log([line, Event().sockaddr()])) == ([], {"garbled": 1})


def test_an_address_without_a_call_is_counted() -> None:
    assert decode(log([Event().sockaddr()])) == ([], {"unpaired": 1})


def test_addresses_without_calls_are_bounded_and_cost_no_others() -> None:
    lonely = [Event(serial=serial).sockaddr() for serial in range(10_000)]
    event = Event(serial=77777)
    connects, counts = decode(log([*lonely, *event.lines()]))
    assert (connects, counts) == ([expected(event)], {"unpaired": 10_000})


def test_a_second_sight_of_a_record_counts_once() -> None:
    event = Event()
    connects, counts = decode(log([*event.lines(), *event.lines()]))
    assert (connects, counts) == ([expected(event)], {"doubled": 1})


def test_an_enriched_address_without_its_tail_is_forged() -> None:
    """THREATS: a path of 107 bytes has room for a SOCKADDR with a guessed serial, but not for auditd's part of it."""
    victim = Event(serial=5, enriched=True, saddr="01002F72756E")
    forged = Event(serial=5).sockaddr()
    assert decode(log([victim.call(), victim.sockaddr(), forged])) == ([], {"forged": 1})
    assert decode(log([forged, victim.call(), victim.sockaddr()])) == ([], {"forged": 1})


def test_a_forged_address_does_not_hide_the_true_one() -> None:
    event = Event(enriched=True)
    forged = Event(address="198.51.100.9").sockaddr()
    for lines in ([event.call(), forged, event.sockaddr()], [forged, *event.lines()], [*event.lines(), forged]):
        assert decode(log(lines)) == ([expected(event)], {"forged": 1})


@pytest.mark.parametrize(
    "tail",
    [
        "SADDR={ saddr_fam=inet laddr=192.0.2.1 lport=25",
        "SADDR={ saddr_fam=inet laddr=192.0.2.2 lport=25 }",
        "SADDR={ saddr_fam=inet laddr=192.0.2.1 lport=26 }",
        "SADDR={ saddr_fam=inet laddr=192.0.2.1 lport=25 } ",
        "SADDR={ saddr_fam=local path=/x }",
        "SADDR={ saddr_fam=inet laddr=::: lport=25 }",
        "",
    ],
)
def test_an_enriched_tail_that_says_something_else_is_forged(tail: str) -> None:
    event = Event(enriched=True)
    line = event.sockaddr().partition("\x1d")[0] + "\x1d" + tail
    assert decode(log([event.call(), line, event.proctitle()])) == ([], {"forged": 1})


def test_two_whole_addresses_of_one_serial_drop_the_event() -> None:
    event, other = Event(enriched=True), Event(enriched=True, address="198.51.100.9")
    for lines in (
        [event.call(), event.sockaddr(), other.sockaddr(), event.proctitle()],
        [other.sockaddr(), event.sockaddr(), event.call()],
    ):
        assert decode(log(lines)) == ([], {"doubled": 1})


def test_a_late_second_address_drops_what_is_held_back() -> None:
    event, other = Event(enriched=True), Event(enriched=True, address="198.51.100.9")
    noise = [line for serial in range(20) for line in unix_lines(serial + 5000)]
    lines = log([*event.lines(), *noise, other.sockaddr()])
    assert decode(lines, hold_bytes=1 << 20) == ([], {"doubled": 1})
    assert decode(lines) == ([expected(event)], {"doubled": 1})


def test_an_enriched_event_waits_for_the_next_line_or_for_settle() -> None:
    event = Event(enriched=True)
    decoder = AuditDecoder(ports=PORTS, sensor="replay")
    assert decoder.feed(log([event.call(), event.sockaddr()])) == []
    assert decoder.is_holding
    assert decoder.settle() == [expected(event)]
    assert decoder.settle() == []
    assert not decoder.is_holding


def test_a_forged_call_in_a_path_hides_nothing() -> None:
    event = Event(enriched=True)
    forged = f"type=SYSCALL msg={event.stamp}: arch=c000003e syscall=42 success=yes exit=0 a0=3"
    noise = [line for serial in range(200) for line in unix_lines(serial + 5000)]
    for lines in ([event.call(), forged], [forged, event.call()], [event.call(), *noise, forged], [forged, *noise]):
        assert decode(log([*lines, event.sockaddr(), event.call()]))[0] == [expected(event)]


def test_a_k_before_the_record_hides_nothing() -> None:
    """The search looks for a K and for = and 1 some bytes on; a path can put a K wherever it likes."""
    first = Event(serial=1000)
    for length in range(80):
        for exe in (b"/K" + b"x" * length, b"/K" + b"K=1" * length, b"/" + b"K" * length):
            event = Event(serial=1001, exe=exe)
            assert decode(log([*first.lines(), *event.lines()]))[0] == [expected(first), expected(event)], exe


def test_a_forged_head_sets_no_distance_at_which_records_go_unseen() -> None:
    """Found by fuzzing: a head with a long serial made the search look for = so far on that it found another one."""
    event = Event(serial=1001)
    for serial in range(1, 90):
        for junk in ("9" * serial, f"1.2:{'9' * serial}", "x" * serial):
            forged = f"x KADDR msg=audit({junk}): saddr=0200"
            assert decode(log([forged, *event.lines(), Event(serial=7).proctitle()]))[0] == [expected(event)], junk


def test_event_times_are_mapped() -> None:
    decoder = AuditDecoder(ports=PORTS, sensor="audit-log")
    decoder.to_event_ns = lambda wall_ns: wall_ns - 5
    connect = decoder.feed(log(Event(millis=1234).lines()))[0]
    assert (connect.time_ns, connect.sensor) == (Event(millis=1234).time_ns - 5, "audit-log")


def test_retries_are_left_out_and_counted() -> None:
    first, second = Event(serial=1), Event(serial=2, millis=900, exit_value=0)
    connects, counts = decode(log([*first.lines(), *second.lines()]), retries=Retries())
    assert (connects, counts) == ([expected(first)], {"repeats": 1})


def test_memory_stays_bounded() -> None:
    buffer = LineBuffer(chunk_bytes=4096, max_bytes=1 << 21)
    decoder = AuditDecoder(ports=PORTS, sensor="replay", buffer=buffer)
    for serial in range(20_000):
        decoder.feed(log([Event(serial=serial).sockaddr(), Event(serial=serial + 10**6).call()]))
    assert len(buffer.data) <= (1 << 21) + 256
    assert len(decoder._joiner.waiting) <= 4096
    assert len(decoder._joiner.recent) + len(decoder._joiner.older) <= 8192
    assert len(decoder._joiner._index._places) <= 20_000


@pytest.mark.parametrize("between", [10, 4096 + 10], ids=["at once", "after thousands"])
def test_the_same_serial_again_is_no_second_event(between: int) -> None:
    first = Event(serial=1)
    others = [Event(serial=1000 + number, pid=number + 1) for number in range(between)]
    lines = [line for event in (first, *others, first) for line in event.lines()]
    connects, counts = decode(log(lines))
    assert (len(connects), counts) == (1 + between, {"doubled": 1})
