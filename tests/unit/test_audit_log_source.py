"""The audit-log source on files that a test writes: times, absence, what is held back and what is told."""

import logging
import os
from pathlib import Path

import pytest

from smtpguard.errors import SourceError
from smtpguard.model import NS
from smtpguard.settings import Settings
from smtpguard.sources.audit import logfile
from smtpguard.sources.audit.logfile import DEFAULT_PATH, AuditLogSource, read_log_path
from smtpguard.sources.audit.netlink import AuditSource
from smtpguard.sources.audit.nodes import OwnNodes
from tests.fakes.clock import FakeClock
from tests.support.audit_records import SECOND, Event, log
from tests.support.audit_wrappings import LINE_FORMS

SETTINGS = Settings(sources=("audit-log",), ports=frozenset({25}))


def opened(path: Path, clock: FakeClock | None = None) -> AuditLogSource:
    source = AuditLogSource(SETTINGS, path=str(path), alone=True, clock=clock or FakeClock())
    source.open()
    return source


def append(path: Path, *events: Event) -> None:
    with path.open("ab") as file:
        file.write(log([line for event in events for line in event.lines()]))


def test_stamps_become_event_times_also_when_the_clock_is_set(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    clock = FakeClock(boot_ns=1000 * NS, wall_ns=SECOND * NS)
    source = opened(path, clock)
    clock.advance(10)
    append(path, Event(serial=1, millis=9_500))
    assert [c.time_ns for c in source.read()] == [1009 * NS + NS // 2]
    clock.advance(5)
    clock.step_wall(3600)
    # Written just before the clock was set, read just after.
    append(path, Event(serial=2, millis=14_000), Event(serial=3, millis=3_615_000))
    assert [c.time_ns for c in source.read()] == [1014 * NS, 1015 * NS]
    clock.step_wall(-7200)
    clock.advance(1)
    append(path, Event(serial=4, millis=-3_584_000))
    assert [c.time_ns for c in source.read()] == [1016 * NS]
    source.close()


def test_a_stamp_from_the_future_is_now(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    source = opened(path, FakeClock(boot_ns=50 * NS, wall_ns=SECOND * NS))
    append(path, Event(millis=90_000))
    assert [c.time_ns for c in source.read()] == [50 * NS]
    source.close()


def test_the_last_enriched_event_is_let_go_after_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    clock = FakeClock()
    source = opened(path, clock)
    event = Event(enriched=True)
    path.write_bytes(log([event.call(), event.sockaddr()]))
    assert source.read() == []
    poll_ns = source.next_poll_ns()
    assert poll_ns is not None
    assert clock.boot < poll_ns <= clock.boot + NS // 10
    clock.advance(0.1)
    assert len(source.read()) == 1
    assert (source.next_poll_ns() or 0) > clock.boot + NS // 2
    source.close()


def test_a_backlog_is_read_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "MAX_BYTES", 20_000)
    path = tmp_path / "audit.log"
    path.touch()
    source = opened(path)
    append(path, *(Event(serial=serial, pid=serial) for serial in range(1000)))
    monkeypatch.setattr(logfile, "_CHUNK_BYTES", 5000)
    first = source.read()
    assert 0 < len(first) < 1000
    assert source.next_poll_ns() == 0
    seen = list(first)
    while source.next_poll_ns() == 0:
        seen += source.read()
    assert [c.pid for c in seen] == list(range(1000))
    assert source.stats.events == 1000
    source.close()


def test_an_absent_log_is_waited_for_unless_there_is_a_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.log"
    with pytest.raises(SourceError, match="not there"):
        AuditLogSource(Settings(), path=str(path), alone=True).open()
    with caplog.at_level(logging.WARNING):
        source = opened(path, FakeClock(wall_ns=(SECOND - 1) * NS))
    source.probe(0)
    assert "it is waited for" in caplog.text
    assert source.read() == []
    append(path, Event(millis=4_000_000_000_000))
    assert len(source.read()) == 1
    source.close()


def test_what_could_not_be_read_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    source = opened(path)
    forged = Event(serial=3, enriched=True)
    path.write_bytes(
        log(
            [
                *Event(serial=1, saddr="02000019").lines(),
                forged.call(),
                forged.sockaddr().partition("\x1d")[0],
                *Event(serial=4).lines(),
                *Event(serial=5, exit_value=0, millis=1).lines(),
            ]
        )
    )
    assert len(source.read()) == 1
    assert (source.stats.garbled, source.stats.notes["forged"], source.stats.notes["repeats"]) == (1, 1, 1)
    source.close()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("log_file = /srv/log/a.log\n", "/srv/log/a.log"),
        ("# log_file = /no\n  LOG_FILE=/yes/audit.log # comment\n", "/yes/audit.log"),
        ("write_logs = yes\n", DEFAULT_PATH),
    ],
)
def test_the_path_is_that_of_auditd_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, path: str) -> None:
    conf = tmp_path / "auditd.conf"
    monkeypatch.setattr(logfile, "AUDITD_CONF", str(conf))
    assert read_log_path() == DEFAULT_PATH
    conf.write_text(text)
    assert read_log_path() == path


