"""What replay does not read it names; what stands in several files counts once; who is who on several hosts."""

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpguard.errors import SourceError
from smtpguard.sources.audit.replay import ReplaySource
from tests.support.audit_records import Event, log
from tests.support.audit_wrappings import LINE_FORMS, join, laurel
from tests.unit.test_replay_source import PORTS, read_all

RAW = "ausearch --raw where auditd runs, else journalctl _TRANSPORT=audit -o json"
INTERPRETED = """\
----
type=PROCTITLE msg=audit(11/14/2023 22:13:20.100:41) : proctitle=php-fpm: pool web01
type=SOCKADDR msg=audit(11/14/2023 22:13:20.100:41) : saddr={ saddr_fam=inet laddr=198.51.100.25 lport=25 }
type=SYSCALL msg=audit(11/14/2023 22:13:20.100:41) : arch=x86_64 syscall=connect success=no exit=EINPROGRESS(x) a0=0x3
"""
JOURNAL = """\
Nov 14 22:13:20 web7 audit[3703]: SYSCALL arch=c000003e syscall=42 success=no exit=-115 a0=3 pid=3703 uid=1001
Nov 14 22:13:20 web7 audit: SOCKADDR saddr=02000019C63364190000000000000000
Nov 14 22:13:21 web7 kernel: audit: type=1400 audit(1700000000.100:42): apparmor="DENIED" operation="open"
"""
CSV = "NODE,EVENT,DATE,TIME,SERIAL_NUM,EVENT_KIND\n,SYSCALL,11/14/2023,22:13:20,41,unspecified\n"
TEXT = "At 22:13:20 11/14/2023 web01, acting as web01, successfully connected-to 198.51.100.25 using /usr/bin/perl\n"


def problems(data: bytes, path: Path | None = None) -> tuple[int, list[tuple[str, str, str | None]]]:
    if path is not None:
        path.write_bytes(data)
    source = ReplaySource([str(path or "-")], ports=PORTS, stdin=io.BytesIO(data))
    count = len(read_all(source))
    return count, [(problem.file, problem.problem, problem.use) for problem in source.problems]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (INTERPRETED.encode(), "is interpreted (ausearch -i), which can't be joined"),
        (JOURNAL.encode(), "is journald's text, which can't be joined"),
        (CSV.encode(), "is a report (ausearch --format csv or text), which can't be joined"),
        (TEXT.encode(), "is a report (ausearch --format csv or text), which can't be joined"),
        (b"Feb 18 postfix/smtpd: connect\n" * 5000, "holds no audit record"),
        (b'{"level":"info","msg":"audit"}\n', "holds no audit record"),
        (b"\xff\x00" * 100, "holds no audit record"),
        (b'{"a":' * 100_000 + b"\n", "holds no audit record"),
    ],
    ids=["interpreted", "journal", "csv", "text", "mail", "json", "binary", "deep"],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "log"
    assert problems(data, path) == (0, [(str(path), problem, RAW)])
    assert problems(data) == (0, [("-", problem, RAW)])


def test_utf_16_is_named() -> None:
    count, ((_, problem, use),) = problems(log(Event().lines()).decode().encode("utf-16"))
    assert (count, problem, use) == (0, "is UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | smtpguard replay -")


def test_records_of_which_none_can_be_read_are_no_quiet_zero() -> None:
    bad = [*Event(serial=1, saddr="02000019").lines(), Event(serial=2).sockaddr()]
    forged = [Event(serial=3, enriched=True).call(), Event(serial=3).sockaddr()]
    count, ((_, problem, use),) = problems(log([*bad, *forged]))
    told = "1 garbled, 1 without their other half, 1 forged or doubled"
    assert (count, use) == (0, RAW)
    assert problem == f"holds SMTP connects, but none that could be read ({told})"
    assert problems(log([*bad, *Event(serial=9).lines()])) == (1, []), "that is told as left out"


MIXED = ("-", "changes its form: some lines were not read", "name the files that were put together, each by itself")


