"""Who is let in: a flood of clients of the group leaves room for root, and no uid takes all the others' room. Pure."""

from collections.abc import Sequence

from smtpguard.control.connection import Peer, is_owner

MAX_CLIENTS = 64
MAX_CLIENTS_OF_OTHERS = 48
"""Of the clients that are not root, so that root is always heard."""
MAX_CLIENTS_OF_UID = 8
"""Of one uid that is not root."""


def is_crowded(peer: Peer, there: Sequence[Peer]) -> bool:
    """Whether there is no room for one more.

    Args:
        peer: Who comes.
        there: Who is connected.
    """
    if len(there) >= MAX_CLIENTS:
        return True
    if is_owner(peer):
        return False
    others = [other.uid for other in there if not is_owner(other)]
    return len(others) >= MAX_CLIENTS_OF_OTHERS or others.count(peer.uid) >= MAX_CLIENTS_OF_UID
