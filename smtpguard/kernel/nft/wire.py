"""Elements of interval sets as nfnetlink's messages: any number of them, in chunks that one message can hold. Pure.

Layouts: <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>; comments as libnftnl keeps them. An interval set
has an element for each interval's first key, and one, flagged as an end, for the key after its last; uids are
big-endian in it.
"""

from collections.abc import Iterable
from functools import lru_cache

from smtpguard.decode.netlink.messages import render_attribute, render_nest
from smtpguard.decode.netlink.nft_numbers import NLM_F_CREATE, NLM_F_EXCL, Kind, NftChange, render_names

NewElement = tuple[int, int, int | None, str]
"""First and last key, milliseconds until it ends (None for never), comment."""
UID_BYTES = 4
_MAX_LIST_BYTES = 60_000
"""The length of the attribute that holds a list is 16 bits."""
_END = render_attribute(3, (1).to_bytes(4, "big"))
_KEY_HEAD = 8
"""Headers of two attributes, one in the other."""
_TIMEOUT_HEAD = render_attribute(4, bytes(8))[:4]


def render_create(table: str, name: str, elements: Iterable[NewElement], width: int = UID_BYTES) -> list[NftChange]:
    """New elements; EEXIST where one is there already.

    Args:
        table: Of family inet.
        name: An interval set.
        elements: Disjoint intervals.
        width: Bytes of a key.
    """
    return _render(Kind.NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, table, name, elements, width)


def render_add(table: str, name: str, elements: Iterable[NewElement], width: int = UID_BYTES) -> list[NftChange]:
    """Elements that may be there already; then they stay as they are."""
    return _render(Kind.NEWSETELEM, NLM_F_CREATE, table, name, elements, width)


def render_delete(
    table: str, name: str, intervals: Iterable[tuple[int, int]], width: int = UID_BYTES
) -> list[NftChange]:
    """Elements to take out; ENOENT where one is not there."""
    elements = ((first, last, None, "") for first, last in intervals)
    return _render(Kind.DELSETELEM, 0, table, name, elements, width)


def render_flush(table: str, name: str) -> list[NftChange]:
    """All elements out."""
    return [NftChange(Kind.DELSETELEM, 0, render_names(table, name))]


def _render(
    kind: Kind, flags: int, table: str, name: str, elements: Iterable[NewElement], width: int
) -> list[NftChange]:
    head = render_names(table, name)
    past = 1 << 8 * width
    # Headers are the same for all of ten thousand.
    no_key = render_nest(1, render_attribute(1, bytes(width)))
    key_head, pad = no_key[:_KEY_HEAD], bytes(-width % 4)
    end_head = render_nest(1, no_key + _END)[:4] + key_head
    changes = []
    chunk: list[bytes] = []
    size = 0
    for first, last, timeout_ms, comment in elements:
        start = key_head + first.to_bytes(width, "big") + pad
        if timeout_ms is not None:
            start += _TIMEOUT_HEAD + timeout_ms.to_bytes(8, "big")
        if comment:
            start += _render_comment(comment)
        item = render_nest(1, start)
        if last + 1 < past:
            item += end_head + (last + 1).to_bytes(width, "big") + pad + _END
        if size + len(item) > _MAX_LIST_BYTES:
            changes.append(NftChange(kind, flags, head + render_nest(3, b"".join(chunk))))
            chunk, size = [], 0
        chunk.append(item)
        size += len(item)
    if chunk:
        changes.append(NftChange(kind, flags, head + render_nest(3, b"".join(chunk))))
    return changes


@lru_cache(maxsize=64)
def _render_comment(comment: str) -> bytes:
    text = comment.encode("ascii") + b"\0"
    return render_attribute(6, bytes([0, len(text)]) + text)
