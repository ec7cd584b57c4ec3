"""nfnetlink, the way of a running guard to nftables: transactions and dumps, and texts compiled by a child.

What is in nftables' own language, for commands that list and look, is `text`'s business.
"""

import os
import threading
from collections.abc import Sequence
from functools import cache
from typing import Protocol

from smtpguard.decode.netlink.messages import split_attributes
from smtpguard.decode.netlink.nft_elements import Interval, has_intervals, read_intervals, read_singles
from smtpguard.decode.netlink.nft_numbers import Kind, NftChange, render_names
from smtpguard.decode.netlink.nft_ruleset import Ruleset
from smtpguard.errors import DecodeError, EnforceError
from smtpguard.kernel.nft.compiler import Compiler
from smtpguard.kernel.nft.socket import NftError, NftSocket
from smtpguard.kernel.nft.wire import UID_BYTES

__all__ = [
    "NetlinkNft",
    "Nft",
    "NftError",
    "open_nft",
    "read_set",
]


class Nft(Protocol):
    """Changes nftables, all or nothing, and reads it.

    Attributes:
        ports: Netlink ports from which its own changes come.
    """

    ports: set[int]

    def compile(self, table: str, text: str) -> Ruleset:
        """The table that a text makes.

        Raises:
            NftError: The text is refused.
            EnforceError: It can't be compiled.
        """
        ...

    def transact(self, changes: Sequence[NftChange]) -> None:
        """Carry out one transaction.

        Raises:
            NftError: It was refused.
            PrivilegeError: CAP_NET_ADMIN is missing.
            EnforceError: The kernel gives no answer.
        """
        ...

    def get(self, kind: Kind, body: bytes, *, dump: bool) -> list[memoryview]:
        """What there is: bodies of messages. Raises as `transact`."""
        ...


class NetlinkNft:
    """nfnetlink, by one socket a thread and network namespace: a thread that enters another one changes no table here.

    Args:
        compiler: What compiles texts; None for a child of its own at the first text.

    Attributes:
        ports: Netlink ports of its sockets: notifications that come from them tell of our own changes.
    """

    def __init__(self, compiler: Compiler | None = None) -> None:
        self._compiler = compiler or Compiler()
        self._threads = threading.local()
        self.ports: set[int] = set()

    def start(self) -> None:
        """Start the child that compiles, while it may still have a network namespace of its own."""
        self._compiler.start()

    def close(self) -> None:
        """End that child."""
        self._compiler.close()

    def compile(self, table: str, text: str) -> Ruleset:
        """By the child."""
        return self._compiler.compile(table, text)

    def transact(self, changes: Sequence[NftChange]) -> None:
        """By this thread's socket."""
        self._get_socket().transact(changes)

    def get(self, kind: Kind, body: bytes, *, dump: bool) -> list[memoryview]:
        """By this thread's socket."""
        return self._get_socket().get(kind, body, dump=dump)

    def leave(self) -> None:
        """This thread is about to end: its socket is closed, and its port is nobody's own any more."""
        found: NftSocket | None = getattr(self._threads, "socket", None)
        if found is not None:
            self._threads.socket = None
            self.ports.discard(found.port)  # a stranger may get the number
            found.close()

    def _get_socket(self) -> NftSocket:
        found: NftSocket | None = getattr(self._threads, "socket", None)
        namespace = os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 - 1 us beside the 25 of a change
        if found is not None and self._threads.namespace != namespace:
            self.ports.discard(found.port)  # a stranger may get the number
            found.close()
            found = None
        if found is None:
            found = self._threads.socket = NftSocket()
            self._threads.namespace = namespace
            self.ports.add(found.port)
        return found


def read_set(nft: Nft, table: str, name: str, width: int = UID_BYTES) -> list[Interval]:
    """What a set holds, in order.

    Args:
        nft: The way to nftables.
        table: Of family inet.
        name: The set.
        width: Bytes of a key.

    Raises:
        NftError: There is no such set.
        EnforceError: It can't be read.
    """
    names = render_names(table, name)
    shape = nft.get(Kind.GETSET, names, dump=False)
    bodies = nft.get(Kind.GETSETELEM, names, dump=True)
    try:
        listings = [split_attributes(body).get(3, b"") for body in bodies]
        if any(map(has_intervals, shape)):
            return read_intervals(listings, width)
        return read_singles(listings)  # an older version's, or somebody else's
    except DecodeError as error:
        raise EnforceError(f"what the kernel says is not understood: {error}", where=f"set {name}") from error


@cache
def open_nft() -> NetlinkNft:
    """This process's way to nftables, the same for all its parts."""
    return NetlinkNft()
