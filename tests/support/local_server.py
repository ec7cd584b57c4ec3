"""A server on loopback for tests of who calls one: each caller has a thread, and all end with it."""

import socket
import threading
from contextlib import suppress


class LocalServer:
    """Accepts until it is closed; `handle` says what a caller gets.

    Attributes:
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self.handle, args=(peer,), daemon=True))
                self._threads[-1].start()

    def handle(self, peer: socket.socket) -> None:
        """Serve one caller, in a thread of its own."""
        raise NotImplementedError

    def close(self) -> None:
        """End it, and wait for its threads."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
