"""A sensor that is taken from the running daemon: noticed, repaired or handed over, told once; no count is lost."""

import ctypes
import errno
import json
import os
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smtpguard.errors import SourceError
from tests.kernel.bpf_lab import ADDRESS4, dials, open_lab, random_uid
from tests.support.host import OTHER, SPAMMER, Host, wait_for
from tests.support.processes import read_process
from tests.support.standstill import Standstill

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 30, "window": "10m", "action": "block", "block": "30m"}
TOLD = {"name": "many", "count": "connections", "limit": 100_000, "window": "10m", "action": "warn"}
NOTICED_S = 6
"""Two seconds is the bar; three times that on a busy machine."""
MOST_STALL_MS = 150
"""Three times the bar: the kernel verifies the program for 0.05 s meanwhile, on a busy machine a second."""
BACK_S = 30
"""A source that is down is tried again after 1, 2, 4, 8 ... seconds."""
_BPF, _INFO_BY_FD, _LINK_BY_ID, _NEXT_LINK, _DETACH = 321, 15, 30, 31, 34

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """bpf(2): its result and what it left in the attributes."""
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    result = int(_libc.syscall(ctypes.c_long(_BPF), command, buffer, 128))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command})")
    return result, buffer.raw


def list_links() -> Iterator[int]:
    """Ids of all BPF links of the machine."""
    last = 0
    while True:
        try:
            _, answer = bpf(_NEXT_LINK, struct.pack("=I", last))
        except FileNotFoundError:
            return
        last = struct.unpack_from("=I", answer, 4)[0]
        yield last


def detach(cgroup: str) -> int:
    """Detach every program that is attached to a cgroup of the test's own by link; how many there were."""
    count = 0
    for number in list_links():
        try:
            link, _ = bpf(_LINK_BY_ID, struct.pack("=I", number))
        except FileNotFoundError:
            continue
        try:
            info = (ctypes.c_uint64 * 16)()
            bpf(_INFO_BY_FD, struct.pack("=IIQ", link, ctypes.sizeof(info), ctypes.addressof(info)))
            cgroup_id = info[2]  # bpf_link_info: type, id, prog_id, a hole, then cgroup_id of a cgroup link (type 3)
            if info[0] & 0xFFFF_FFFF == 3 and cgroup_id == Path(cgroup).stat().st_ino:
                bpf(_DETACH, struct.pack("=I", link))
                count += 1
        finally:
            os.close(link)
    return count


def sources(host: Host) -> dict[str, dict[str, Any]]:
    done = host.cli("status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)["sources"]}


def said(host: Host, text: str) -> list[str]:
    return [line for line in host.stderr().splitlines() if text in line]


def counts(host: Host) -> list[str]:
    return [row["COUNT"] for row in host.events("EXCEEDED") if row["USER"] == SPAMMER[0]]


def wait_told(host: Host, text: str, seconds: float) -> None:
    began = time.monotonic()
    wait_for(lambda: said(host, text), seconds)
    print(f"{text!r} after {time.monotonic() - began:.2f} s")


@contextmanager
def made_host(rules: Sequence[object], **settings: Any) -> Iterator[Host]:  # noqa: ANN401 - YAML values
    with Host(rules=list(rules), attribution={"process": False, "php": False, "rdns": False}, **settings) as host:
        host.expect_errors("^source bpf has died: .*the program was detached")
        yield host


@contextmanager
def removable_cgroup(host: Host) -> Iterator[Path]:
    """What the guard watches is a cgroup that can be removed, as a container engine removes one."""
    outer = host.lab.cgroup
    assert outer is not None
    inner = Path(outer, "tenants")
    inner.mkdir()
    host.configure(cgroup=str(inner))
    host.lab.cgroup = str(inner)
    try:
        yield inner
    finally:
        if host.daemon is not None and host.daemon.poll() is None:
            host.stop()
        host.lab.cgroup = outer
        if inner.exists():
            wait_for(lambda: remove(inner))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: b") T " in read_process(pid, "stat"))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def remove(cgroup: Path) -> bool:
    """Whether it is gone; processes that have just ended may keep it for a moment."""
    try:
        cgroup.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def test_a_program_detached_from_outside_is_attached_again() -> None:
    with made_host([RULE]) as host:
        host.start()
        assert host.cli("block", OTHER[0], "--for", "10m").returncode == 0
        assert host.connect(SPAMMER, 20).ok == 20
        assert host.lab.cgroup is not None
        assert detach(host.lab.cgroup) >= 2
        assert host.connect(OTHER).refused == 1, "nft holds meanwhile"
        wait_told(host, "source bpf is back", NOTICED_S)
        assert sources(host)["bpf"]["state"] == "leads"
        assert sources(host)["bpf"]["restarts"] == 1
        assert host.connect(OTHER).errors == {"EPERM": 1}, "the new program knows the blocks"
        assert host.connect(SPAMMER, 10).ok == 10
        assert counts(host) == []
        host.connect(SPAMMER)
        wait_for(lambda: counts(host) == ["31"], 5)
        assert len(said(host, "source bpf")) == 3, host.stderr()  # leads, has died, is back
        text = host.cli("status").stdout
        assert "died once" in text


