"""Every way to open an SMTP connection that we know of, as one program: `evasion.py WAY --uid N ADDRESS PORT`.

Prints `{"errno": NAME or null}`: how the attempt ended; null means that the connection came through. The ways use the
system calls themselves, so that nothing a C library does in between hides what is tested. x86-64 only.

Kernel tests fork and call `begin` instead: starting a Python takes longer than most ways.
"""

import argparse
import array
import contextlib
import ctypes
import errno
import json
import mmap
import os
import platform
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN_CONNECT = 30
IPPROTO_MPTCP = 262
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
_WAIT_S = 3

libc = ctypes.CDLL(None, use_errno=True)
Way = Callable[["Target"], None]
WAYS: dict[str, Way] = {}
NEEDS_ROOT: set[str] = set()


class Target:
    """Where to, and as whom.

    Args:
        address, port: The destination.
        uid: Who tries.
        container: Path of the network namespace that the container ways enter.
        hold: A descriptor: while a read of it blocks, sessions stay open and their processes alive, so that somebody
            can look at them. None: each way ends as soon as it is done.
    """

    def __init__(
        self, address: str, port: int, uid: int, *, container: str | None = None, hold: int | None = None
    ) -> None:
        self.address, self.port, self.uid = address, port, uid
        self.container = container
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._hold = hold

    @property
    def pair(self) -> tuple[str, int]:
        return self.address, self.port

    def sockaddr(self) -> bytes:
        if self.family == socket.AF_INET:
            return struct.pack("=H", 2) + struct.pack("!H", self.port) + socket.inet_aton(self.address) + bytes(8)
        packed = socket.inet_pton(socket.AF_INET6, self.address)
        return struct.pack("=H", 10) + struct.pack("!HI", self.port, 0) + packed + bytes(4)

    def make_socket(self, protocol: int = 0) -> socket.socket:
        return self.keep(socket.socket(self.family, socket.SOCK_STREAM, protocol))

    def keep(self, sock: socket.socket) -> socket.socket:
        """Have the process, not only the way, hold the socket, if sessions are to be looked at."""
        if self._hold is not None:
            os.dup(sock.fileno())
        return sock

    def linger(self) -> None:
        """Stay alive while sessions are looked at."""
        if self._hold is not None:
            os.read(self._hold, 1)


def become(uid: int) -> None:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def way(name: str, *, root: bool = False) -> Callable[[Way], Way]:
    def keep(function: Way) -> Way:
        WAYS[name] = function
        if root:
            NEEDS_ROOT.add(name)
        return function

    return keep


def check(result: int) -> int:
    """Raise the errno of a failed C call."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def finish(sock: socket.socket) -> None:
    """Wait for a pending connection; raises its error."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    if not poll.poll(_WAIT_S * 1000):
        raise OSError(errno.ETIMEDOUT, "nothing came")
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
    sock.getpeername()


def started(action: Callable[[], object]) -> None:
    """Run a call that may answer EINPROGRESS."""
    with contextlib.suppress(BlockingIOError):
        action()


@way("plain")
@way("v6")
@way("mapped")
def plain(to: Target) -> None:
    with to.make_socket() as sock:
        sock.settimeout(_WAIT_S)
        sock.connect(to.pair)


@way("nonblocking")
def nonblocking(to: Target) -> None:
    with to.make_socket() as sock:
        sock.setblocking(False)  # noqa: FBT003 - its signature
        started(lambda: sock.connect(to.pair))
        finish(sock)


@way("bound")
def bound(to: Target) -> None:
    with to.make_socket() as sock:
        sock.bind(("", 0))
        sock.settimeout(_WAIT_S)
        sock.connect(to.pair)


@way("blackhole")
def blackhole(to: Target) -> None:
    """Nobody answers: only that it was tried can be seen."""
    with to.make_socket() as sock:
        sock.settimeout(0.3)
        sock.connect(to.pair)


@way("user-namespace")
def user_namespace(to: Target) -> None:
    check(libc.unshare(CLONE_NEWUSER))
    plain(to)


