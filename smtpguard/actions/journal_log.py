"""The event log's lines, sent to systemd's journal too, each with its fields: systemd.io/JOURNAL_NATIVE_PROTOCOL.

A thread of its own sends: a journal that stands still delays no verdict and no line of the file. What waits is bounded;
what is dropped is counted. An entry that is too long for a datagram goes as a sealed memfd, as the protocol says.
Values stay as the log writes them: printable ASCII, whatever a process is called.
"""

import array
import errno
import fcntl
import os
import queue
import re
import socket
import threading
from dataclasses import dataclass

from smtpguard.kernel.lasting_thread import start_lasting

IDENTIFIER = "smtpguard-events"
MAX_WAITING = 5_000
AGAIN_S = 0.25
"""After a line that could not be sent: journald may start anew, or have too much to do."""
_NOTICE, _INFO = 5, 6
_FIELD = re.compile(r'(\w+)=(?:"([^"]*)"|(\S*))')
_NAMES = {"USER": "USER_NAME", "UID": "USER_UID"}
_CLOSE = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStats:
    """The journal as `status` shows it.

    Attributes:
        sent: Lines that it has taken.
        dropped: Lines given up, because it took none for too long.
        error: The failure that lasts; None when all is well.
    """

    sent: int
    dropped: int
    error: str | None


class JournalLog:
    """The journal and its thread.

    Args:
        path: journald's socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(AGAIN_S)
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._sent = 0
        self._unsent = 0  # counted by the thread
        self._dropped = 0
        self._error: str | None = None

    def open(self) -> None:
        """Begin."""
        self._thread = start_lasting("journal", self._run)

    def put(self, line: bytes, *, important: bool = True) -> None:
        """Have a line sent. Never waits.

        Args:
            line: As it is in the event log, without its newline.
            important: Whether it may have the half of the room that attempts leave: anybody can make many of them.
        """
        if self._queue.qsize() * (1 if important else 2) >= MAX_WAITING:
            self._dropped += 1
        else:
            self._queue.put(line)

    def stats(self) -> JournalStats:
        """The figures for `status`."""
        return JournalStats(
            sent=self._sent,
            dropped=self._dropped + self._unsent,
            error=self._error,
        )

    def close(self, timeout_s: float = 1.0) -> None:
        """Send what waits, as far as the journal takes it at once, and end the thread."""
        self._closing.set()
        self._queue.put(_CLOSE)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._queue.get()) is not _CLOSE:
            is_sent = False
            try:
                is_sent = self._send(render_entry(line.decode("ascii", "replace")))
            finally:
                self._sent += is_sent
                self._unsent += not is_sent
        self._socket.close()

    def _send(self, entry: bytes) -> bool:
        """Send one entry; tried again until it is taken, or nobody waits any more."""
        while True:
            try:
                try:
                    self._socket.sendto(entry, self._path)
                except OSError as failure:
                    if failure.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                        raise
                    self._send_file(entry)
            except OSError as failure:
                self._error = f"{self._path}: {failure.strerror or 'takes nothing'}"
                if self._closing.wait(AGAIN_S):
                    return False
            else:
                self._error = None
                return True

    def _send_file(self, entry: bytes) -> None:
        descriptor = os.memfd_create("smtpguard-event", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(descriptor, "wb") as file:
            file.write(entry)
            file.flush()
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            rights = array.array("i", [descriptor])
            self._socket.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], 0, self._path)


def render_entry(line: str) -> bytes:
    """A line of the event log as an entry of the journal: its text, and each of its fields.

    Args:
        line: Printable ASCII.
    """
    time, _, rest = line.partition(" ")
    fields = {_NAMES.get(name, name): quoted or bare for name, quoted, bare in _FIELD.findall(rest)}
    priority = _INFO if fields.get("EVENT") in ("CONNECT", "MESSAGE", "SUPPRESSED") else _NOTICE
    head = {"MESSAGE": line, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": IDENTIFIER, "EVENT_TIME": time}
    return "".join(f"{name}={value}\n" for name, value in (fields | head).items()).encode("ascii", "replace")
