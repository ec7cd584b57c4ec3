"""What workers do with a question: look at the process, or gather evidence about it."""

from dataclasses import replace

from smtpguard.enrich.looker.collect_evidence import gather
from smtpguard.enrich.looker.evidence import render_packet
from smtpguard.enrich.looker.inspect_process import look
from smtpguard.enrich.looker.php_fpm import FpmReader
from smtpguard.enrich.looker.protocol import parse_question, render_answer
from smtpguard.enrich.looker.socket_owner import SocketOwnerFinder
from smtpguard.enrich.looker.worker import Tell


class Dispatch:
    """Answers questions about processes; what it learns about binaries it keeps."""

    def __init__(self) -> None:
        self._fpm = FpmReader()
        self._holders = SocketOwnerFinder()

    def __call__(self, packet: bytes, tell: Tell) -> bytes:
        """A question's packet to its last answer's.

        Args:
            packet: As `render_question` made it.
            tell: Takes the packet of an answer that is not the last one.
        """
        question = parse_question(packet)
        if question.pid is None and question.inode is not None:
            question = replace(question, pid=self._holders.find(question.inode, question.uids))
        if question.evidence:
            evidence = gather(question, lambda known: tell(render_packet(known, final=False)), self._fpm)
            return render_packet(evidence, final=True)
        answer = look(question, lambda known: tell(render_answer(known, final=False)), self._fpm)
        return render_answer(answer, final=True)
