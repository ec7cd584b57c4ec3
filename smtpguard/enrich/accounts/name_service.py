"""Accounts that are not in /etc/passwd (LDAP, sssd, homed): asked of the C library in a thread nobody waits for.

A directory server that is down makes getpwuid(3) wait for many seconds, so an answer is there later or never; until
then the account has no name. "Nobody can say" is no answer: the last one holds. Questions and answers are bounded;
what did not fit is counted.
"""

import contextlib
import os
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from smtpguard.enrich.accounts.nss import find_group, find_passwd
from smtpguard.errors import ThreadError, UnansweredError
from smtpguard.hooks import ClockS
from smtpguard.kernel.lasting_thread import start_thread, tell_mistake

MAX_WAITING = 256
MAX_KEPT = 10_000
KEEP_S = 600.0
"""How long an answer holds, a negative one too."""
FRESH_S = 10.0
"""How old "there is none" may be when a person asks: they may have made the account a moment ago."""
NO_ANSWER = "the name service does not answer"
RETRY_S = 5.0
"""After a look-up that failed, the next of that name comes so much later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedAccount:
    """An account as the C library knows it.

    Attributes:
        uid: Its uid.
        name: Its login name.
        groups: Names of its groups.
    """

    uid: int
    name: str
    groups: frozenset[str] = frozenset()


def ask_system(key: int | str) -> NamedAccount | None:
    """An account by uid or login name; may wait long. None if there is none.

    Args:
        key: Uid or login name.

    Raises:
        UnansweredError: Nobody can say.
    """
    found = find_passwd(key)
    if found is None:
        return None
    name, uid, gid = found
    groups = {group for member in os.getgrouplist(name, gid)[:1024] if (group := find_group(member)) is not None}
    return NamedAccount(uid=uid, name=name, groups=frozenset(groups))


class AskNameService(Protocol):
    """Asks whoever knows accounts; may wait long."""

    def __call__(self, key: int | str, /) -> NamedAccount | None:
        """The account of a uid or a login name; None if there is none. Raises UnansweredError."""
        ...


class NameService:
    """Answers from memory, and asks in the background.

    Args:
        ask: Who knows; may wait, and may raise UnansweredError.
        clock: Seconds, monotonic.

    Attributes:
        dropped: Questions that were not asked because too many were waiting.
        failure: Why the last look-up that ended failed; None when it was answered.
    """

    def __init__(
        self,
        ask: AskNameService = ask_system,
        clock: ClockS = time.monotonic,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._questions: queue.Queue[int | str] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._answers: dict[int | str, tuple[float, NamedAccount | None]] = {}
        self._asked: dict[int | str, threading.Event] = {}
        self._failed: dict[int | str, tuple[float, str]] = {}
        self._news: set[int | str] = set()
        self._wake: int | None = None
        self._news_event: int | None = None
        self._begun: float | None = None
        self.failure: str | None = None
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def sibling(self) -> "NameService":
        """Another one that asks the same service, with a thread, a queue and a memory of its own."""
        return NameService(self._ask, self._clock)

    def time(self) -> float:
        """What its clock says: seconds, monotonic."""
        return self._clock()

    def trouble(self) -> str | None:
        """Why names can't be looked up now; None when they can, as far as is known."""
        begun = self._begun
        if begun is not None and self._clock() - begun > RETRY_S:
            return NO_ANSWER
        return self.failure

    def find(self, key: int | str) -> NamedAccount | None:
        """What is known now of a uid or login name; asks if nothing is, or if it is old.

        Args:
            key: Uid or login name.
        """
        known = self._answers.get(key)
        if (known is None or self._clock() - known[0] > KEEP_S) and not self._has_failed(key):
            self._request(key)
        return known[1] if known else None

    def is_known(self, key: int | str) -> bool:
        """Whether there is an answer that is not old, or a look-up has just failed or is under way."""
        known = self._answers.get(key)
        if known is not None and self._clock() - known[0] <= KEEP_S:
            return True
        return key in self._asked or self._has_failed(key)

    def wait_for(self, key: int | str, timeout_s: float) -> NamedAccount | None:
        """Like `find`, but waits for the first answer: for a person's command, never for a verdict.

        Args:
            key: Uid or login name.
            timeout_s: How long at most; with 0 nobody waits, and who asks again when `fileno` says so knows more.

        Raises:
            UnansweredError: There is no answer: not yet, or nobody can say.
        """
        answer = self._find_for_people(key)
        if answer is None:
            if self._has_failed(key):
                raise UnansweredError(self._failed[key][1])
            event = self._request(key)
            if event is None:
                raise UnansweredError("too many names are being looked up")
            answer = self._find_for_people(key) if event.wait(timeout_s) else None
        if answer is None:
            failed = self._failed.get(key) if self._has_failed(key) else None
            raise UnansweredError(failed[1] if failed else f"{NO_ANSWER} within {timeout_s:g} s", is_pending=not failed)
        return answer[0]

    def _find_for_people(self, key: int | str) -> tuple[NamedAccount | None] | None:
        """An answer that a person may be given, in a tuple; None if there is none that is fresh enough."""
        known = self._answers.get(key)
        if known is None:
            return None
        if known[1] is None and self._clock() - known[0] > FRESH_S:
            return None
        if known[1] is not None:
            self.find(key)
        return (known[1],)

    def _has_failed(self, key: int | str) -> bool:
        failed = self._failed.get(key)
        return failed is not None and self._clock() - failed[0] < RETRY_S

    def fileno(self) -> int:
        """Readable when a look-up has ended, in whatever way; for the one who waits for that with `wait_for`."""
        with self._lock:
            if self._wake is None:
                self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return self._wake

    def drain(self) -> None:
        """Make `fileno` wait for the next."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fileno())

    def take_news(self) -> set[int | str]:
        """Keys whose answer is new or has changed since the last call."""
        with self._lock:
            news, self._news = self._news, set()
            if self._news_event is not None:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._news_event)
        return news

    def news_fileno(self) -> int:
        """Readable while `take_news` has something."""
        with self._lock:
            if self._news_event is None:
                self._news_event = os.eventfd(len(self._news), os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return self._news_event

    def _request(self, key: int | str) -> threading.Event | None:
        event = self._asked.get(key)
        if event is not None:
            return event
        if self._questions.full():  # ten thousand may be asked for at once
            self.dropped += 1
            return None
        with self._lock:
            event = self._asked.get(key)
            if event is not None:
                return event
            try:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = start_thread("names", self._serve)
                self._questions.put_nowait(key)
            except (queue.Full, ThreadError):
                self.dropped += 1
                return None
            event = self._asked[key] = threading.Event()
            return event

    def _serve(self) -> None:
        while True:
            try:
                key = self._questions.get(timeout=60.0)
            except queue.Empty:
                with self._lock:
                    if self._questions.empty():
                        self._thread = None
                        return
                continue
            try:
                self._answer(key)
            except Exception:  # noqa: BLE001 - who waits was told; the thread is there for whoever asks next
                tell_mistake()

    def _answer(self, key: int | str) -> None:
        """Ask, and keep what came of it: an answer, or why there is none; then an earlier answer holds."""
        answer: NamedAccount | None = None
        failure: str | None = None
        self._begun = self._clock()
        mistake: Exception | None = None
        try:
            answer = self._ask(key)
        except UnansweredError as error:
            failure = error.what
        except Exception as error:  # noqa: BLE001 - whoever waits is told first, then it is raised
            mistake, failure = error, f"by a mistake of smtpguard's own: {type(error).__name__}: {error}"
        self._begun = None
        with self._lock:
            self.failure = failure
            if failure is None:
                old = self._answers.get(key)
                if old is None or old[1] != answer:
                    self._news.add(key)
                    if self._news_event is not None:
                        os.eventfd_write(self._news_event, 1)
                self._answers[key] = (self._clock(), answer)
                self._failed.pop(key, None)
                _trim(self._answers)
            else:
                self._failed[key] = (self._clock(), failure)
                _trim(self._failed)
            event = self._asked.pop(key)
            event.set()
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)
        if mistake is not None:
            raise mistake


def _trim(kept: dict[int | str, Any]) -> None:
    while len(kept) > MAX_KEPT:
        del kept[next(iter(kept))]
