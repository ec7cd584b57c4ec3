"""Many users' traffic from light forked processes, each noting when it tried and what became of it.

A connection costs no new Python: the processes are forked from the test, become the user inside the laboratory and
connect at a rate until they are told to stop. Times are CLOCK_REALTIME, as in the event log.
"""

import errno
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from smtpguard.demo import namespaces
from smtpguard.demo.lab import Lab

_RECORD = struct.Struct("=qqi")
_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connection: when it was begun and ended, in nanoseconds since the epoch, and its errno (0: through)."""

    begun_ns: int
    ended_ns: int
    error: int

    @property
    def passed(self) -> bool:
        return self.error == 0


class Crowd:
    """Users that connect until `stop`. A context; leaving it ends them."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        self._directory = directory
        self._stop_read, self._stop_write = os.pipe()
        self._pids: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, uid: int, rate: float, to: Sequence[str], port: int = 25) -> None:
        """Let a user connect `rate` times a second, to the addresses in turn."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(self._stop_write)
                self._live(uid, rate, to, port)
                code = 0
            finally:
                os._exit(code)
        self._pids[uid] = pid

    def stop(self) -> None:
        """End them all; their notes can be read then."""
        if self._stop_write >= 0:
            os.close(self._stop_write)
            self._stop_write = -1
        pids, self._pids = self._pids, {}
        for uid, pid in pids.items():
            _, status = os.waitpid(pid, 0)
            assert status == 0, f"the program of uid {uid} failed"
        if self._stop_read >= 0:
            os.close(self._stop_read)
            self._stop_read = -1

    def read(self, uid: int) -> list[Attempt]:
        """What a user's program did, in order."""
        data = self._path(uid).read_bytes()
        return [Attempt(*_RECORD.unpack_from(data, at)) for at in range(0, len(data), _RECORD.size)]

    def _path(self, uid: int) -> Path:
        return self._directory / f"attempts-{uid}"

    def _live(self, uid: int, rate: float, to: Sequence[str], port: int) -> None:
        namespaces.die_with_parent(signal.SIGKILL)
        notes = os.open(self._path(uid), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if self._lab.cgroup is not None:
            namespaces.enter_cgroup(self._lab.cgroup)
        namespaces.enter_net(self._lab.host)
        namespaces.become(uid)
        due = time.monotonic()
        number = 0
        while True:
            pause = due - time.monotonic()
            if select.select([self._stop_read], [], [], max(0, pause))[0]:
                return
            # What a busy machine made late is not made up for: that would be another rate.
            due = max(due + 1 / rate, time.monotonic())
            begun_ns = time.time_ns()
            error = connect_once(to[number % len(to)], port)
            os.write(notes, _RECORD.pack(begun_ns, time.time_ns(), error))
            number += 1


def connect_once(address: str, port: int) -> int:
    """Open one connection and close it; its errno, 0 if it came through."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(_TIMEOUT_S)
        try:
            sock.connect((address, port))
        except TimeoutError:
            return errno.ETIMEDOUT
        except OSError as error:
            return error.errno or errno.EIO
    return 0
