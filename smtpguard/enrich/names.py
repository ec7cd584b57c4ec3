"""Accounts that are not in /etc/passwd (LDAP, sssd, homed): asked of the C library in a thread nobody waits for.

A directory server that is down makes getpwuid(3) wait for many seconds, so an answer is there later or never; until
then the account has no name. Questions and answers are bounded; what did not fit is counted.
"""

import grp
import os
import pwd
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MAX_WAITING = 256
MAX_KEPT = 10_000
KEEP_S = 600.0
"""How long an answer holds, a negative one too."""


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
    """An account by uid or login name; may wait long. None if there is none, or nobody can say.

    Args:
        key: Uid or login name.
    """
    try:
        entry = pwd.getpwuid(key) if isinstance(key, int) else pwd.getpwnam(key)
        gids = os.getgrouplist(entry.pw_name, entry.pw_gid)[:1024]
    except (KeyError, ValueError, OverflowError, OSError):
        return None
    groups = set()
    for gid in gids:
        try:
            groups.add(grp.getgrgid(gid).gr_name)
        except (KeyError, OverflowError, OSError):
            continue
    return NamedAccount(uid=entry.pw_uid, name=entry.pw_name, groups=frozenset(groups))


def find_group(name: str) -> str | None:
    """What the C library calls a group, in whatever spelling it is asked for; None if it knows none. May wait long.

    Args:
        name: Group name.
    """
    try:
        return grp.getgrnam(name).gr_name
    except (KeyError, ValueError, OSError):
        return None


class NameService:
    """Answers from memory, and asks in the background.

    Args:
        ask: Who knows; may wait.
        clock: Seconds, monotonic.

    Attributes:
        dropped: Questions that were not asked because too many were waiting.
    """

    def __init__(
        self,
        ask: Callable[[int | str], NamedAccount | None] = ask_system,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._questions: queue.Queue[int | str] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._answers: dict[int | str, tuple[float, NamedAccount | None]] = {}
        self._asked: dict[int | str, threading.Event] = {}
        self._news: set[int | str] = set()
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def find(self, key: int | str) -> NamedAccount | None:
        """What is known now of a uid or login name; asks if nothing is, or if it is old.

        Args:
            key: Uid or login name.
        """
        known = self._answers.get(key)
        if known is None or self._clock() - known[0] > KEEP_S:
            self._request(key)
        return known[1] if known else None

    def wait_for(self, key: int | str, timeout_s: float) -> NamedAccount | None:
        """Like `find`, but waits for the first answer: for a person's command, never for a verdict.

        Args:
            key: Uid or login name.
            timeout_s: How long at most.
        """
        known = self._answers.get(key)
        if known is not None:
            return self.find(key)
        event = self._request(key)
        if event is None or not event.wait(timeout_s):
            return None
        known = self._answers.get(key)
        return known[1] if known else None

    def take_news(self) -> set[int | str]:
        """Keys whose answer is new or has changed since the last call."""
        with self._lock:
            news, self._news = self._news, set()
        return news

    def _request(self, key: int | str) -> threading.Event | None:
        with self._lock:
            event = self._asked.get(key)
            if event is not None:
                return event
            try:
                self._questions.put_nowait(key)
            except queue.Full:
                self.dropped += 1
                return None
            event = self._asked[key] = threading.Event()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="names", daemon=True)
                self._thread.start()
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
            answer = self._ask(key)
            with self._lock:
                old = self._answers.get(key)
                if old is None or old[1] != answer:
                    self._news.add(key)
                self._answers[key] = (self._clock(), answer)
                while len(self._answers) > MAX_KEPT:
                    del self._answers[next(iter(self._answers))]
                event = self._asked.pop(key)
            event.set()