@way("orphan")
def orphan(to: Target) -> None:
    """The parent has ended before the child connects."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork():
            os._exit(0)
        time.sleep(0.05)
        os.write(writer, str(attempt(plain, to)).encode())
        to.linger()
        os._exit(0)
    os.waitpid(middle, 0)
    number = int(os.read(reader, 16))
    if number:
        raise OSError(number, os.strerror(number))


@way("four-connects")
def four_connects(to: Target) -> None:
    """connect() four times on one socket, as a poll loop does."""
    with to.make_socket() as sock:
        sock.setblocking(False)  # noqa: FBT003 - its signature
        number = 0
        for _ in range(4):
            number = sock.connect_ex(to.pair)
            if number in (errno.EPERM, errno.ECONNREFUSED):
                raise OSError(number, os.strerror(number))
        finish(sock)


@way("short-lived")
def short_lived(to: Target) -> None:
    """The process ends without waiting for the answer."""
    sock = to.make_socket()
    sock.setblocking(False)  # noqa: FBT003 - its signature
    number = sock.connect_ex(to.pair)
    if number != errno.EINPROGRESS:
        raise OSError(number, os.strerror(number))


@way("sendto-fastopen")
def sendto_fastopen(to: Target) -> None:
    with to.make_socket() as sock:
        sock.settimeout(_WAIT_S)
        started(lambda: sock.sendto(b"EHLO x\r\n", MSG_FASTOPEN, to.pair))
        finish(sock)


@way("sendmsg-fastopen")
def sendmsg_fastopen(to: Target) -> None:
    with to.make_socket() as sock:
        sock.settimeout(_WAIT_S)
        started(lambda: sock.sendmsg([b"EHLO x\r\n"], (), MSG_FASTOPEN, to.pair))
        finish(sock)


class Mmsghdr(ctypes.Structure):
    """struct mmsghdr of recvmmsg(2), x86-64."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("len", ctypes.c_uint),
    )


@way("sendmmsg-fastopen")
def sendmmsg_fastopen(to: Target) -> None:
    address = ctypes.create_string_buffer(to.sockaddr())
    data = ctypes.create_string_buffer(b"EHLO x\r\n")
    iov = (ctypes.c_size_t * 2)(ctypes.addressof(data), 8)
    header = Mmsghdr(name=ctypes.addressof(address), namelen=len(to.sockaddr()), iov=ctypes.addressof(iov), iovlen=1)
    with to.make_socket() as sock:
        check(libc.sendmmsg(sock.fileno(), ctypes.byref(header), 1, MSG_FASTOPEN))
        finish(sock)


@way("fastopen-option")
def fastopen_option(to: Target) -> None:
    with to.make_socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.settimeout(_WAIT_S)
        sock.connect(to.pair)
        sock.sendall(b"EHLO x\r\n")
        finish(sock)


