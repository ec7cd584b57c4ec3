"""Questions about the history, answered by a thread of its own: the daemon's loop never waits for the disk.

Few wait at a time, each has a time limit, and the file is let go soon after the last, so that one that was replaced is
noticed.
"""

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any, Protocol

from smtpguard.errors import StateError, ThreadError
from smtpguard.kernel.lasting_thread import start_thread

if TYPE_CHECKING:
    from smtpguard.state.history import History

MAX_WAITING = 16
ANSWER_S = 4.0
"""Below the time that a client waits."""
IDLE_S = 10.0


class HistoryQuestion(Protocol):
    """Something to be looked up."""

    def __call__(self, history: "History", /) -> Any:  # noqa: ANN401 - whatever was asked for
        """The answer. Raises StateError."""
        ...


class Done(Protocol):
    """Waits for an answer."""

    def __call__(self, answer: Any, /) -> None:  # noqa: ANN401 - whatever was asked for
        """Take it, or the StateError, in the desk's thread."""


class HistoryDesk:
    """Answers questions one by one.

    Args:
        path: Absolute path of the state file, as configured.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._questions: queue.SimpleQueue[tuple[HistoryQuestion, Done] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        """Held while a question is given or a thread ends, so that no question is left to one that is ending."""

    def ask(self, question: HistoryQuestion, done: Done) -> None:
        """Have something looked up.

        Args:
            question: Gets the history, returns the answer; raises StateError if it can't.
            done: Gets the answer or the StateError, in the desk's thread.

        Raises:
            StateError: Too many wait already, or nobody can look now.
        """
        if self._questions.qsize() >= MAX_WAITING:
            raise StateError("too many questions about the history wait already", fix="try again")
        with self._lock:
            if self._thread is None:
                try:
                    self._start()
                except ThreadError as error:
                    raise StateError(error.what, fix=error.fix) from error
            self._questions.put((question, done))

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread; one that hangs ends with the process."""
        with self._lock:
            thread = self._thread
            if thread is not None:
                self._questions.put(None)
        if thread is not None:
            thread.join(timeout_s)

    def _start(self) -> None:
        self._thread = start_thread("history", self._run)

    def _run(self) -> None:
        is_asked_to_end = False
        try:
            self._answer_all()
            is_asked_to_end = True
        finally:
            with self._lock:
                self._thread = None
                if not is_asked_to_end and not self._questions.empty():  # a mistake: others have asked too
                    with contextlib.suppress(ThreadError):  # they are answered with the next question
                        self._start()

    def _answer_all(self) -> None:
        from smtpguard.state.history import History  # with the first question: few guards are ever asked

        while (item := self._questions.get()) is not None:
            try:
                with History(self._path, timeout_s=ANSWER_S) as history:
                    while item is not None:
                        _answer(history, *item)
                        item = self._questions.get(timeout=IDLE_S)
            except queue.Empty:
                continue
            except StateError as failure:
                if item is not None:
                    item[1](failure)
                continue
            return


def _answer(history: "History", question: HistoryQuestion, done: Done) -> None:
    """Answer one. A mistake of ours ends the thread, which is recorded; who asked hears of it, and does not wait."""
    answer: Any = StateError(
        "can't be looked up by a mistake of smtpguard's own", fix="the guard goes on; please report what its log says"
    )
    try:
        answer = question(history)
    except StateError as failure:
        answer = failure
    finally:
        done(answer)
