"""Who opened a session, which is not always who made its socket: what the BPF program knows, and the walks ask for."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """Who opened a session, as the BPF program saw it.

    Attributes:
        uid: The caller's real uid.
        owner: Whom that counts for: itself, or the owner of the subordinate range it is in.
    """

    uid: int
    owner: int


class FindOpener(Protocol):
    """Knows who opened a session, if the BPF program saw it."""

    def __call__(self, cookie: int, storage: bytes | None) -> Opener | None:
        """Who opened one; None if that is not known.

        Args:
            cookie: Of its socket.
            storage: What the program keeps with the socket.
        """
        ...


class Openers(Protocol):
    """Who opened the sessions of all sockets, whoever made these.

    Attributes:
        storage_fd: The BPF_MAP_TYPE_SK_STORAGE in which the program keeps it; None where it keeps it elsewhere.
    """

    storage_fd: int | None

    def look(self) -> FindOpener:
        """What is kept now. Raises SourceError."""
        ...
