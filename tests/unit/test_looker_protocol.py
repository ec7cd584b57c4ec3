"""Answers of helpers are checked like any input: they have touched hostile memory."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.looker.protocol import (
    MAX_CHAIN,
    MAX_PACKET,
    MAX_STACK,
    Ancestor,
    Attribution,
    Question,
    parse_answer,
    parse_question,
    render_answer,
    render_question,
)
from smtpguard.errors import DecodeError

NUMBER = st.integers(0, 2**63 - 1)
BYTES = st.none() | st.binary(max_size=60)
ANSWERS = st.builds(
    Attribution,
    attr=st.sampled_from([None, "live", "slot", "guess"]),
    proc=BYTES,
    exe=BYTES,
    cwd=BYTES,
    script=BYTES,
    cmdline=BYTES,
    start_ns=st.none() | NUMBER,
    session=st.none() | NUMBER,
    chain=st.lists(
        st.builds(Ancestor, pid=NUMBER, uid=NUMBER, start_ns=NUMBER, comm=st.binary(max_size=20), exe=BYTES),
        max_size=MAX_CHAIN,
    ).map(tuple),
    stack=st.lists(st.binary(max_size=20), max_size=MAX_STACK).map(tuple),
    request=BYTES,
    client=BYTES,
    pid=st.none() | NUMBER,
    why=st.sampled_from(["", "gone", "foreign", "late", "died", "off"]),
)


@given(ANSWERS, st.booleans())
def test_an_answer_comes_through_as_it_was(answer: Attribution, final: bool) -> None:
    assert parse_answer(render_answer(answer, final=final)) == (answer, final)


@given(
    st.builds(
        Question,
        pid=NUMBER | st.none(),
        inode=NUMBER | st.none(),
        uids=st.lists(NUMBER, max_size=3).map(tuple),
        time_ns=NUMBER,
    )
)
def test_so_does_a_question(question: Question) -> None:
    assert parse_question(render_question(question)) == question


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for parse in (parse_answer, parse_question):
        with pytest.raises(DecodeError):
            parse(noise)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=16) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=30,
)


@given(JSON)
def test_json_that_is_no_answer_is_refused(value: object) -> None:
    with pytest.raises(DecodeError):
        parse_answer(json.dumps(value).encode())


@given(ANSWERS, st.integers(0, 13), JSON)
def test_one_forged_field_gives_an_error_or_an_answer_of_the_right_types(
    answer: Attribution, place: int, value: object
) -> None:
    fields = json.loads(render_answer(answer, final=True).decode("latin-1"))
    fields[place] = value
    try:
        forged, _ = parse_answer(json.dumps(fields).encode("latin-1"))
    except DecodeError:
        return
    for name in ("proc", "exe", "cwd", "script", "cmdline", "request", "client"):
        assert isinstance(getattr(forged, name), bytes | None)
    assert forged.attr in {None, "live", "slot", "guess"}
    assert len(forged.chain) <= MAX_CHAIN
    assert all(isinstance(frame, bytes) for frame in forged.stack)


@pytest.mark.parametrize("packet", [b"", b"[" * 100_000, b'"\xff"', b"NaN", b"[true, [], 1]"])
def test_odd_packets(packet: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_answer(packet)


def test_the_longest_answer_fits_into_a_packet_and_keeps_what_matters() -> None:
    worst = b"\x01" * 4096  # six bytes each as JSON
    answer = Attribution(
        attr="live",
        proc=b"\x01" * 64,
        exe=worst,
        cwd=worst,
        script=worst,
        cmdline=worst,
        chain=(Ancestor(pid=1, uid=0, start_ns=0, comm=b"x", exe=worst),) * MAX_CHAIN,
        stack=(worst,) * MAX_STACK,
    )
    packet = render_answer(answer, final=True)
    assert len(packet) <= MAX_PACKET
    kept, _ = parse_answer(packet)
    assert (kept.attr, kept.exe, kept.script, kept.chain) == ("live", worst, worst, ())