@pytest.mark.parametrize(
    "other", sorted(set(LINE_FORMS) - {"plain", "crlf", "bom", "fam", "blank", "octal", "nothing"})
)
@pytest.mark.parametrize("first", ["plain", "journal-export"])
def test_logs_of_several_forms_put_into_one_are_read_or_named(first: str, other: str) -> None:
    """`cat audit.log exported.json | smtpguard replay -`: the search for records in auditd's form sees no others."""
    events = [Event(serial=1000 + number, millis=number * 1500, pid=4000 + number) for number in range(40)]
    halves = [[line for event in part for line in event.lines()] for part in (events[:20], events[20:])]
    count, found = problems(LINE_FORMS[first](halves[0]) + LINE_FORMS[other](halves[1]))
    assert (count, found) == (40, []) or (count in range(20, 40) and found == [MIXED])


def test_a_line_cut_off_at_the_beginning_of_a_log_is_no_other_form() -> None:
    lines = [line for serial in range(3) for line in Event(serial=serial, pid=serial + 9, node="web1").lines()]
    for cut in (3, 12, 25):
        assert problems(log(lines)[cut:]) == (2, [])


def test_calls_without_their_addresses_are_named() -> None:
    """What `grep type=SYSCALL` or `ausearch -m SYSCALL` leaves of a log says not where a connect went."""
    calls = [Event(serial=serial, pid=serial + 9).call() for serial in range(3)]
    problem = "holds SYSCALL records of connect() without the SOCKADDR records that say where to"
    assert problems(log(calls)) == (0, [("-", problem, RAW)])
    assert problems(log([call.replace("syscall=42", "syscall=59") for call in calls])) == (0, [])
    assert problems(log([*calls, *Event(serial=9, port=443).lines()])) == (0, [])


class Dribble(io.RawIOBase):
    """A pipe whose writer has written one byte when it is first asked."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._pieces = [data[:1], data[1:]]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        while self._pieces and not self._pieces[0]:
            del self._pieces[0]
        if not self._pieces:
            return 0
        piece = self._pieces[0][: len(buffer)]
        buffer[: len(piece)] = piece
        self._pieces[0] = self._pieces[0][len(piece) :]
        return len(piece)


@pytest.mark.parametrize("form", ["plain", "journal-export", "bom", "rfc3164"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_pipe_that_begins_slowly_is_read_like_any(form: str, packed: Callable[[bytes], bytes]) -> None:
    data = packed(LINE_FORMS[form](Event().lines()))
    source = ReplaySource(["-"], ports=PORTS, stdin=io.BufferedReader(Dribble(data)))
    assert len(read_all(source)) == 1
    assert not source.problems


def test_standard_input_that_is_closed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SourceError, match="is closed"):
        ReplaySource(["-"], ports=PORTS).open()


def test_an_empty_file_is_a_problem_only_where_nothing_else_was_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_bytes(log(Event().lines()))
    assert problems(b"") == (0, [("-", "is empty", None)])
    source = ReplaySource([str(tmp_path / "empty"), str(tmp_path / "full")], ports=PORTS)
    assert (len(read_all(source)), source.problems) == (1, [])


def test_a_record_far_into_a_file_of_other_things_is_found() -> None:
    noise = "Nov 14 22:13:20 web7 postfix/smtpd[1]: connect from unknown\n" * 4000
    assert problems(noise.encode() + LINE_FORMS["syslog-kernel"](Event().lines())) == (1, [])


def test_a_line_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.decode.audit.forms.MAX_LINE_BYTES", 1000)
    form = LINE_FORMS["rfc3164"]
    data = form(Event(serial=1, pid=1).lines()) + b"x" * 5_000_000 + b"\n" + form(Event(serial=2, pid=2).lines())
    source = ReplaySource(["-"], ports=PORTS, stdin=io.BytesIO(data))
    assert [connect.pid for connect in read_all(source)] == [1, 2]
    assert source.stats.garbled == 1


def test_a_forged_record_in_a_path_is_none_in_a_wrapped_log_either() -> None:
    """A path stands behind its own record's `type=`, which comes first in its line."""
    path = "/x type=SOCKADDR msg=audit(1771400000.000:1001): saddr=02000019C63364190000000000000000"
    event = Event(serial=1001, enriched=True)
    lines = [event.call(), f"type=SOCKADDR msg=audit(1771400000.000:9): saddr=0100\x1dSADDR={{ path={path}"]
    assert problems(LINE_FORMS["rfc3164"](lines))[0] == 0


