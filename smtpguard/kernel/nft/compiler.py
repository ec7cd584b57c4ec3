"""Turns text of nft's language into messages for the kernel, in a child with a network namespace of its own.

libnftables is loaded in the child alone. It asks the name service for every uid in a text, and reads all sets there
are into its memory; in the child there is no set but the text's, and no file of accounts: it lives in an empty
directory (chroot(2)), is uid 65535, and keeps CAP_NET_ADMIN, which means its own namespace there. So it is started
before privileges are given up, and serves from then on. It ends with whoever started it.
"""

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import threading

from smtpguard.decode.netlink.nft_ruleset import Ruleset, parse_ruleset
from smtpguard.errors import DecodeError, EnforceError, PrivilegeError
from smtpguard.kernel.nft.compiler_child import (
    DONE,
    LACKS,
    PART,
    REFUSED,
    Answer,
    GoneError,
    receive,
    send,
    serve,
)
from smtpguard.kernel.nft.socket import NftError

log = logging.getLogger(__name__)

_BEGINNING_S = 10.0
"""How long a child may take for its first answer: it loads libnftables."""
_TIMEOUT_S = 1.0
"""How long it may take for any other: a text takes 5 ms. Whoever sends it SIGSTOP holds up nobody for longer."""


class Compiler:
    """The child, seen from the process that started it.

    Call `start` from the thread that lives as long as the process: the kernel kills the child with that thread. One
    that another thread has to start again ends with that, and has a successor at the next question.
    """

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        self._pid = 0
        self._known: dict[tuple[str, str], Ruleset] = {}
        self._one_question = threading.Lock()

    def start(self) -> None:
        """Fork the child, if there is none."""
        if self._channel is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.getpid()
        gc.collect()
        gc.freeze()  # what is there now is never looked at by a collection in the child, so its pages stay shared
        try:
            pid = os.fork()
        except OSError as error:
            gc.unfreeze()
            theirs.close()
            ours.close()
            what = f"the process that compiles rulesets can't be started: {error.strerror}"
            raise EnforceError(what, fix="it is tried again") from error
        if pid == 0:
            # Nothing is unwound: objects whose descriptors are closed below must not be finalised.
            code = 1
            with contextlib.suppress(BaseException):
                serve(theirs.fileno(), parent)
                code = 0
            os._exit(code)
        gc.unfreeze()
        theirs.close()
        ours.settimeout(_BEGINNING_S)
        self._channel, self._pid = ours, pid

    def compile(self, table: str, text: str) -> Ruleset:
        """The table that a text makes. What was compiled before is remembered.

        Args:
            table: The table's name; the text makes no other.
            text: In nft's language.

        Raises:
            NftError: libnftables or the kernel refuse the text.
            EnforceError: There is no child, or it can't compile.
        PrivilegeError: It may not.
        """
        known = self._known.get((table, text))
        if known is not None:  # without waiting for a question of another thread
            return known
        with self._one_question:
            known = self._known.get((table, text))
            if known is None:
                known = _read_ruleset(self._ask_somebody({"table": table, "text": text}))
                if len(self._known) >= 16:
                    self._known.clear()
                self._known[table, text] = known
            return known

    def close(self) -> None:
        """End the child. May be called twice."""
        if self._channel is None:
            return
        self._channel.close()
        self._channel = None
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _ask_somebody(self, question: Answer) -> bytes:
        """By the child there is; one that was killed while nobody asked anything, or stands still, has a successor."""
        old = self._channel is not None
        self.start()
        try:
            return self._ask(question)
        except GoneError as error:
            if not old:
                raise
            log.warning("%s: another one takes its place", error.what)
        self.start()
        return self._ask(question)

    def _ask(self, question: Answer) -> bytes:
        channel = self._channel
        if channel is None:
            raise EnforceError("nobody compiles rulesets any more", fix="restart the guard")
        try:
            send(channel, json.dumps(question).encode())
            status, answer = receive(channel)
        except (OSError, EOFError) as error:
            self.close()
            kind = GoneError if isinstance(error, EOFError | ConnectionError | TimeoutError) else EnforceError
            raise kind(
                f"the process that compiles rulesets is gone: {error or 'it has ended'}", fix="restart the guard"
            ) from error
        channel.settimeout(_TIMEOUT_S)
        if status != DONE:
            told = json.loads(answer)
            if status == REFUSED:
                raise NftError(told["what"], code=told["code"])
            raise (PrivilegeError if status == LACKS else EnforceError)(told["what"], fix=told["fix"])
        return answer


def _read_ruleset(answer: bytes) -> Ruleset:
    messages = []
    offset = 0
    while offset < len(answer):
        kind, size = PART.unpack_from(answer, offset)
        offset += PART.size
        messages.append((kind, answer[offset : offset + size]))
        offset += size
    try:
        return parse_ruleset(messages)
    except DecodeError as error:
        raise EnforceError(f"the compiled ruleset can't be used: {error}") from error


# -- the child -------------------------------------------------------------------------------------------------------
