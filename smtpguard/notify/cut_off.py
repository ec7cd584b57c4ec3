"""Cuts a connection off that takes too long in all: a timeout of the socket's would begin anew with every byte."""

import threading
from contextlib import suppress
from socket import SHUT_RDWR, socket
from types import TracebackType
from typing import Protocol, Self

from smtpguard.errors import ThreadError
from smtpguard.kernel.lasting_thread import start_thread
from smtpguard.notify.delivery import DeliveryError

_AGAIN_S = 0.1


class FindSocket(Protocol):
    """Knows the socket of a connection that somebody else makes."""

    def __call__(self) -> socket | None:
        """The socket; None while there is none."""
        ...


class CutOff:
    """Ends a connection's socket after some time, and each that comes after it: it may be under way just then.

    A context, for as long as the connection is in use. Raises DeliveryError where there is no thread for it.

    Args:
        seconds: How long it may take.
        find_socket: Which it is.

    Attributes:
        is_late: Whether the time was over.
    """

    def __init__(self, seconds: float, find_socket: FindSocket) -> None:
        self._seconds = seconds
        self._find_socket = find_socket
        self._ended = threading.Event()
        self.is_late = False

    def __enter__(self) -> Self:
        try:
            start_thread("cut-off", self._watch)
        except ThreadError as error:  # without a bound nobody is waited for
            raise DeliveryError(str(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        if self._ended.wait(self._seconds):
            return
        self.is_late = True
        while True:
            held = self._find_socket()
            if held is not None:
                with suppress(OSError):
                    held.shutdown(SHUT_RDWR)
            if self._ended.wait(_AGAIN_S):
                return
