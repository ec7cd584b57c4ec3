"""Work whose size tenants choose, beside the loop: one call at a time, in a thread, and paced.

A thread that computes holds the interpreter's lock; who walks over a hundred thousand sockets calls `breathe` for each,
so that the loop has its turn.
"""

import time
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from smtpguard.kernel.lasting_thread import start_thread

if TYPE_CHECKING:
    import threading

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_BREATH = 64
_PAUSE_S = 0.001


class Work(Protocol[T_co]):
    """Something that takes long."""

    def __call__(self) -> T_co:
        """Do it."""
        ...


class Pace:
    """Pauses a millisecond after each 64 steps, which take about as long."""

    def __init__(self) -> None:
        self._steps = 0

    def breathe(self) -> None:
        """One more step."""
        self._steps += 1
        if self._steps % _BREATH == 0:
            time.sleep(_PAUSE_S)


class Beside(Generic[T]):
    """One call in a thread of its own, and then the next.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._result: list[T] = []
        self._error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something was begun and not taken yet."""
        return self._thread is not None

    def begin(self, work: Work[T]) -> None:
        """Begin a call; the one before must have been taken. Raises ThreadError: nothing was begun."""

        def run() -> None:
            try:
                self._result = [work()]
            except BaseException as error:  # noqa: BLE001 - raised again where it is taken
                self._error = error

        if self._thread is not None:
            raise RuntimeError(f"{self._name}: one call at a time")
        self._result, self._error = [], None
        self._thread = start_thread(self._name, run)

    def take(self, wait_s: float = 0) -> T | None:
        """What the call came to, or None if it goes on; raises what it raised.

        Args:
            wait_s: How long to wait for it.
        """
        if self._thread is None:
            return None
        self._thread.join(wait_s)
        if self._thread.is_alive():
            return None
        self._thread = None
        if self._error is not None:
            raise self._error
        return self._result[0]

    def wait(self, wait_s: float) -> None:
        """Until the call is over, or for so long."""
        if self._thread is not None:
            self._thread.join(wait_s)
