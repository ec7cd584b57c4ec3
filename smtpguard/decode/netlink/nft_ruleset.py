"""A table as the kernel dumps it, turned into the messages that make the same table anew. Pure.

What libnftables compiles is dumped in a network namespace of its own and sent where it is wanted. Only attributes of a
whitelist go on: no handles, no positions, no counts of users (the kernel refuses some of them, NFTA_SET_TYPE and
NFTA_SET_COUNT for one); counters begin at zero. A nameless set gets an id, by which its rule finds it in the same
transaction. Numbers: <linux/netfilter/nf_tables.h>.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from smtpguard.decode.netlink.messages import (
    ATTRIBUTE,
    NLA_F_NESTED,
    list_attributes,
    read_string,
    read_u32,
    render_attribute,
    render_nest,
    split_attributes,
)
from smtpguard.decode.netlink.nft_numbers import (
    CHAIN_BINDING,
    INET,
    NLM_F_APPEND,
    NLM_F_CREATE,
    SET_ANONYMOUS,
    Kind,
    NftChange,
    render_names,
)
from smtpguard.errors import DecodeError

_KEPT: Mapping[Kind, frozenset[int]] = {
    Kind.NEWTABLE: frozenset({1, 2, 6}),  # NAME FLAGS USERDATA
    Kind.NEWCHAIN: frozenset({1, 3, 4, 5, 7, 10, 12}),  # TABLE NAME HOOK POLICY TYPE FLAGS USERDATA
    Kind.NEWRULE: frozenset({1, 2, 7}),  # TABLE CHAIN USERDATA, and EXPRESSIONS made anew
    Kind.NEWSET: frozenset({1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18}),  # all but NAME HANDLE TYPE COUNT
    Kind.NEWOBJ: frozenset({1, 2, 3, 8}),  # TABLE NAME TYPE USERDATA, and DATA made anew
}
_KEPT_OF_ELEMENT = frozenset({1, 2, 3, 4, 6, 7, 9, 10, 11})
"""All but EXPIRATION."""
_OBJECT_COUNTER = 1
_DORMANT = 1
_ZEROS = render_attribute(1, bytes(8)) + render_attribute(2, bytes(8))
"""NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS."""
_NUMBER = re.compile(rb"\d+\Z")
_NAMELESS = re.compile(rb"(__(?:set|map))\d+")
_STATEFUL = frozenset({b"counter", b"quota", b"last", b"connlimit"})
"""Expressions whose data changes by itself."""


Fingerprint = tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """A table, ready to be sent.

    Attributes:
        table: Its name.
        sets: Names of its sets that have one.
        chains: Names of its chains.
        begin: What makes table, counters, sets and chains where they are not, and takes all rules out of these chains.
        elements: What the text itself puts into sets.
        rules: All rules.
        fingerprint: The rules of each chain, as `read_fingerprint` gives them.
        shapes: Hook and policy of each chain, as `read_shape` gives them.
        size: How many chains, sets and counters it has, nameless ones too; the kernel counts so (NFTA_TABLE_USE).
    """

    table: str
    sets: frozenset[str]
    chains: tuple[str, ...]
    begin: tuple[NftChange, ...]
    elements: tuple[NftChange, ...]
    rules: tuple[NftChange, ...]
    fingerprint: tuple[Fingerprint, ...]
    shapes: tuple[bytes, ...]
    size: int

    def render(self, contents: Iterable[NftChange] = ()) -> list[NftChange]:
        """The whole as one transaction.

        Args:
            contents: What sets are to hold, after `begin` and before the rules.
        """
        return [*self.begin, *self.elements, *contents, *self.rules]


def parse_ruleset(messages: Sequence[tuple[int, bytes | memoryview]]) -> Ruleset:
    """Messages of a dump (type without subsystem, body without struct nfgenmsg), in any order of kinds.

    Raises:
        DecodeError: It is no dump of one table, or has what can't be sent anew.
    """
    by_kind: dict[int, list[memoryview]] = {}
    for kind, message in messages:
        by_kind.setdefault(kind, []).append(memoryview(message))
    if len(by_kind.get(Kind.NEWTABLE, ())) != 1:
        raise DecodeError(f"{len(by_kind.get(Kind.NEWTABLE, ()))} tables where one was due")
    names = _Names()
    table = _text(by_kind[Kind.NEWTABLE][0], 1)
    sets = [names.render_set(body) for body in by_kind.get(Kind.NEWSET, ())]
    chains = [_check_chain(body) for body in by_kind.get(Kind.NEWCHAIN, ())]
    begin = [NftChange(Kind.NEWTABLE, NLM_F_CREATE, INET + _keep(by_kind[Kind.NEWTABLE][0], _KEPT[Kind.NEWTABLE]))]
    begin += [NftChange(Kind.NEWOBJ, NLM_F_CREATE, _render_object(body)) for body in by_kind.get(Kind.NEWOBJ, ())]
    begin += [NftChange(Kind.NEWSET, NLM_F_CREATE, body) for body in sets]
    begin += [
        NftChange(Kind.NEWCHAIN, NLM_F_CREATE, INET + _keep(body, _KEPT[Kind.NEWCHAIN]))
        for body in by_kind.get(Kind.NEWCHAIN, ())
    ]
    begin += [NftChange(Kind.DELRULE, 0, render_names(table, chain)) for chain in chains]
    return Ruleset(
        table=table,
        sets=frozenset(names.named),
        chains=tuple(chains),
        begin=tuple(begin),
        elements=tuple(names.render_elements(table, by_kind.get(Kind.NEWSETELEM, ()))),
        fingerprint=tuple(
            read_fingerprint(rule for rule in by_kind.get(Kind.NEWRULE, ()) if _text(rule, 2) == chain)
            for chain in chains
        ),
        shapes=tuple(map(read_shape, by_kind.get(Kind.NEWCHAIN, ()))),
        size=sum(len(by_kind.get(kind, ())) for kind in (Kind.NEWCHAIN, Kind.NEWSET, Kind.NEWOBJ)),
        rules=tuple(
            NftChange(Kind.NEWRULE, NLM_F_CREATE | NLM_F_APPEND, names.render_rule(body))
            for body in by_kind.get(Kind.NEWRULE, ())
        ),
    )


def read_fingerprint(rules: Iterable[bytes | memoryview]) -> Fingerprint:
    """What the rules of a chain do, without what changes by itself: handles, counts, numbers of nameless sets."""
    found = []
    for body in rules:
        for _, item in list_attributes(split_attributes(body).get(4, b"")):
            parts = split_attributes(item)
            name = read_string(parts.get(1)) or b""
            found.append(name if name in _STATEFUL else name + _NAMELESS.sub(rb"\1", bytes(parts.get(2, b""))))
        found.append(b"")
    return tuple(found)


def read_counters(objects: Iterable[bytes | memoryview]) -> dict[str, int]:
    """Packets of each named counter, from a dump of objects."""
    counts = {}
    for body in objects:
        attributes = split_attributes(body)
        packets = split_attributes(attributes.get(4, b"")).get(2)
        if packets is not None and read_u32(attributes.get(3)) == _OBJECT_COUNTER:
            counts[_text(memoryview(body), 2)] = int.from_bytes(packets, "big")
    return counts


def read_dormant(table: bytes | memoryview) -> bool:
    """Whether a table (a body of NEWTABLE) is switched off."""
    return bool((read_u32(split_attributes(table).get(2)) or 0) & _DORMANT)


def read_shape(chain: bytes | memoryview) -> bytes:
    """Where a chain (a body of NEWCHAIN) hooks in, and what becomes of what it lets through: HOOK POLICY TYPE FLAGS."""
    return _keep(chain, frozenset({4, 5, 7, 10}))


def read_size(tables: Iterable[bytes | memoryview]) -> int | None:
    """How many chains, sets and objects are in the first table of a dump."""
    return next((read_u32(split_attributes(body).get(3)) for body in tables), None)


def read_handle(tables: Iterable[bytes | memoryview]) -> int | None:
    """The handle of the first table of a dump."""
    for body in tables:
        handle = split_attributes(body).get(4)
        return None if handle is None else int.from_bytes(handle, "big")
    return None


class _Names:
    """Sets by name: those that have one keep it, nameless ones get an id."""

    def __init__(self) -> None:
        self.named: list[str] = []
        self._ids: dict[bytes, int] = {}
        self._count = 0

    def render_set(self, body: memoryview) -> bytes:
        attributes = split_attributes(body)
        name = read_string(attributes.get(2)) or b""
        self._count += 1
        if (read_u32(attributes.get(3)) or 0) & SET_ANONYMOUS:
            self._ids[name] = self._count
        else:
            self.named.append(name.decode("ascii", "replace"))
        identity = render_attribute(10, self._count.to_bytes(4, "big"))
        return INET + _keep(body, _KEPT[Kind.NEWSET]) + render_attribute(2, _template(name, self._ids)) + identity

    def render_elements(self, table: str, messages: Iterable[memoryview]) -> Iterator[NftChange]:
        """Sets that have a name may be there already, and are emptied first."""
        emptied: set[bytes] = set()
        for message in messages:
            attributes = split_attributes(message)
            name = read_string(attributes.get(2)) or b""
            items = [_keep(item, _KEPT_OF_ELEMENT) for _, item in list_attributes(attributes.get(3, b""))]
            if not items:
                continue
            if name not in self._ids and name not in emptied:
                emptied.add(name)
                yield NftChange(Kind.DELSETELEM, 0, render_names(table, name.decode("ascii", "replace")))
            reference = self._reference(name, by_name=2, by_id=4)
            listing = render_nest(3, b"".join(render_nest(1, item) for item in items))
            body = b"".join((INET, render_attribute(1, attributes[1]), *reference, listing))
            yield NftChange(Kind.NEWSETELEM, NLM_F_CREATE, body)

    def render_rule(self, body: memoryview) -> bytes:
        expressions = split_attributes(body).get(4, b"")
        listing = b"".join(
            render_nest(1, b"".join(self._render_expression(split_attributes(item))))
            for _, item in list_attributes(expressions)
        )
        return INET + _keep(body, _KEPT[Kind.NEWRULE]) + render_nest(4, listing)

    def _render_expression(self, attributes: Mapping[int, memoryview]) -> Iterator[bytes]:
        kind = read_string(attributes.get(1))
        yield render_attribute(1, attributes[1])
        data = attributes.get(2)
        if data is None:
            return
        if kind == b"counter":
            yield render_nest(2, _ZEROS)
            return
        by_name, by_id = {b"lookup": (1, 4), b"objref": (4, 5)}.get(kind or b"", (0, 0))
        inner = split_attributes(data)
        name = read_string(inner.get(by_name)) if by_name else None
        if name is None or name not in self._ids:
            yield render_nest(2, bytes(data))
            return
        yield render_nest(
            2,
            b"".join(
                (
                    _keep(data, frozenset(inner) - {by_name, by_id}),
                    *self._reference(name, by_name=by_name, by_id=by_id),
                )
            ),
        )

    def _reference(self, name: bytes, *, by_name: int, by_id: int) -> Iterator[bytes]:
        yield render_attribute(by_name, _template(name, self._ids))
        if name in self._ids:
            yield render_attribute(by_id, self._ids[name].to_bytes(4, "big"))


def _template(name: bytes, nameless: Mapping[bytes, int]) -> bytes:
    """The name to send: the kernel chooses the number of a nameless set."""
    return (_NUMBER.sub(b"%d", name) if name in nameless else name) + b"\0"


def _check_chain(body: memoryview) -> str:
    attributes = split_attributes(body)
    if (read_u32(attributes.get(10)) or 0) & CHAIN_BINDING:
        raise DecodeError("a chain without a name (jump { ... }) can't be sent anew: give it a name")
    return _text(body, 3)


def _render_object(body: memoryview) -> bytes:
    attributes = split_attributes(body)
    data = bytes(attributes.get(4, b""))
    if read_u32(attributes.get(3)) == _OBJECT_COUNTER:
        data = _ZEROS
    return INET + _keep(body, _KEPT[Kind.NEWOBJ]) + render_nest(4, data)


def _text(body: memoryview, kind: int) -> str:
    return (read_string(split_attributes(body).get(kind)) or b"").decode("ascii", "replace")


def _keep(data: bytes | memoryview, kinds: frozenset[int]) -> bytes:
    """The attributes of these kinds as they are, with their flags."""
    view = memoryview(data)
    offset = 0
    kept = []
    while len(view) - offset >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(view, offset)
        if not ATTRIBUTE.size <= length <= len(view) - offset:
            raise DecodeError(f"a netlink attribute of {length} bytes in {len(view) - offset}")
        if kind & ~NLA_F_NESTED in kinds:
            kept.append(render_attribute(kind, view[offset + ATTRIBUTE.size : offset + length]))
        offset += (length + 3) & ~3
    return b"".join(kept)
