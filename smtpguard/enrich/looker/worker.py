"""A worker: answers one question at a time until its socket ends. It may hang in the kernel at any moment.

Never run by exec: the fork-server forks into `run_worker`.
"""

import signal
import socket
from collections.abc import Callable

from smtpguard.enrich.looker.protocol import MAX_PACKET

LIMIT_S = 3.0
"""A worker that has worked so long on one question is ended by its own alarm clock, as soon as the kernel lets it;
nobody waits longer than two seconds for an answer."""

Answer = Callable[[bytes, Callable[[bytes], None]], bytes]
"""From a question's packet, and a way to send a first answer, to the last answer's packet."""


def run_worker(channel: socket.socket, answer: Answer, *, limit_s: float = LIMIT_S) -> None:
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