class Uring:
    """Just enough of io_uring(7) for one request at a time."""

    SETUP, ENTER = 425, 426
    OP_CONNECT, OP_SEND = 16, 26
    SQPOLL, WAKEUP = 2, 2

    def __init__(self, flags: int = 0) -> None:
        params = ctypes.create_string_buffer(120)
        struct.pack_into("=II", params, 8, flags, 0)
        struct.pack_into("=I", params, 16, 200)
        self.fd = check(libc.syscall(self.SETUP, 4, params))
        self.flags = flags
        entries, cq_entries = struct.unpack_from("=II", params)
        self.sq_off = struct.unpack_from("=8I", params, 40)
        self.cq_off = struct.unpack_from("=8I", params, 80)
        size = max(self.sq_off[6] + entries * 4, self.cq_off[5] + cq_entries * 16)
        self.ring = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self.sqes = mmap.mmap(
            self.fd, entries * 64, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0x10000000
        )

    def _word(self, offset: int) -> int:
        return int(struct.unpack_from("=I", self.ring, offset)[0])

    def request(self, sqe: bytes) -> int:
        """Submit one entry, wait for its result."""
        self.sqes[0:64] = sqe
        tail = self._word(self.sq_off[1])
        struct.pack_into("=I", self.ring, self.sq_off[6] + (tail & self._word(self.sq_off[2])) * 4, 0)
        struct.pack_into("=I", self.ring, self.sq_off[1], tail + 1)
        head = self._word(self.cq_off[0])
        enter = 1 | (self.WAKEUP if self.flags & self.SQPOLL else 0)
        check(libc.syscall(self.ENTER, self.fd, 1, 1, enter, None, 0))
        deadline = time.monotonic() + _WAIT_S
        while self._word(self.cq_off[1]) == head:
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "no completion")
            time.sleep(0.001)
        entry = self.cq_off[5] + (head & self._word(self.cq_off[2])) * 16
        result = int(struct.unpack_from("=i", self.ring, entry + 8)[0])
        struct.pack_into("=I", self.ring, self.cq_off[0], head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result


def uring_connect(to: Target, *, setup: int = 0, asynchronous: bool = False) -> None:
    address = ctypes.create_string_buffer(to.sockaddr())
    ring = Uring(setup)
    with to.make_socket() as sock:
        sqe = struct.pack(
            "=BBHiQQII",
            Uring.OP_CONNECT,
            16 if asynchronous else 0,
            0,
            sock.fileno(),
            len(to.sockaddr()),
            ctypes.addressof(address),
            0,
            0,
        )
        ring.request(sqe.ljust(64, b"\0"))
        finish(sock)


@way("uring")
def uring(to: Target) -> None:
    uring_connect(to)


@way("uring-async")
def uring_async(to: Target) -> None:
    uring_connect(to, asynchronous=True)


@way("uring-sqpoll")
def uring_sqpoll(to: Target) -> None:
    uring_connect(to, setup=Uring.SQPOLL)


@way("uring-fastopen")
def uring_fastopen(to: Target) -> None:
    """IORING_OP_SEND with an address (kernel 6.0) and MSG_FASTOPEN."""
    address = ctypes.create_string_buffer(to.sockaddr())
    data = ctypes.create_string_buffer(b"EHLO x\r\n")
    ring = Uring()
    with to.make_socket() as sock:
        sqe = struct.pack(
            "=BBHiQQII",
            Uring.OP_SEND,
            0,
            0,
            sock.fileno(),
            ctypes.addressof(address),
            ctypes.addressof(data),
            8,
            MSG_FASTOPEN,
        )
        sqe += struct.pack("=QHHI", 0, 0, 0, 0)
        sqe = sqe.ljust(64, b"\0")
        sqe = sqe[:44] + struct.pack("=H", len(to.sockaddr())) + sqe[46:]
        started(lambda: ring.request(sqe))
        finish(sock)


_INT80 = bytes.fromhex("53 89f8 89f3 4189c8 89d1 4489c2 cd80 5b c3")
"""push rbx; eax, ebx, ecx, edx = the four arguments; int 0x80; pop rbx; ret."""


def int80(number: int, first: int, second: int, third: int) -> int:
    code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    code.write(_INT80)
    call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    result = int(call(number, first, second, third))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def low_memory(data: bytes) -> int:
    """Memory below 4 GiB, which a 32-bit system call can name."""
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40
    address = libc.mmap(None, ctypes.c_size_t(4096), 3, flags, -1, ctypes.c_long(0))
    ctypes.memmove(address, data, len(data))
    return int(address)


@way("int80-connect")
def int80_connect(to: Target) -> None:
    with to.make_socket() as sock:
        int80(362, sock.fileno(), low_memory(to.sockaddr()), len(to.sockaddr()))
        finish(sock)


@way("int80-socketcall")
def int80_socketcall(to: Target) -> None:
    with to.make_socket() as sock:
        address = low_memory(to.sockaddr())
        arguments = low_memory(struct.pack("=III", sock.fileno(), address, len(to.sockaddr())))
        int80(102, 3, arguments, 0)
        finish(sock)


def elf32(to: Target) -> bytes:
    """A 32-bit program: socket(), connect() by socketcall, exit(errno)."""
    base = 0x08048000
    header = 52 + 32
    code = bytearray()

    def data_address(offset: int) -> bytes:
        return struct.pack("<I", base + header + 128 + offset)

    # socket: call 1 with its three arguments
    code += b"\xb8\x66\0\0\0\xbb\x01\0\0\0\xb9" + data_address(0) + b"\xcd\x80"
    # connect: the new descriptor goes into the arguments of call 3
    code += b"\xa3" + data_address(12)
    code += b"\xb8\x66\0\0\0\xbb\x03\0\0\0\xb9" + data_address(12) + b"\xcd\x80"
    # end with the errno
    code += b"\xf7\xd8\x89\xc3\xb8\x01\0\0\0\xcd\x80"
    data = struct.pack("<III", to.family, 1, 0)
    data += struct.pack("<I", 0) + data_address(24) + struct.pack("<I", len(to.sockaddr())) + to.sockaddr()
    body = bytes(code).ljust(128, b"\x90") + data
    size = header + len(body)
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    head = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + header, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    return head + struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 7, 0x1000) + body


