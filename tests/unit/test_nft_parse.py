"""Listings as nft 1.0.6 prints them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.actions.nft.elements import PERMANENT_NS, Element
from smtpguard.actions.nft.parse import parse_counters, parse_counts, parse_set, parse_time
from smtpguard.actions.nft.render import render_element, render_timeout
from smtpguard.errors import DecodeError

LISTING = """table inet smtpguard {
\tset blocked {
\t\ttype uid
\t\tsize 65536
\t\tflags interval,timeout
\t\telements = { 5, 7-9 comment "by, hand }", 1001 timeout 10m500ms expires 10m448ms comment "uid 1001; guard",
\t\t\t     100000-165535 timeout 1s expires 976ms }
\t}
}
"""
CAPPED = """table inet t {
\tset capped {
\t\ttypeof meta skuid
\t\tsize 65536
\t\tflags dynamic,timeout
\t\ttimeout 1d
\t\telements = { 61001 counter packets 3 bytes 180 expires 23h59m59s996ms, 61002 expires 1s }
\t}
}
"""
COUNTERS = """table inet smtpguard {
\tcounter passed_root {
\t\tpackets 0 bytes 0
\t}
\tcounter refused_blocked {
\t\tpackets 12 bytes 720
\t}
}
"""


def test_elements_with_ranges_times_and_comments() -> None:
    assert parse_set(LISTING, 1000) == [
        Element(first=5, last=5, until_ns=PERMANENT_NS),
        Element(first=7, last=9, until_ns=PERMANENT_NS, comment="by, hand }"),
        Element(first=1001, last=1001, until_ns=1000 + 600_448_000_000, comment="uid 1001; guard"),
        Element(first=100000, last=165535, until_ns=1000 + 976_000_000),
    ]


def test_counts_and_counters() -> None:
    assert parse_counts(CAPPED) == {61001: 3}
    assert parse_counters(COUNTERS) == {"passed_root": 0, "refused_blocked": 12}


def test_an_empty_set_has_no_elements() -> None:
    assert parse_set("table inet t {\n\tset blocked {\n\t\ttype uid\n\t}\n}\n", 0) == []


@pytest.mark.parametrize(
    "elements",
    ["www-data", "5 timeout 1x expires 1x", "9-7", "5", "4294967296", "99999999999", '5 comment "x', "5 timeout 1s,"],
)
def test_what_is_no_element_is_refused(elements: str) -> None:
    text = f"elements = {{ {elements}" + ("" if elements in ("5", "5 timeout 1s,") else " }")
    with pytest.raises(DecodeError):
        parse_set(text, 0)


@given(st.text(alphabet='elmnts ={}0123456789-,"timeoutxpired commentsh\n', max_size=80))
def test_garbage_raises_nothing_but_decode_error(text: str) -> None:
    for parse in (lambda t: parse_set(t, 0), parse_counts):
        try:
            parse("elements = { " + text)
        except DecodeError:
            continue


@given(st.integers(1, 10**17))
def test_times_come_back_rounded_up_to_a_millisecond(remaining_ns: int) -> None:
    assert 0 <= parse_time(render_timeout(remaining_ns)) - remaining_ns < 1_000_000


@pytest.mark.parametrize(
    ("remaining_ns", "text"),
    [(1, "1ms"), (-5, "1ms"), (10**9, "1s"), (600_500 * 10**6, "600s500ms"), (10**30, "315360000s")],
)
def test_timeouts_are_exact_and_bounded(remaining_ns: int, text: str) -> None:
    assert render_timeout(remaining_ns) == text


def test_a_rendered_element_reads_back() -> None:
    element = Element(first=3, last=9, until_ns=7_000_000_000, comment="uid 3; guard")
    assert render_element(element, 1_000_000_000) == '3-9 timeout 6s comment "uid 3; guard"'
    assert render_element(Element(first=3, last=3, until_ns=PERMANENT_NS), 0) == "3"
