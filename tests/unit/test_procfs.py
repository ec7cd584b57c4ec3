"""/proc as text: names may hold anything, and are never mistaken for what stands beside them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.looker.procfs import TICK_NS, Process, Stat, parse_stat, parse_uids
from smtpguard.enrich.looker.rooted_files import exists
from smtpguard.errors import DecodeError

REST = b" S 12 34 56 1025 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 777 1000 200 18446744073709551615"


def stat_of(comm: bytes) -> Stat:
    return Stat(comm=comm, state="S", ppid=12, session=56, tty=1025, start_ns=777 * TICK_NS)


@pytest.mark.parametrize("comm", [b"cat", b"a b", b") R 1 (", b"((", b"x\ny", b"\xff\x1b[0m", b""])
def test_names_cannot_forge_a_stat(comm: bytes) -> None:
    assert parse_stat(b"99 (" + comm + b")" + REST + b"\n") == stat_of(comm)


@given(st.binary(max_size=15))
def test_no_name_can(comm: bytes) -> None:
    assert parse_stat(b"99 (" + comm + b")" + REST + b"\n") == stat_of(comm)


@pytest.mark.parametrize("raw", [b"", b"99 (cat", b"99 (cat) S 12", b"99 (cat) S x" + REST, b"\x00" * 50])
def test_what_is_no_stat_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_stat(raw)


def test_uids() -> None:
    raw = b"Name:\tUid:\\n1\nUmask:\t0022\nUid:\t1001\t1002\t1003\t1004\nGid:\t0\t0\t0\t0\n"
    assert parse_uids(raw) == (1001, 1002, 1003, 1004)


@pytest.mark.parametrize("raw", [b"", b"Uid:\t1\t2\t3\n", b" Uid:\t1\t2\t3\t4\n", b"Uid:\t-1\t2\t3\t4\n"])
def test_what_has_no_uids_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_uids(raw)


def test_the_kernels_own_words_about_us() -> None:
    with Process(os.getpid()) as process:
        stat, uids = process.stat(), process.uids()
        assert stat is not None
        assert stat.ppid == os.getppid()
        assert uids == (os.getuid(), os.geteuid(), os.getresuid()[2], os.geteuid())
        assert process.link(b"cwd") == bytes(Path.cwd())
        assert process.cmdline() == Path("/proc/self/cmdline").read_bytes()[:4096]


def test_a_process_that_ended_is_gone_and_nothing_else() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    with Process(pid) as process:
        os.waitpid(pid, 0)
        assert (process.stat(), process.uids(), process.link(b"exe"), process.cmdline()) == (None, None, None, b"")


def test_reading_stops_at_the_bound(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "environ").write_bytes(b"x" * 100_000)
    with Process(7, proc=tmp_path) as process:
        assert len(process.environ()) == 65_536
        assert process.read(b"nothing", 10) == b""


def test_a_script_is_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.php").touch()
    (tmp_path / "link.php").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "fifo.php")
    with Process(os.getpid()) as process:
        there = {name: exists(process, bytes(tmp_path / name)) for name in ("a.php", "link.php", "fifo.php", "b.php")}
        assert there == {"a.php": True, "link.php": True, "fifo.php": False, "b.php": False}
        assert not exists(process, bytes(tmp_path))
        assert not exists(process, b"/proc/self/root" + bytes(tmp_path / "a.php")), "no way out by a magic link"