@way("m32", root=True)
def m32(to: Target) -> None:
    """A real 32-bit program."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        program = Path(directory, "connect32")
        program.write_bytes(elf32(to))
        program.chmod(0o755)
        pid = os.fork()
        if pid == 0:
            become(to.uid)
            os.execv(str(program), ["connect32"])  # noqa: S606 - a program of the test
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise OSError(errno.ENOEXEC, "32-bit programs do not run here")
    if os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), os.strerror(os.WEXITSTATUS(status)))


@way("mptcp")
def mptcp(to: Target) -> None:
    with to.make_socket(IPPROTO_MPTCP) as sock:
        sock.settimeout(_WAIT_S)
        sock.connect(to.pair)


@way("mptcp-fastopen")
def mptcp_fastopen(to: Target) -> None:
    with to.make_socket(IPPROTO_MPTCP) as sock:
        sock.settimeout(_WAIT_S)
        started(lambda: sock.sendto(b"EHLO x\r\n", MSG_FASTOPEN, to.pair))
        finish(sock)


@way("setuid-root", root=True)
def setuid_root(to: Target) -> None:
    """As a setuid-root program runs: the user's real uid, root's effective and fs uid."""
    os.setresuid(to.uid, 0, 0)
    plain(to)


@way("inherited-socket", root=True)
def inherited_socket(to: Target) -> None:
    """Root made the socket, the user connects it."""
    with to.make_socket() as sock:
        become(to.uid)
        sock.settimeout(_WAIT_S)
        sock.connect(to.pair)


@way("passed-socket", root=True)
def passed_socket(to: Target) -> None:
    """Root made the socket and passed it on (SCM_RIGHTS)."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with to.make_socket() as made:
        left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.fileno()]))])
    become(to.uid)
    _, descriptors, _, _ = socket.recv_fds(right, 10, 1)
    with to.keep(socket.socket(fileno=descriptors[0])) as sock:
        sock.settimeout(_WAIT_S)
        sock.connect(to.pair)


@way("lent-socket", root=True)
def lent_socket(to: Target) -> None:
    """The user made the socket, another uid (one higher) connects it."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pid = os.fork()
    if pid == 0:
        become(to.uid)
        with to.make_socket() as made:
            left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.fileno()]))])
        os._exit(0)
    os.waitpid(pid, 0)
    become(to.uid + 1)
    _, descriptors, _, _ = socket.recv_fds(right, 10, 1)
    with to.keep(socket.socket(fileno=descriptors[0])) as sock:
        sock.settimeout(_WAIT_S)
        sock.connect(to.pair)


@way("container", root=True)
@way("rootless-container", root=True)
def container(to: Target) -> None:
    """In a network namespace of its own that is routed through the host."""
    assert to.container is not None, "needs --container"
    with Path(to.container).open("rb") as namespace:
        check(libc.setns(namespace.fileno(), CLONE_NEWNET))
    become(to.uid)
    plain(to)


def begin(name: str, to: Target) -> int:
    """Become who tries, for good, and try: the errno, 0 if it came through. Only in a child."""
    signal.alarm(20)
    if name not in NEEDS_ROOT:
        become(to.uid)
    return attempt(WAYS[name], to)


def attempt(function: Way, to: Target) -> int:
    """The errno of an attempt, 0 if it came through."""
    try:
        function(to)
    except OSError as error:
        return error.errno or (errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO)
    return 0


def main() -> None:
    assert platform.machine() == "x86_64"
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=sorted(WAYS))
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--container", help="path of a network namespace")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    number = begin(args.way, Target(args.address, args.port, args.uid, container=args.container))
    json.dump({"errno": errno.errorcode.get(number, str(number)) if number else None}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
