"""The addresses of a host name and how long they may be believed: asked of the servers in resolv.conf(5).

getaddrinfo(3) does not tell lifetimes, hence a client of our own, by UDP and where an answer does not fit by TCP. What
it can't answer (names of /etc/hosts, search lists, mDNS, a resolver that listens elsewhere) getaddrinfo does, without a
lifetime. Waits for seconds: never call it in the daemon's loop.
"""

import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from smtpguard.decode.dns import NOERROR, NXDOMAIN, DnsAnswer, Kind, parse_answer, render_query
from smtpguard.errors import DecodeError
from smtpguard.text import render_address

RESOLV_CONF = "/etc/resolv.conf"
HOSTS = "/etc/hosts"
TIMEOUT_S = 2.0
"""How long one server may take; resolv.conf's own default of 5 s, several times, is too long for who was refused."""
TOTAL_S = 6.0
MAX_SERVERS = 3
"""As in resolv.conf(5)."""
_MAX_FILE = 1 << 20
_MAX_DATAGRAM = 65_535
_KINDS: tuple[Kind, ...] = ("A", "AAAA")
_CODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a name stands for now.

    Attributes:
        addresses: As text, ascending.
        ttl_s: How long they may be believed; None if nobody says.
    """

    addresses: tuple[str, ...]
    ttl_s: int | None = None


def resolve_host(name: str) -> Resolved:
    """The addresses of a name; may wait some seconds.

    Args:
        name: Host name, absolute, without the last dot.

    Raises:
        OSError: It has none now, or nobody could say.
    """
    if "." in name and not is_in_hosts(name, read_text(HOSTS)):
        found = ask_servers(name, parse_servers(read_text(RESOLV_CONF)))
        if found is not None:
            return found
    entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return Resolved(addresses=tuple(sorted({str(entry[4][0]).partition("%")[0] for entry in entries})))


def parse_servers(content: str) -> list[str]:
    """Name servers of a resolv.conf, three at most; this host's own where it names none, as the C library has it."""
    servers: list[str] = []
    for line in content.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1].partition("%")[0])
        except ValueError:
            continue
        servers.append(words[1])
    return servers[:MAX_SERVERS] or ["127.0.0.1"]


def is_in_hosts(name: str, content: str) -> bool:
    """Whether a hosts(5) file has a name."""
    wanted = name.lower()
    return any(wanted in line.partition("#")[0].lower().split()[1:] for line in content.splitlines())


def ask_servers(name: str, servers: Iterable[str], *, port: int = 53, timeout_s: float = TIMEOUT_S) -> Resolved | None:
    """Ask one server after the other; None if none of them knows addresses of the name.

    Args:
        name: Host name.
        servers: Their addresses.
        port: Where they listen.
        timeout_s: How long each may take.
    """
    deadline = time.monotonic() + TOTAL_S
    for server in servers:
        left_s = min(timeout_s, deadline - time.monotonic())
        if left_s <= 0:
            break
        try:
            answers = _ask_server(name, server, port, left_s)
        except (OSError, DecodeError):
            continue
        addresses = {render_address(address) for answer in answers for address in answer.addresses}
        if addresses:
            ttls = [answer.ttl_s for answer in answers if answer.ttl_s is not None]
            return Resolved(addresses=tuple(sorted(addresses)), ttl_s=min(ttls))
        if any(answer.code == NXDOMAIN for answer in answers):
            break
    return None


def ask_question(
    name: str, kind: Kind, servers: Iterable[str], *, port: int = 53, timeout_s: float = TIMEOUT_S
) -> DnsAnswer:
    """The answer of the first server that has one: that there is no such name is one, REFUSED and SERVFAIL are none.

    Args:
        name: Host name.
        kind: What is asked for.
        servers: Their addresses.
        port: Where they listen.
        timeout_s: How long each may take.

    Raises:
        OSError: Nobody has answered: why not.
    """
    deadline = time.monotonic() + TOTAL_S
    failure: Exception = TimeoutError("no name server answers")
    for server in servers:
        left_s = min(timeout_s, deadline - time.monotonic())
        if left_s <= 0:
            break
        try:
            (answer,) = _ask_server(name, server, port, left_s, kinds=(kind,))
        except (OSError, DecodeError) as error:
            failure = error
            continue
        if answer.code in (NOERROR, NXDOMAIN):
            return answer
        failure = OSError(f"the name server answers {_CODES.get(answer.code, answer.code)}")
    raise failure if isinstance(failure, OSError) else OSError(str(failure)) from failure


def _ask_server(
    name: str, server: str, port: int, timeout_s: float, *, kinds: Iterable[Kind] = _KINDS
) -> list[DnsAnswer]:
    """The answers of one server for each kind, as far as they came in time; sent once more in between."""
    first = _choose_number()
    asked = {(first + index) & 0xFFFF: kind for index, kind in enumerate(kinds)}
    answers: list[DnsAnswer] = []
    deadline = time.monotonic() + timeout_s
    with _connect(server, port, socket.SOCK_DGRAM) as udp:
        for turn_s in (timeout_s / 2, 0.0):
            for number, kind in asked.items():
                udp.send(render_query(number, name, kind))
            for number, answer in _receive(udp, name, asked, deadline - turn_s):
                kind = asked.pop(number)
                answers.append(_ask_by_tcp(name, kind, server, port, timeout_s) if answer.is_cut else answer)
            if not asked:
                break
    if not answers:
        raise TimeoutError(f"{server} does not answer")
    return answers


def _receive(udp: socket.socket, name: str, asked: dict[int, Kind], deadline: float) -> Iterator[tuple[int, DnsAnswer]]:
    """Answers to what is still asked, until the deadline; anything else that comes is not for us."""
    while asked and (left_s := deadline - time.monotonic()) > 0:
        udp.settimeout(left_s)
        try:
            data = udp.recv(_MAX_DATAGRAM)
        except TimeoutError:
            return
        number = int.from_bytes(data[:2], "big")
        if number not in asked:
            continue
        try:
            answer = parse_answer(data, number, name, asked[number])
        except DecodeError:
            continue
        yield number, answer


def _ask_by_tcp(name: str, kind: Kind, server: str, port: int, timeout_s: float) -> DnsAnswer:
    number = _choose_number()
    query = render_query(number, name, kind)
    deadline = time.monotonic() + timeout_s
    with _connect(server, port, socket.SOCK_STREAM, timeout_s) as tcp:
        tcp.sendall(struct.pack("!H", len(query)) + query)
        (length,) = struct.unpack("!H", _read_exactly(tcp, 2, deadline))
        return parse_answer(_read_exactly(tcp, length, deadline), number, name, kind)


def _choose_number() -> int:
    """16 bits that nobody can guess; `secrets` would load OpenSSL into the daemon."""
    return int.from_bytes(os.urandom(2), "big")


def _connect(server: str, port: int, kind: socket.SocketKind, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A connected socket: the kernel takes datagrams of that server alone, and picks a port that nobody can guess."""
    family, _, _, _, address = socket.getaddrinfo(server, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
    opened = socket.socket(family, kind)
    try:
        opened.settimeout(timeout_s)
        opened.connect(address)
    except BaseException:
        opened.close()
        raise
    return opened


def _read_exactly(tcp: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the server stopped in the middle of its answer")
        tcp.settimeout(left_s)
        piece = tcp.recv(size - len(data))
        if not piece:
            raise ConnectionError("the server ended in the middle of its answer")
        data += piece
    return data


def read_text(path: str) -> str:
    """A file of root's; empty where it can't be read: then the C library is asked."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_FILE).decode("utf-8", "replace")
    except OSError:
        return ""
