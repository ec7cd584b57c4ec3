"""A worker: answers one question at a time until its socket ends. It may hang in the kernel at any moment.

Never run by exec: the fork-server forks into `run_worker`.
"""

import signal
import socket
from typing import Protocol

from smtpguard.enrich.looker.protocol import MAX_PACKET

LIMIT_S = 3.0
"""A worker that has worked so long on one question is ended by its own alarm clock, as soon as the kernel lets it;
nobody waits longer than two seconds for an answer."""


class Tell(Protocol):
    """Sends a first answer ahead."""

    def __call__(self, packet: bytes, /) -> None:
        """Send it."""


class AnswerQuestion(Protocol):
    """Answers questions about processes."""

    def __call__(self, packet: bytes, tell: Tell, /) -> bytes:
        """The answer to a packet; `tell` sends a first one ahead."""
        ...


class LoadAnswer(Protocol):
    """Loads what answers, in the process that will."""

    def __call__(self) -> AnswerQuestion:
        """Load it."""
        ...


def run_worker(channel: socket.socket, answer: AnswerQuestion, *, limit_s: float = LIMIT_S) -> None:
    """Answer questions until the other side closes.

    Args:
        channel: SOCK_SEQPACKET, blocking.
        answer: Does the work.
        limit_s: See LIMIT_S.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def tell(packet: bytes) -> None:
        channel.send(packet)

    while packet := channel.recv(MAX_PACKET):
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        channel.send(answer(packet, tell))
        signal.setitimer(signal.ITIMER_REAL, 0)