def test_a_closed_source_says_so(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    source = opened(path)
    source.close()
    with pytest.raises(SourceError):
        source.read()


def nodes_of(tmp_path: Path, *, conf: str = "", hosts: str = "", resolv: str = "", node: str | None = None) -> OwnNodes:
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/hosts").write_text(hosts)
    (tmp_path / "etc/resolv.conf").write_text(resolv)
    (tmp_path / "auditd.conf").write_text(conf)
    return OwnNodes(node, conf=str(tmp_path / "auditd.conf"), root=str(tmp_path))


def test_the_names_of_this_host(tmp_path: Path) -> None:
    host = os.uname().nodename.partition(".")[0]
    nodes = nodes_of(tmp_path, conf="name_format = user\nname = mx-7  # ours\n", resolv="search a.example b.example\n")
    for name in (host, host.upper(), f"{host}.a.example", "mx-7", "127.0.0.1", "::1"):
        assert nodes.is_own(name.encode()), name
    for name in ("web2", f"{host}.other.example", "192.0.2.77", "0.0.0.0", "::", "", "mx-8", "\xff"):
        assert not nodes.is_own(name.encode("latin-1")), name
    canonical = nodes_of(tmp_path, hosts=f"127.0.1.1 {host}.c.example {os.uname().nodename} # it\n")
    assert canonical.is_own(f"{host}.c.example".encode())
    said = nodes_of(tmp_path, node="collector-name")
    assert said.is_own(b"collector-name")
    assert not said.is_own(host.encode())
    assert not said.is_own(b"127.0.0.1")


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_a_record_of_ours_is_found_wherever_the_stretch_ends(tmp_path: Path, size: int) -> None:
    ours, other = Event(node=os.uname().nodename), Event(node="web2")
    for events, wanted in (([other, other], False), ([other, ours, other], True), ([other, Event()], True)):
        nodes = nodes_of(tmp_path)
        data = log([line for event in events for line in [*event.lines(), "x type=SYSCALL"]])
        found = [nodes.find_own(data[start : start + size])[0] for start in range(0, len(data), size)]
        # A stretch shorter than a line's beginning tells nothing.
        assert any(found) == wanted or size < 100


def test_only_the_records_of_this_host_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    source = opened(path)
    with caplog.at_level(logging.WARNING):
        append(path, Event(serial=1, pid=1, node="web2"), Event(serial=2, pid=2, node="localhost-is-not-it"))
        append(path, Event(serial=3, pid=3, node=os.uname().nodename), Event(serial=4, pid=4))
        assert [connect.pid for connect in source.read()] == [3, 4]
    assert source.stats.notes["foreign"] == 2
    assert caplog.text.count("records of other hosts (node=") == 1
    source.close()


def test_a_node_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    settings = Settings(sources=("audit-log",), ports=frozenset({25}), audit_node="web2")
    source = AuditLogSource(settings, path=str(path), alone=True, clock=FakeClock())
    source.open()
    append(path, Event(serial=1, pid=1, node="web2"), Event(serial=2, pid=2, node=os.uname().nodename))
    assert [connect.pid for connect in source.read()] == [1]
    source.close()


def test_a_log_of_other_hosts_only_is_blindness_after_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    clock = FakeClock()
    source = opened(path, clock)
    for serial in range(12):
        append(path, Event(serial=serial, node="web2"))
        clock.advance(5)
        source.read()
    append(path, Event(serial=20, node="web2"))
    clock.advance(2)
    with pytest.raises(SourceError, match="other hosts only, such as node=web2") as caught:
        source.read()
    assert "audit.node" in str(caught.value)
    source.close()


def test_a_record_of_ours_once_a_minute_is_sight(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    clock = FakeClock()
    source = opened(path, clock)
    for serial in range(40):
        append(path, Event(serial=serial, node="web2"))
        if serial % 10 == 0:
            append(path, Event(serial=1000 + serial, port=443, node=os.uname().nodename))
        clock.advance(5)
        source.read()
    clock.advance(300)
    source.read()  # nothing comes at all: that is no sign of anything
    source.close()


def test_other_ports_are_picked_from_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    source = opened(path)
    append(path, Event(serial=1), Event(serial=2, port=587))
    assert [c.port for c in source.read()] == [25]
    source.set_ports(frozenset({587}))
    append(path, Event(serial=3), Event(serial=4, port=587))
    assert [c.port for c in source.read()] == [587]
    source.close()
    netlink = AuditSource(SETTINGS)
    netlink.set_ports(frozenset({587}))
    lines = [line for event in (Event(serial=5), Event(serial=6, port=587)) for line in event.lines()]
    assert [c.port for c in netlink._decoder.feed(log(lines))] == [587]


@pytest.mark.parametrize("form", ["plain", "fam", "blank", "octal", "nothing"])
def test_every_auditds_spelling_is_read(tmp_path: Path, form: str) -> None:
    """auditd 2.6 to 2.8 writes fam=: of EL 8.0 everything was forged."""
    path = tmp_path / "audit.log"
    path.touch()
    clock = FakeClock()
    source = opened(path, clock)
    addresses = ("192.0.2.1", "2001:db8::25", "fe80::1%eth0")
    events = [Event(serial=n, pid=n, enriched=True, address=address) for n, address in enumerate(addresses)]
    for event in events:
        event.saddr = event.sockaddr_digits()
    path.write_bytes(LINE_FORMS[form]([line for event in events for line in event.lines()]))
    clock.advance(0.1)
    connects = source.read()
    clock.advance(0.1)
    connects += source.read()
    assert [connect.pid for connect in connects] == [0, 1, 2]
    assert (source.stats.garbled, source.stats.notes["forged"]) == (0, 0)
    source.close()