def zstd(data: bytes) -> bytes:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("lacks zstd")
    return subprocess.run([program, "-qc"], input=data, capture_output=True, check=True).stdout


def test_zstd_is_read_and_its_damage_named(tmp_path: Path) -> None:
    data = log([line for serial in range(1, 3000) for line in Event(serial=serial, pid=serial).lines()])
    path = tmp_path / "audit.log.zst"
    path.write_bytes(zstd(data))
    assert len(read_all(ReplaySource([str(path)], ports=PORTS))) == 2999
    assert len(read_all(ReplaySource(["-"], ports=PORTS, stdin=io.BytesIO(zstd(data))))) == 2999
    path.write_bytes(zstd(data)[:-200])
    with pytest.raises(SourceError, match="damaged or cut short") as caught:
        read_all(ReplaySource([str(path)], ports=PORTS))
    assert caught.value.where == str(path)


def test_where_nothing_unpacks_zstd_it_says_what_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.log.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    monkeypatch.setattr("smtpguard.sources.audit.packed.shutil.which", lambda _: None)
    with pytest.raises(SourceError, match="packed by zstd") as caught:
        read_all(ReplaySource([str(path)], ports=PORTS))
    assert f"zstd -dc {path} | smtpguard replay -" in str(caught.value)


@pytest.mark.parametrize(
    ("count", "pack"),
    [(3, bytes), (300, bytes), (300, bz2.compress), (300, lzma.compress), (3, gzip.compress), (20_000, gzip.compress)],
)
@pytest.mark.parametrize("enriched", [False, True])
def test_the_same_events_in_two_files_count_once(
    tmp_path: Path, pack: Callable[[bytes], bytes], count: int, *, enriched: bool
) -> None:
    events = [Event(serial=n, pid=n, millis=n, enriched=enriched) for n in range(1, count + 1)]
    data = log([line for event in events for line in event.lines()])
    (tmp_path / "audit.log.1").write_bytes(data)
    (tmp_path / "audit.log.1.gz").write_bytes(pack(data))
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    for names in (["audit.log.1", "audit.log.1.gz"], ["audit.log.1", "half"], ["audit.log.1"] * 2):
        source = ReplaySource([str(tmp_path / name) for name in names], ports=PORTS)
        assert sorted(connect.pid or 0 for connect in read_all(source)) == list(range(1, count + 1)), names
        assert source.stats.notes["duplicates"] >= count // 2 - 1
        assert (source.stats.notes["doubled"], source.stats.lost, source.problems) == (0, 0, [])


def test_another_form_of_the_same_log_counts_once(tmp_path: Path) -> None:
    events = [Event(serial=n, pid=n, millis=n) for n in range(1, 50)]
    (tmp_path / "a").write_bytes(log([line for event in events for line in event.lines()]))
    (tmp_path / "b").write_bytes(laurel(events))
    assert len(read_all(ReplaySource([str(tmp_path / "a"), str(tmp_path / "b")], ports=PORTS))) == 49


def test_logs_of_two_hosts_are_no_copies(tmp_path: Path) -> None:
    for node in ("web1", "web2"):
        events = [Event(serial=n, pid=n, millis=n, node=node) for n in range(1, 50)]
        (tmp_path / node).write_bytes(log([line for event in events for line in event.lines()]))
    source = ReplaySource([str(tmp_path / "web1"), str(tmp_path / "web2")], ports=PORTS)
    assert len(read_all(source)) == 98


def test_standard_input_can_be_read_once() -> None:
    with pytest.raises(SourceError, match="named twice"):
        ReplaySource(["-", "-"], ports=PORTS).open()


def test_a_byte_order_mark_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbf" + join(Event().lines()))
    assert len(read_all(ReplaySource([str(path)], ports=PORTS))) == 1
