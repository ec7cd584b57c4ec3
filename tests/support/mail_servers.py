"""A mail server that takes every mail, and a name server, for programs in a namespace of a test's own."""

import contextlib
import socket
import struct
import threading

from tests.support.netlab import inside


class MailServer:
    """Speaks just enough SMTP on all addresses of a namespace; counts who came, by the address asked for."""

    def __init__(self, netns: str, port: int = 25) -> None:
        self.accepted: list[str] = []
        self.mails = 0
        self._open: set[socket.socket] = set()
        with inside(netns):
            self._listener = socket.create_server(("0.0.0.0", port), backlog=512)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                session, _ = self._listener.accept()
            except OSError:
                return
            self.accepted.append(session.getsockname()[0])
            threading.Thread(target=self._serve, args=(session,), daemon=True).start()

    def _serve(self, session: socket.socket) -> None:
        with contextlib.suppress(OSError), session, session.makefile("rwb") as file:
            session.settimeout(20)

            def say(text: bytes) -> None:
                file.write(text + b"\r\n")
                file.flush()

            say(b"220 mx.test ESMTP")
            while line := file.readline(2000):
                verb = line[:4].upper()
                if verb == b"EHLO":
                    say(b"250 mx.test")
                elif verb == b"DATA":
                    say(b"354 go on")
                    while (text := file.readline(2000)) and text.rstrip(b"\r\n") != b".":
                        pass
                    self.mails += 1
                    say(b"250 taken")
                elif verb == b"QUIT":
                    say(b"221 bye")
                    return
                else:
                    say(b"250 ok")

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class NameServer:
    """Answers for IPv4 addresses of some names over UDP (RFC 1035); of everything else it knows that there is none."""

    def __init__(self, netns: str, address: str, names: dict[str, tuple[str, ...]]) -> None:
        self._names = {name.encode(): addresses for name, addresses in names.items()}
        with inside(netns):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.bind((address, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                question, peer = self._socket.recvfrom(2000)
            except OSError:
                return
            with contextlib.suppress(OSError, IndexError, struct.error):
                self._socket.sendto(self._answer(question), peer)

    def _answer(self, question: bytes) -> bytes:
        labels, at = [], 12
        while size := question[at]:
            labels.append(question[at + 1 : at + 1 + size])
            at += size + 1
        asked = question[12 : at + 5]
        (kind,) = struct.unpack_from(">H", question, at + 1)
        addresses = self._names.get(b".".join(labels).lower())
        found = addresses if addresses and kind == 1 else ()
        flags = 0x8580 if addresses else 0x8583  # an answer with authority; no such name
        records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(each) for each in found)
        return question[:2] + struct.pack(">5H", flags, 1, len(found), 0, 0) + asked + records

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
