"""The self-test: a connect() that the program must report and refuse, without a packet and without touching a user.

It makes a socket, tells the program that socket's cookie, and connects it to loopback. The program reports a socket of
that cookie as a probe and answers EPERM whatever the flags say: event and refusal are both proven. Where this process
does not live below the guarded cgroup, a child does it from a cgroup of its own below it.
"""

import errno
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from smtpguard.errors import SourceError
from smtpguard.sources.bpf.cgroup import is_inside, parse_cgroup_root

_SO_COOKIE = 57
_TARGETS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


def read_is_inside(cgroup: Path) -> bool:
    """Whether sockets that this process makes belong to a cgroup or one below it."""
    root = parse_cgroup_root(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines())
    return is_inside(cgroup, Path("/proc/self/cgroup").read_text("utf-8", "surrogateescape"), root)


class Announce(Protocol):
    """Has to know of a connection of our own before it is opened."""

    def __call__(self, cookie: int, /) -> None:
        """Take the cookie of its socket."""


def try_connect(family: socket.AddressFamily, address: str, port: int, announce: Announce) -> int | None:
    """One connect() that should be refused: its errno, 0 if it went through, None if there is no such family.

    Args:
        family: AF_INET or AF_INET6.
        address: A loopback address.
        port: A guarded port.
        announce: Told the socket's cookie before the connect.
    """
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:
        return None
    with sock:
        announce(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0])
        return sock.connect_ex((address, port))


def try_connects(port: int, announce: Announce) -> list[int]:
    """The errnos of one such connect() per address family that exists here."""
    codes = [try_connect(family, address, port, announce) for family, address in _TARGETS]
    return [code for code in codes if code is not None]


def try_connects_inside(cgroup: Path, port: int, announce: Announce) -> list[int]:
    """The same from a child in a cgroup of its own below `cgroup`. Raises SourceError."""
    group = cgroup / f"smtpguard-probe-{os.getpid()}"
    try:
        group.mkdir(exist_ok=True)
    except OSError as error:
        raise SourceError(f"self-test: {error.strerror}", where=str(group)) from error
    cookies, replies = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _run_child(group, port, cookies[1], replies[0])
    os.close(cookies[1])
    os.close(replies[0])
    codes: list[int] = []
    try:
        while data := os.read(cookies[0], 12):
            cookie, code = struct.unpack("=Qi", data)
            if cookie:
                announce(cookie)
                os.write(replies[1], b"+")
            else:
                codes.append(code)
    finally:
        os.close(cookies[0])
        os.close(replies[1])
        os.waitpid(child, 0)
        with suppress(OSError):
            group.rmdir()
    return codes


def _run_child(group: Path, port: int, output: int, replies: int) -> None:
    """The child's whole life: it never returns and raises nothing."""
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))

        def announce(cookie: int) -> None:
            os.write(output, struct.pack("=Qi", cookie, 0))
            os.read(replies, 1)

        for code in try_connects(port, announce):
            os.write(output, struct.pack("=Qi", 0, code))
    finally:
        os._exit(0)


def check_codes(codes: list[int], cgroup: Path) -> None:
    """Raise SourceError unless every self-test connect() was refused by the program."""
    if not codes:
        raise SourceError("self-test: no IPv4 and no IPv6 socket could be made", where=str(cgroup))
    for code in codes:
        if code != errno.EPERM:
            raise SourceError(
                f"self-test: a connect() was not refused ({os.strerror(code)})",
                where=str(cgroup),
                fix="the program does not see this cgroup's sockets; check the cgroup setting",
            )
