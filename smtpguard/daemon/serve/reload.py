"""Reading the configuration again beside the loop: it takes a third of a second, and seconds on a busy machine.

The loop must not wait that long: verdicts and lines would come late, and credits stop to hold two seconds after the
last heartbeat. So a thread waits for the child that reads, and the loop applies what came, whole or not at all.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from smtpguard.errors import ConfigError, GuardError, ThreadError
from smtpguard.kernel.lasting_thread import start_thread
from smtpguard.settings import Settings

if TYPE_CHECKING:
    import threading


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What came of a reload.

    Attributes:
        text: For people.
        changed: What is in force now and was not before, as `key old -> new`.
        waiting: What needs a restart.
        unmet: Why the kernel does not carry it out; empty when it does.
    """

    text: str
    changed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()

    def as_error(self) -> GuardError | None:
        """What to answer where the kernel does not do what was loaded; None where it does."""
        if not self.unmet:
            return None
        what = f"{self.text} But the kernel does not carry it out: {'; '.join(self.unmet)}"
        return GuardError(what, fix="see `smtpguard status`")


class ReloadDone(Protocol):
    """Told what came of a reload."""

    def __call__(self, answer: Reloaded | GuardError, /) -> None:
        """Take it."""
        ...


class Notice(Protocol):
    """Who has to know that a reload is under way: the service manager."""

    def reloading(self) -> None:
        """The configuration is being read."""
        ...

    def ready(self) -> None:
        """It is in force, or the old one goes on."""
        ...


class Read(Protocol):
    """Reads the configuration."""

    def __call__(self) -> Settings:
        """What the file says now; may wait. Raises GuardError if it is no good."""
        ...


class Apply(Protocol):
    """Puts a configuration in force."""

    def __call__(self, read: Settings, /) -> Reloaded:
        """Say what came of it. Raises GuardError; nothing has changed then."""
        ...


class IsSettled(Protocol):
    """Whether the kernel refuses already by what was loaded."""

    def __call__(self) -> bool:
        """While what was attempted before is still being read, it refuses nobody by new limits."""
        ...


class Reload:
    """Reloads, as a part of the loop; one at a time.

    Args:
        read: Reads and checks the configuration; called in a thread of its own. Raises ConfigError.
        apply: Puts it in force; called in the loop. May raise GuardError.
        notice: Who has to know; None for nobody.
        is_settled: What an answer waits for: from it on the limits hold.

    Attributes:
        trouble: Why a configuration is in force only in part, by a mistake of our own; None when all is well.
    """

    def __init__(self, read: Read, apply: Apply, notice: Notice | None, is_settled: IsSettled) -> None:
        self._read = read
        self._apply = apply
        self._notice = notice
        self._is_settled = is_settled
        self.trouble: str | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._found: Settings | GuardError | None = None
        self._asked: list[ReloadDone] = []
        self._waiting: list[ReloadDone] = []
        self._held: list[tuple[ReloadDone, Reloaded | GuardError]] = []

    def request(self, done: ReloadDone) -> None:
        """Read what the file holds from now on; `done` is called in the loop, with what came of it.

        A request that comes while the file is being read has it read once more: it may have changed meanwhile.
        """
        self._waiting.append(done)
        if self._thread is None:
            self._begin()

    def close(self) -> None:
        """Forget a reading that is under way; its thread ends with its child, or with the process."""
        self._asked, self._waiting, self._held = [], [], []
        if self._thread is None:
            os.close(self._wake)

    def filenos(self) -> Sequence[int]:
        """Readable when a configuration was read."""
        return (self._wake,)

    def on_ready(self, fileno: int) -> None:
        """The configuration was read: put it in force."""
        del fileno
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if self._thread is None or self._found is None:
            return  # pragma: no cover: epoll may wake without cause; then nothing was read
        self._thread.join()
        found, asked, self._thread, self._found, self._asked = self._found, self._asked, None, None, []
        answer: Reloaded | GuardError = GuardError(
            "the configuration may be in force only in part, by a mistake of smtpguard's own", fix="restart the guard"
        )
        try:
            answer = found if isinstance(found, GuardError) else self._apply(found)
            if isinstance(answer, Reloaded):
                self.trouble = None
        except GuardError as error:
            answer = error
        except Exception:
            self.trouble = str(answer)
            raise
        finally:
            self._held += [(done, answer) for done in asked]
            self._release()
            if self._notice is not None:
                self._notice.ready()
            if self._waiting:
                self._begin()

    def next_deadline(self) -> None:
        """None: the reading has its own timeout."""

    def on_time(self, now_ns: int) -> None:
        """Answer, once what was loaded holds; the limits have the loop turn until then."""
        del now_ns
        if self._held:
            self._release()

    def _release(self) -> None:
        if self._is_settled():
            held, self._held = self._held, []
            for done, answer in held:
                done(answer)

    def _begin(self) -> None:
        self._asked, self._waiting = self._waiting, []
        if self._notice is not None:
            self._notice.reloading()
        try:
            self._thread = start_thread("reload", self._run)
        except ThreadError as error:
            asked, self._asked = self._asked, []
            self._held += [(done, error) for done in asked]
            self._release()
            if self._notice is not None:
                self._notice.ready()

    def _run(self) -> None:
        found: Settings | GuardError = ConfigError("the configuration can't be read")
        try:
            found = self._read()
        except GuardError as error:
            found = error
        finally:
            self._found = found
            os.eventfd_write(self._wake, 1)
