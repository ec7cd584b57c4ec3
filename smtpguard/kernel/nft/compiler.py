"""Turns text of nft's language into messages for the kernel, in a child with a network namespace of its own.

libnftables is loaded in the child alone. It asks the name service for every uid in a text, and reads all sets there
are into its memory; in the child there is no set but the text's, and no file of accounts: it lives in an empty
directory (chroot(2)), is uid 65535, and keeps CAP_NET_ADMIN, which means its own namespace there. So it is started
before privileges are given up, and serves from then on. It ends with whoever started it.
"""

import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from smtpguard.decode.netlink.messages import read_string, split_attributes
from smtpguard.decode.netlink.nft_numbers import INET, Kind, render_names
from smtpguard.decode.netlink.nft_ruleset import Ruleset, parse_ruleset
from smtpguard.errors import DecodeError, EnforceError, GuardError, PrivilegeError
from smtpguard.kernel.capabilities import apply_capabilities, write_capabilities
from smtpguard.kernel.nft.socket import NftError, NftSocket

_CLONE_NEWNET, _CLONE_NEWUSER = 0x4000_0000, 0x1000_0000
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_NAME = 1, 8, 15
_NO_UID = 65_535
"""No account anywhere: the 16-bit "no uid"."""
_LENGTH = struct.Struct("=I")
_ANY_FAMILY = bytes(4)
_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 64 << 20
_STEADY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)

_libc = ctypes.CDLL(None, use_errno=True)

Answer = dict[str, object]


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
        pid = os.fork()
        if pid == 0:
            # Nothing is unwound: objects whose descriptors are closed below must not be finalised.
            code = 1
            with contextlib.suppress(BaseException):
                _serve(theirs.fileno(), parent)
                code = 0
            os._exit(code)
        gc.unfreeze()
        theirs.close()
        ours.settimeout(_TIMEOUT_S)
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
        """By the child there is; one that was killed while nobody asked anything has a successor."""
        old = self._channel is not None
        self.start()
        try:
            return self._ask(question)
        except _GoneError:
            if not old:
                raise
        self.start()
        return self._ask(question)

    def _ask(self, question: Answer) -> bytes:
        channel = self._channel
        if channel is None:
            raise EnforceError("nobody compiles rulesets any more", fix="restart the guard")
        try:
            _send(channel, json.dumps(question).encode())
            status, answer = _receive(channel)
        except (OSError, EOFError) as error:
            self.close()
            kind = _GoneError if isinstance(error, EOFError | ConnectionError) else EnforceError
            raise kind(
                f"the process that compiles rulesets is gone: {error or 'it has ended'}", fix="restart the guard"
            ) from error
        if status != _DONE:
            told = json.loads(answer)
            if status == _REFUSED:
                raise NftError(told["what"], code=told["code"])
            raise (PrivilegeError if status == _LACKS else EnforceError)(told["what"], fix=told["fix"])
        return answer


class _GoneError(EnforceError):
    """The child has ended; one that only gives no answer has not."""


_DONE, _REFUSED, _LACKS, _UNABLE = range(4)


def _send(channel: socket.socket, *parts: bytes) -> None:
    channel.sendall(_LENGTH.pack(sum(map(len, parts))) + b"".join(parts))


