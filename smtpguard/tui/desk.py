"""What the screen asks the guard beside the stream, and has it do: each call may wait, and stands in a thread."""

import contextlib
from collections.abc import Generator, Sequence
from typing import Any, Protocol

from smtpguard.control.client import ask
from smtpguard.errors import UNREADABLE, GuardError, NoDaemonError
from smtpguard.model import NS
from smtpguard.report.why import build_why
from smtpguard.tui.confirmation import Deed
from smtpguard.tui.facts import Facts, read_episodes, read_held, read_status, read_users
from smtpguard.tui.pieces import clean

MAX_EPISODES = 50


class Desk(Protocol):
    """Answers for the guard."""

    def poll(self, uids: Sequence[int]) -> Facts:
        """How things stand. Raises GuardError."""
        ...

    def why(self, uid: int) -> dict[str, Any]:
        """The object of a card. Raises GuardError."""
        ...

    def carry_out(self, deed: Deed, uid: int, for_s: int) -> str:
        """Do it, and say what came of it. Raises GuardError."""
        ...


class GuardDesk:
    """Asks over the control socket.

    Args:
        socket_path: Where it is.
    """

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    def poll(self, uids: Sequence[int]) -> Facts:
        """How things stand; what one may not ask for (members of control.group) is left out.

        Args:
            uids: Of whom standing and fill are wanted.
        """
        found: dict[str, Any] = {}
        unread: list[str] = []
        with _whatever_is_allowed(unread):
            found |= read_status(ask(self._path, "status")["status"])
        with _whatever_is_allowed(unread):
            found["held"] = read_held(ask(self._path, "blocks")["items"])
        with _whatever_is_allowed(unread):
            # Of nobody nothing is asked: that would be a question without a user.
            found["users"] = read_users(ask(self._path, "why", uids=list(uids))["items"] if uids else ())
        with _whatever_is_allowed(unread):
            found["episodes"] = read_episodes(ask(self._path, "incidents", rows=MAX_EPISODES)["items"])
        if unread:
            found["troubles"] = (clean(unread[0]), *found.get("troubles", ()))
        return Facts(**found)

    def why(self, uid: int) -> dict[str, Any]:
        """The object of a card."""
        answer = ask(self._path, "why", user=f"uid:{uid}")
        try:
            return build_why(answer["live"], answer["past"], answer["name"])
        except UNREADABLE as error:
            raise GuardError(_tell(error), where=self._path) from error

    def carry_out(self, deed: Deed, uid: int, for_s: int) -> str:
        """Do it, and say what came of it."""
        args: dict[str, Any] = {"for_ns": for_s * NS} if for_s else {}
        return str(ask(self._path, deed, user=f"uid:{uid}", **args).get("text"))


@contextlib.contextmanager
def _whatever_is_allowed(unread: list[str]) -> Generator[None]:
    """Go on without an answer that one may not have; what is said of one that can't be read is put into `unread`."""
    try:
        yield
    except NoDaemonError:
        raise
    except GuardError:
        return
    except UNREADABLE as error:
        unread.append(_tell(error))


def _tell(error: Exception) -> str:
    """That a guard of before an update answers in another way."""
    fault = f"{type(error).__name__}: {error}"
    return f"the guard's answer can't be read ({fault}). Was smtpguard updated? systemctl restart smtpguard"
