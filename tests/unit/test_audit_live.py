"""The live audit sources prove themselves and let go what they hold, whatever brings the records."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.decode.netlink.audit import AUDIT_SOCKADDR, AUDIT_SYSCALL
from smtpguard.decode.netlink.messages import HEADER
from smtpguard.errors import SourceError
from smtpguard.settings import Settings
from smtpguard.sources.audit import live
from smtpguard.sources.audit.logfile import AuditLogSource
from smtpguard.sources.audit.netlink import AuditSource
from tests.support.audit_records import Event, log
from tests.unit.test_audit_control import Kernel

KINDS = {"SYSCALL": AUDIT_SYSCALL, "SOCKADDR": AUDIT_SOCKADDR}


@pytest.fixture
def multicast(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The kernel's end of the socket that an audit source listens on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)  # noqa: FBT003 - its signature
    monkeypatch.setattr(AuditSource, "_listen", lambda _: ours)
    yield theirs
    ours.close()
    theirs.close()


def tell(sock: socket.socket, event: Event) -> None:
    """Send the records of an event as the kernel does."""
    for line in event.lines()[:2]:
        kind, _, text = line.removeprefix("type=").partition(" msg=")
        sock.send(HEADER.pack(HEADER.size + len(text), KINDS[kind], 0, 0, 0) + text.encode())


def read_held(source: live.LiveAudit) -> list[int | None]:
    """The processes of what a source reads until it holds nothing more."""
    found = source.read()
    while source._settling.next_ns is not None:
        found += source.read()
    return [connect.pid for connect in found]


def test_the_netlink_source_sees_its_own_connect_and_keeps_it_to_itself(
    monkeypatch: pytest.MonkeyPatch, multicast: socket.socket
) -> None:
    source = AuditSource(Settings(), control=Kernel().control())
    source.open()

    def connect(port: int, uid: int | None) -> int:
        assert (port, uid) == (25, None)
        tell(multicast, Event(serial=1, pid=77))
        tell(multicast, Event(serial=2, pid=78, exit_value=0))
        return 77

    monkeypatch.setattr(live, "make_connect", connect)
    source.probe(5)
    tell(multicast, Event(serial=3, pid=79, millis=9000))
    assert sorted(filter(None, read_held(source))) == [78, 79], "what may be a probe of a resolver goes a moment later"
    assert source.stats.events == 2
    monkeypatch.setattr(live, "make_connect", lambda *_: 80)
    with pytest.raises(SourceError, match="self-test"):
        source.probe(0.05)
    source.set_ports(frozenset({2626}))
    tell(multicast, Event(serial=4, pid=81, port=2626, millis=9001))
    tell(multicast, Event(serial=5, pid=82, millis=9002))
    assert read_held(source) == [81]
    source.close()
    source.close()


def test_the_log_source_sees_its_own_connect_and_keeps_it_to_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    source = AuditLogSource(Settings(), path=str(path), alone=True)
    source.open()
    source._alone = False  # the proof, without the kernel's audit

    def connect(*_: object) -> int:
        with path.open("ab") as file:
            file.write(log([*Event(serial=1, pid=77).lines(), *Event(serial=2, pid=78, exit_value=0).lines()]))
        return 77

    monkeypatch.setattr(live, "make_connect", connect)
    source.probe(5)
    assert read_held(source) == [78]
    monkeypatch.setattr(live, "make_connect", lambda *_: 80)
    with pytest.raises(SourceError, match="self-test"):
        source.probe(0.05)
    source.close()
    source.close()