def test_the_loop_goes_on_while_the_program_is_loaded_anew() -> None:
    with made_host([TOLD]) as host, Standstill() as standstill:
        host.start()
        assert host.lab.cgroup is not None
        client = host.begin(SPAMMER, 1200, 400)
        for number in range(1, 4):
            assert detach(host.lab.cgroup) >= 2
            wait_for(lambda n=number: len(said(host, "source bpf is back")) == n, NOTICED_S)  # type: ignore[misc]
        assert host.outcome(client).ok == 1200
        status = json.loads(host.cli("status", "--json").stdout)
        print(f"worst stall {status['worst_stall_ms']} ms in {status['worst_stall_in']}")
        assert status["worst_stall_ms"] < MOST_STALL_MS + 1000 * standstill.worst_s(), status["worst_stall_in"]
        assert status["sources"][0]["restarts"] == 3


def test_the_next_source_takes_over_and_the_better_one_comes_back() -> None:
    with made_host([RULE]) as host, removable_cgroup(host) as cgroup:
        host.start()
        assert host.connect(SPAMMER, 12).ok == 12
        wait_for(lambda: remove(cgroup))
        wait_told(host, "source nflog takes over", NOTICED_S)
        host.lab.cgroup = None
        shown = sources(host)
        assert (shown["bpf"]["state"], shown["nflog"]["state"]) == ("down", "leads")
        assert str(cgroup) in shown["bpf"]["why"]
        assert host.connect(SPAMMER, 12).ok == 12
        cgroup.mkdir()
        host.lab.cgroup = str(cgroup)
        wait_told(host, "source bpf is back", BACK_S)
        assert host.connect(SPAMMER, 6).ok == 6
        assert counts(host) == []
        host.connect(SPAMMER)
        wait_for(lambda: counts(host) == ["31"], 5)
        wait_for(lambda: len(host.events("CONNECT")) >= 31)
        sensors = Counter(row["SENSOR"] for row in host.events("CONNECT"))
        assert (sensors["bpf"], sensors["nflog"]) == (19, 12)
        assert len(said(host, "has died")) == len(said(host, "takes over")) == len(said(host, "is back")) == 1
        assert len(said(host, "source bpf can't be used")) == 1, "told once, however often it was tried"
        assert "smtpguard_watch" not in host.nft("list", "ruleset")
        assert sources(host)["nflog"]["state"] == "standby"


def test_no_connection_falls_between_two_sources() -> None:
    """While the better source comes back a user goes on connecting: each of their connections counts, and once."""
    total, rate = 1200, 250
    with made_host([TOLD], sources="auto") as host, removable_cgroup(host) as cgroup:
        host.start()
        wait_for(lambda: remove(cgroup))
        wait_told(host, "source nflog takes over", NOTICED_S)
        begun = time.monotonic()
        host.lab.cgroup = str(cgroup.parent)
        client = host.begin(SPAMMER, total, rate)
        wait_for(lambda: host.events("CONNECT"))  # it is tried after 1, 3 and 7 s: the client is at work then
        with stopped(client.pid):  # it comes with its place, between two connections
            cgroup.mkdir()
            (cgroup / "cgroup.procs").write_text(str(client.pid))
        clients = [client]
        if time.monotonic() - begun > 1.5:  # held up: it may be tried after 7 s only, so somebody is at work for longer
            host.lab.cgroup = str(cgroup)
            clients.append(host.begin(SPAMMER, 2 * total, rate))
            total *= 3
        wait_told(host, "source bpf is back", BACK_S)
        running = any(client.poll() is None for client in clients)
        assert sum(host.outcome(client).ok for client in clients) == total
        assert running, "it came back too late for this test to say anything"
        wait_for(lambda: len(host.events("CONNECT")) >= total, 10)
        time.sleep(0.3)
        sensors = Counter(row["SENSOR"] for row in host.events("CONNECT"))
        print(sensors)
        assert min(sensors["bpf"], sensors["nflog"]) > 0
        assert sensors.total() == total


def test_a_deleted_log_table_is_put_back() -> None:
    with made_host([RULE], sources=["nflog"]) as host:
        host.start()
        assert host.connect(SPAMMER, 20).ok == 20
        host.nft("delete", "table", "inet", "smtpguard_watch")
        wait_told(host, "smtpguard_watch was deleted", NOTICED_S)
        assert "log group" in host.nft("list", "table", "inet", "smtpguard_watch")
        assert host.connect(SPAMMER, 10).ok == 10
        assert counts(host) == []
        host.connect(SPAMMER)
        wait_for(lambda: counts(host) == ["31"], 5)
        assert sources(host)["nflog"]["notes"]["table_restored"] == 1
        host.nft("delete", "table", "inet", "smtpguard_watch")
        wait_for(lambda: sources(host)["nflog"]["notes"]["table_restored"] == 2, NOTICED_S)
        assert len(said(host, "smtpguard_watch")) == 1, "told once"
        assert "2 table restored" in host.cli("status", "-v").stdout


def test_what_a_program_saw_before_it_was_detached_is_handed_over() -> None:
    with open_lab() as lab:
        uid = random_uid()
        dials(uid, lab.cgroup, ADDRESS4)
        assert detach(str(lab.cgroup)) >= 2
        lab.source._next_check_ns = 0
        assert [connect.uid for connect in lab.source.read()] == [uid]
        assert lab.source.next_poll_ns() == 0, "at once"
        with pytest.raises(SourceError, match="detached"):
            lab.source.read()
