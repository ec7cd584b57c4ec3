"""A name server of the tests' own: `python dns_server.py ADDRESS PORT ZONE LOG`; says `ready` when it listens.

ZONE is a JSON file, read anew for every question: name to `{"ttl", "addresses", "each"}`; an answer holds `each` of the
addresses (all, if it is not there), the next ones with every question for them. Every question adds a line to LOG:
`NAME TYPE udp|tcp`. What `cut` names is answered by TCP only, what `dumb` names not at all. `code` is an RCODE,
`texts` are for TXT. `*.DOMAIN` is every name in it that has no entry of its own; `*` is every name.
"""

import contextlib
import ipaddress
import json
import selectors
import socket
import struct
import sys
from pathlib import Path

_KINDS = {1: "A", 16: "TXT", 28: "AAAA"}
_HEADER = struct.Struct("!HHHHHH")


class Server:
    """Answers questions for A and AAAA."""

    def __init__(self, zone: Path, log: Path) -> None:
        self._zone = zone
        self._log = log
        self._turns: dict[tuple[str, int], int] = {}

    def answer(self, query: bytes, way: str) -> bytes | None:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name = ".".join(labels).lower()
        zone = json.loads(self._zone.read_text())
        parents = [f"*.{name.split('.', depth)[-1]}" for depth in range(1, len(labels))]
        (kind,) = struct.unpack_from("!H", query, at + 1)
        question = query[12 : at + 5]
        with self._log.open("a") as log:
            log.write(f"{name} {_KINDS.get(kind, kind)} {way}\n")
        entry = next((zone[key] for key in (name, *parents, "*") if key in zone), None)
        number = query[:2]
        if entry is None:
            return number + struct.pack("!HHHHH", 0x8183, 1, 0, 0, 0) + question
        if entry.get("dumb"):
            return None
        if entry.get("cut") and way == "udp":
            return number + struct.pack("!HHHHH", 0x8380, 1, 0, 0, 0) + question
        if "code" in entry:
            return number + struct.pack("!HHHHH", 0x8180 | entry["code"], 1, 0, 0, 0) + question
        version = 4 if kind == 1 else 6
        mine = [a.packed for a in map(ipaddress.ip_address, entry["addresses"]) if a.version == version]
        if _KINDS.get(kind) == "TXT":
            mine = [bytes([len(text)]) + text.encode() for text in entry.get("texts", ())]
        each = entry.get("each", len(mine))
        turn = self._turns.get((name, kind), 0)
        self._turns[name, kind] = turn + each
        given = [mine[(turn + index) % len(mine)] for index in range(min(each, len(mine)))]
        records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, entry["ttl"], len(a)) + a for a in given)
        return number + struct.pack("!HHHHH", 0x8180, 1, len(given), 0, 0) + question + records


def bind_both(family: int, address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Listen by UDP and TCP at one port; where any will do, at one that nobody's connection has by TCP."""
    while True:
        udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
        udp.bind((address, port))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind((address, udp.getsockname()[1]))
            tcp.listen()
        except OSError:
            if port:
                raise
            udp.close()
            tcp.close()
        else:
            return udp, tcp


def serve(address: str, port: int, zone: Path, log: Path) -> None:
    """Serve until killed; prints the port."""
    server = Server(zone, log)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp, tcp = bind_both(family, address, port)
    print("ready", udp.getsockname()[1], flush=True)
    selector = selectors.DefaultSelector()
    selector.register(udp, selectors.EVENT_READ)
    selector.register(tcp, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is udp:
                query, peer = udp.recvfrom(4096)
                answer = server.answer(query, "udp")
                if answer is not None:
                    udp.sendto(answer, peer)
            else:
                # Who asks may have given up: the next one is answered all the same.
                with contextlib.suppress(OSError, IndexError), tcp.accept()[0] as connection:
                    connection.settimeout(5)
                    answer = server.answer(receive(connection), "tcp")
                    if answer is not None:
                        connection.sendall(struct.pack("!H", len(answer)) + answer)


def receive(connection: socket.socket) -> bytes:
    """A question by TCP, without the two bytes of its length: it may come in pieces."""
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        piece = connection.recv(4096)
        if not piece:
            break
        data += piece
    return data[2:]


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
