"""Rules as bytes: there and back, and as auditctl makes them."""

import pytest

from smtpguard.decode.audit.rule import (
    FIELD_SADDR_FAM,
    FILTER_EXIT,
    FILTER_URING_EXIT,
    OP_BIT_TEST,
    OP_EQUAL,
    AuditRule,
    connect_rules,
    parse_rule,
    render_rule,
)
from smtpguard.errors import DecodeError

X86_64, I386 = 0xC000003E, 0x40000003


@pytest.mark.parametrize("machine", ["x86_64", "i686", "aarch64", "armv7l", "riscv64", "ppc64le", "loongarch64"])
@pytest.mark.parametrize("uid", [None, 0, 61001, 4294967294])
@pytest.mark.parametrize("by_family", [True, False])
def test_rules_come_back_as_they_went(machine: str, uid: int | None, *, by_family: bool) -> None:
    rules = connect_rules(machine, key=b"smtpguard-1-2", uid=uid, by_family=by_family)
    assert [parse_rule(render_rule(rule)) for rule in rules] == rules
    assert len(rules) == len(set(rules))
    assert sum(any(field == FIELD_SADDR_FAM for field, _, _ in rule.fields) for rule in rules) == by_family * len(rules)
    assert all(((1, OP_EQUAL, uid) in rule.fields) == (uid is not None) for rule in rules)


def test_an_unknown_machine_is_an_error() -> None:
    with pytest.raises(DecodeError):
        connect_rules("vax", key=b"k", uid=None, by_family=True)


def test_what_the_rules_of_a_pc_log() -> None:
    rules = connect_rules("x86_64", key=b"k", uid=None, by_family=False)
    assert {(rule.filter, rule.calls, rule.fields) for rule in rules} == {
        (FILTER_EXIT, frozenset({42}), ((11, OP_EQUAL, X86_64),)),
        (FILTER_EXIT, frozenset({44, 307}), ((11, OP_EQUAL, X86_64), (203, OP_BIT_TEST, 0x20000000))),
        (FILTER_EXIT, frozenset({46}), ((11, OP_EQUAL, X86_64), (202, OP_BIT_TEST, 0x20000000))),
        (FILTER_EXIT, frozenset({362}), ((11, OP_EQUAL, I386),)),
        (FILTER_EXIT, frozenset({102}), ((11, OP_EQUAL, I386), (200, OP_EQUAL, 3))),
        (FILTER_EXIT, frozenset({345, 369}), ((11, OP_EQUAL, I386), (203, OP_BIT_TEST, 0x20000000))),
        (FILTER_EXIT, frozenset({370}), ((11, OP_EQUAL, I386), (202, OP_BIT_TEST, 0x20000000))),
        (FILTER_URING_EXIT, frozenset({16}), ()),
    }


def test_a_rule_for_all_calls_and_one_with_strings() -> None:
    never = AuditRule(filter=1, calls=frozenset(), fields=(), key=None, action=0)
    assert parse_rule(render_rule(never)) == never
    raw = bytearray(render_rule(AuditRule(filter=4, calls=frozenset({2}), fields=((1, OP_EQUAL, 5),), key=b"the key")))
    # An executable's path before the key, as in -F exe=/bin/x -k "the key": field 112, whose value is a length.
    raw[8:12] = (3).to_bytes(4, "little")
    for base, values in ((12 + 256, (112, 1, 210)), (12 + 512, (6, 5, 7)), (12 + 768, (OP_EQUAL,) * 3)):
        for place, value in enumerate(values):
            raw[base + 4 * place : base + 4 * place + 4] = value.to_bytes(4, "little")
    raw[1036:1040] = (13).to_bytes(4, "little")
    raw[1040:] = b"/bin/xthe key"
    assert parse_rule(bytes(raw)).key == b"the key"


@pytest.mark.parametrize("cut", [0, 100, 1039, 1045])
def test_a_rule_that_is_cut_short_is_a_decode_error(cut: int) -> None:
    raw = render_rule(connect_rules("x86_64", key=b"smtpguard-1-2", uid=1, by_family=True)[0])
    with pytest.raises(DecodeError):
        parse_rule(raw[:cut])


def test_a_rule_with_too_many_fields_is_a_decode_error() -> None:
    raw = bytearray(render_rule(connect_rules("x86_64", key=b"k", uid=1, by_family=True)[0]))
    raw[8:12] = (65).to_bytes(4, "little")
    with pytest.raises(DecodeError):
        parse_rule(bytes(raw))
