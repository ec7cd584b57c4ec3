"""PCRE2 finds what Python's own search finds, and steps aside where it can't."""

import ctypes
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.decode.audit.sieve import SLACK_BYTES, SockaddrSieve
from smtpguard.sources.audit import pcre
from smtpguard.sources.audit.pcre import PcreSieve, make_sieve
from smtpguard.sources.audit.replay import ReplaySource
from tests.support.audit_records import Event, log, unix_lines

PORTS = frozenset({25, 465, 587, 2525})
needs_pcre = pytest.mark.skipif(make_sieve(PORTS) is None, reason="lacks libpcre2-8, or code made at run time")


def padded(data: bytes) -> bytearray:
    return bytearray(data + bytes(SLACK_BYTES))


def some_log(seed: int) -> bytes:
    draw = random.Random(seed)
    lines: list[str] = []
    for serial in range(draw.randrange(1, 40)):
        port = draw.choice([25, 465, 587, 2525, 443, 53, 6400, 19])
        address = draw.choice(["192.0.2.1", "2001:db8::1", "::ffff:198.51.100.7"])
        event = Event(serial=10 ** draw.randrange(1, 9) + serial, port=port, address=address, lower=draw.random() < 0.5)
        lines += draw.choice([event.lines(), unix_lines(serial + 1), ["type=CWD msg=audit(1.1:1): cwd=4B4B4B"]])
    return log(lines)


@needs_pcre
@given(seed=st.integers(0, 2**32), ports=st.sets(st.sampled_from([25, 465, 587, 2525, 443, 64222]), min_size=1))
def test_the_same_places(seed: int, ports: set[int]) -> None:
    data = some_log(seed)
    want = SockaddrSieve(ports).find(padded(data), 0, len(data))
    assert PcreSieve(ports).find(padded(data), 0, len(data)) == want
    half = data.find(b"\n", len(data) // 2) + 1
    sieve = PcreSieve(ports)
    assert sieve.find(padded(data), 0, half) + sieve.find(padded(data), half, len(data)) == want


@needs_pcre
@given(data=st.binary(max_size=400), seed=st.integers(0, 2**16), place=st.integers(0, 2**16))
def test_no_bytes_hide_a_record(data: bytes, seed: int, place: int) -> None:
    """Junk between the lines changes nothing about them."""
    lines = some_log(seed).splitlines(keepends=True)
    junk = data.replace(b"K", b"k") + b"\n"
    at = place % (len(lines) + 1)
    before, after = b"".join(lines[:at]), b"".join(lines[at:])
    want = SockaddrSieve(PORTS).find(padded(before + after), 0, len(before + after))
    found = PcreSieve(PORTS).find(padded(before + junk + after), 0, len(before + junk + after))
    assert [place - len(junk) * (place >= len(before)) for place in found] == want


@needs_pcre
def test_the_buffer_is_free_again_afterwards() -> None:
    data = padded(log(Event().lines()))
    PcreSieve(PORTS).find(data, 0, len(data) - SLACK_BYTES)
    data.append(0)  # BufferError while somebody holds it


@needs_pcre
@pytest.mark.parametrize("stops_after", [0, 1])
def test_where_the_library_gives_up_python_goes_on(stops_after: int) -> None:
    data = log([line for serial in range(5) for line in Event(serial=1000 + serial).lines()])
    sieve = PcreSieve(PORTS)
    real, calls = sieve._match, iter(range(100))

    def match(*arguments: object) -> int:
        result: int = real(*arguments) if next(calls) < stops_after else -47  # PCRE2_ERROR_MATCHLIMIT
        return result

    sieve._match = match
    assert sieve.find(padded(data), 0, len(data)) == SockaddrSieve(PORTS).find(padded(data), 0, len(data))


def fail_to_load(_name: str) -> None:
    raise OSError("no such library")


def test_without_the_library_replay_reads_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(log(Event().lines()))

    def read() -> list[object]:
        source = ReplaySource([str(path)], ports=PORTS)
        source.open()
        out: list[object] = []
        while not source.done:
            out += source.read()
        source.close()
        return out

    whole = read()
    pcre._load.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", fail_to_load)
    try:
        assert make_sieve(PORTS) is None
        assert read() == whole
        assert len(whole) == 1
    finally:
        pcre._load.cache_clear()


@needs_pcre
def test_a_host_that_forbids_code_made_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidding:
        def __getattr__(self, name: str) -> object:
            return (lambda *_: -48) if name == "pcre2_jit_compile_8" else getattr(library, name)

    library = pcre._load()
    monkeypatch.setattr(pcre, "_load", Forbidding)
    with pytest.raises(OSError, match="may not make code"):
        PcreSieve(PORTS)
    assert make_sieve(PORTS) is None
