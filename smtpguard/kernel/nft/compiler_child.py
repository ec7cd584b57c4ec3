"""The child that compiles rulesets with libnftables: without rights, in a network namespace of its own.

kernel/nft/compiler.py starts it and says why it is one.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from smtpguard.decode.netlink.messages import read_string, split_attributes
from smtpguard.decode.netlink.nft_numbers import INET, Kind, render_names
from smtpguard.errors import EnforceError, GuardError, PrivilegeError
from smtpguard.kernel.capabilities import apply_capabilities, write_capabilities
from smtpguard.kernel.nft.socket import NftError, NftSocket

_CLONE_NEWNET, _CLONE_NEWUSER = 0x4000_0000, 0x1000_0000
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_NAME = 1, 8, 15
_NO_UID = 65_535
"""No account anywhere: the 16-bit "no uid"."""
_LENGTH = struct.Struct("=I")
_ANY_FAMILY = bytes(4)
_MAX_ANSWER_BYTES = 64 << 20
_STEADY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)
_libc = ctypes.CDLL(None, use_errno=True)
Answer = dict[str, object]


class GoneError(EnforceError):
    """The child has ended, or gave no answer and was ended."""


DONE, REFUSED, LACKS, UNABLE = range(4)


def send(channel: socket.socket, *parts: bytes) -> None:
    """Send a packet behind its length."""
    channel.sendall(_LENGTH.pack(sum(map(len, parts))) + b"".join(parts))


def receive_exactly(channel: socket.socket, count: int) -> bytes:
    """So many bytes. Raises EOFError where the other end is closed."""
    parts = []
    while count:
        part = channel.recv(min(count, 1 << 16))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(channel: socket.socket) -> tuple[int, bytes]:
    """A packet: its first byte, and the rest. Raises EOFError."""
    size = _LENGTH.unpack(receive_exactly(channel, _LENGTH.size))[0]
    if not 0 < size <= _MAX_ANSWER_BYTES:
        raise EOFError(f"an answer of {size} bytes")
    packet = receive_exactly(channel, size)
    return packet[0], packet[1:]


PART = struct.Struct("=II")


def serve(descriptor: int, parent: int) -> None:
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
        size = _LENGTH.unpack(receive_exactly(channel, _LENGTH.size))[0]
        question = json.loads(receive_exactly(channel, size))
        try:
            if bench is None:
                raise trouble or EnforceError("rulesets can't be compiled")
            parts = bench.compile(question["table"], question["text"])
        except (GuardError, OSError) as error:
            send(channel, *_render_error(error))
        else:
            send(channel, bytes([DONE]), *parts)


def _render_error(error: GuardError | OSError) -> tuple[bytes, bytes]:
    status = REFUSED if isinstance(error, NftError) else LACKS if isinstance(error, PrivilegeError) else UNABLE
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
            return [part for kind, body in self._dump(table) for part in (PART.pack(kind, len(body)), body)]
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
    import tempfile

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