def _receive_exactly(channel: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = channel.recv(min(count, 1 << 16))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _receive(channel: socket.socket) -> tuple[int, bytes]:
    size = _LENGTH.unpack(_receive_exactly(channel, _LENGTH.size))[0]
    if not 0 < size <= _MAX_ANSWER_BYTES:
        raise EOFError(f"an answer of {size} bytes")
    packet = _receive_exactly(channel, size)
    return packet[0], packet[1:]


def _read_ruleset(answer: bytes) -> Ruleset:
    messages = []
    offset = 0
    while offset < len(answer):
        kind, size = _PART.unpack_from(answer, offset)
        offset += _PART.size
        messages.append((kind, answer[offset : offset + size]))
        offset += size
    try:
        return parse_ruleset(messages)
    except DecodeError as error:
        raise EnforceError(f"the compiled ruleset can't be used: {error}") from error


_PART = struct.Struct("=II")


# -- the child -------------------------------------------------------------------------------------------------------


def _serve(descriptor: int, parent: int) -> None:
    """Answer until the other end is closed."""
    for number in _STEADY:  # a terminal's ^C reaches the whole group; whoever started us decides
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.dup2(descriptor, 3)
    _close_others(3)
    channel = socket.socket(fileno=3)
    trouble: GuardError | OSError | None = None
    bench: _Bench | None = None
    try:
        bench = _Bench(parent)
    except (GuardError, OSError) as error:
        trouble = error
    while True:
        size = _LENGTH.unpack(_receive_exactly(channel, _LENGTH.size))[0]
        question = json.loads(_receive_exactly(channel, size))
        try:
            if bench is None:
                raise trouble or EnforceError("rulesets can't be compiled")
            parts = bench.compile(question["table"], question["text"])
        except (GuardError, OSError) as error:
            _send(channel, *_render_error(error))
        else:
            _send(channel, bytes([_DONE]), *parts)


def _render_error(error: GuardError | OSError) -> tuple[bytes, bytes]:
    status = _REFUSED if isinstance(error, NftError) else _LACKS if isinstance(error, PrivilegeError) else _UNABLE
    told = {
        "what": error.what if isinstance(error, GuardError) else f"rulesets can't be compiled: {error}",
        "fix": error.fix if isinstance(error, GuardError) else None,
        "code": error.code if isinstance(error, NftError) else 0,
    }
    return bytes([status]), json.dumps(told).encode()


class _Bench:
    """libnftables over an empty network namespace, and what may not be needed any more given up."""

    def __init__(self, parent: int) -> None:
        from smtpguard.kernel.nft.text import open_text_nft

        own = _unshare_network()
        self._nft = open_text_nft()
        self._nft.run("")  # what it reads at its first use, it reads now
        self._socket = NftSocket()
        _libc.prctl(_PR_SET_NAME, b"sg-nft-compile", 0, 0, 0)
        if self._nft.in_process and own:
            _leave_everything()
        else:  # the program has to be found and started, by root
            apply_capabilities({"NET_ADMIN"})
        # After a change of uid, which clears it.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)

    def compile(self, table: str, text: str) -> Sequence[bytes]:
        try:
            self._nft.run(text)
            return [part for kind, body in self._dump(table) for part in (_PART.pack(kind, len(body)), body)]
        finally:
            self._nft.run("flush ruleset")

    def _dump(self, table: str) -> list[tuple[int, bytes]]:
        get = self._socket.get
        tables = [_name(body, 1) for body in get(Kind.GETTABLE, _ANY_FAMILY, dump=True)]
        whole = [(Kind.NEWTABLE, body) for body in get(Kind.GETTABLE, render_names(table), dump=False)]
        if others := sorted(set(tables) - {table}):
            raise EnforceError(f"the text makes table {others[0]}, and may make table inet {table} only")
        whole += [(Kind.NEWOBJ, body) for body in get(Kind.GETOBJ, render_names(table), dump=True)]
        sets = get(Kind.GETSET, render_names(table), dump=True)
        whole += [(Kind.NEWSET, body) for body in sets]
        for body in sets:
            listings = get(Kind.GETSETELEM, render_names(table, _name(body, 2)), dump=True)
            whole += [(Kind.NEWSETELEM, listing) for listing in listings]
        chains = get(Kind.GETCHAIN, INET, dump=True)
        whole += [(Kind.NEWCHAIN, body) for body in chains]
        for body in chains:
            rules = get(Kind.GETRULE, render_names(table, _name(body, 3)), dump=True)
            whole += [(Kind.NEWRULE, rule) for rule in rules]
        return [(kind, bytes(body)) for kind, body in whole]


def _name(body: memoryview, kind: int) -> str:
    return (read_string(split_attributes(body).get(kind)) or b"").decode("ascii", "replace")


def _unshare_network() -> bool:
    """Go into a network namespace of our own; whether without a user namespace."""
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return True
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        return False
    code = ctypes.get_errno()
    raise EnforceError(
        f"no network namespace of its own can be had: {os.strerror(code)}", fix="run as root, or with CAP_SYS_ADMIN"
    )


def _leave_everything() -> None:
    """Keep CAP_NET_ADMIN, be nobody, and see an empty directory as the root: no account is found by name or number."""
    os.chdir(empty := tempfile.mkdtemp(prefix="smtpguard-"))
    Path(empty).chmod(0o755)
    Path(empty).rmdir()  # a directory that is gone stays empty for good
    kept = apply_capabilities({"NET_ADMIN", "SYS_CHROOT", "SETUID", "SETGID"})
    if {"SETUID", "SETGID"} <= kept:
        _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(_NO_UID, _NO_UID, _NO_UID)
        os.setresuid(_NO_UID, _NO_UID, _NO_UID)
        write_capabilities(kept & {"NET_ADMIN", "SYS_CHROOT"})
    if "SYS_CHROOT" in kept:
        os.chroot(".")
    write_capabilities(kept & {"NET_ADMIN"})


def _close_others(last: int) -> None:
    """Keep standard streams, on /dev/null, and descriptors 3 to `last`."""
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd > last:
            with contextlib.suppress(OSError):
                os.close(fd)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
