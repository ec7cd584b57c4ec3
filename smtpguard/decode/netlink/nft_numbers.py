"""Numbers of <linux/netfilter/nf_tables.h> and nfnetlink.h, and a change to nftables as data. Pure."""

from enum import IntEnum
from typing import NamedTuple

from smtpguard.decode.netlink.messages import render_attribute

SUBSYSTEM = 10
"""NFNL_SUBSYS_NFTABLES."""
INET = b"\1\0\0\0"
"""struct nfgenmsg: NFPROTO_INET, version 0, resource 0."""
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR = 1, 4, 0x300, 0x10
NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800
SET_ANONYMOUS = 1
CHAIN_BINDING = 4
INTERVAL_END = 1


class Kind(IntEnum):
    """enum nf_tables_msg_types."""

    NEWTABLE = 0
    GETTABLE = 1
    DELTABLE = 2
    NEWCHAIN = 3
    GETCHAIN = 4
    NEWRULE = 6
    GETRULE = 7
    DELRULE = 8
    NEWSET = 9
    GETSET = 10
    NEWSETELEM = 12
    GETSETELEM = 13
    DELSETELEM = 14
    NEWOBJ = 18
    GETOBJ = 19


class NftChange(NamedTuple):
    """One message of a transaction, without its header.

    Attributes:
        kind: What it does.
        flags: NLM_F_ of it, beside NLM_F_REQUEST.
        body: struct nfgenmsg and attributes.
    """

    kind: Kind
    flags: int
    body: bytes


def render_name(kind: int, name: str) -> bytes:
    """An attribute that is a string."""
    return render_attribute(kind, name.encode() + b"\0")


def render_names(*names: str) -> bytes:
    """A body with names as attributes 1, 2, ...: table, then chain or set."""
    return INET + b"".join(render_name(kind, name) for kind, name in enumerate(names, 1))


def render_chain(table: str, chain: str) -> bytes:
    """The body that names a chain."""
    return INET + render_name(1, table) + render_name(3, chain)


def render_delete_table(table: str) -> list[NftChange]:
    """Delete a table of family inet whether or not it is there."""
    body = render_names(table)
    return [NftChange(Kind.NEWTABLE, NLM_F_CREATE, body), NftChange(Kind.DELTABLE, 0, body)]
