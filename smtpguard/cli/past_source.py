"""Who answers for the past: the daemon, else the state file itself. In one place for `events`, `why` and `report`."""

import os
from typing import TYPE_CHECKING, Any, Protocol

from smtpguard.cli.common import find_socket
from smtpguard.cli.messages import print_message
from smtpguard.errors import NoDaemonError, PrivilegeError, StateError

if TYPE_CHECKING:
    from smtpguard.state.history import History

Json = dict[str, Any]
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What rows raise whose columns hold something of another kind, a disk's doing or a person's; and mistakes of ours."""
ANSWER_S = 5.0
"""For a whole answer, unless somebody has reason to wait longer."""


class ReadPast(Protocol):
    """Looks up in the file what the daemon would have said."""

    def __call__(self, history: "History", /) -> Json:
        """The answer."""
        ...


class PastSource:
    """Asks the daemon, or reads the file where none runs.

    Args:
        config_path: --config.
        socket_path: --socket.
    """

    def __init__(self, config_path: str | None, socket_path: str | None) -> None:
        self._config_path = config_path
        self._socket = find_socket(config_path, socket_path)
        self._path: str | None = None

    def ask(self, verb: str, read: ReadPast, *, timeout_s: float = ANSWER_S, **args: Any) -> Json:  # noqa: ANN401 - JSON
        """An answer.

        Args:
            verb: What the daemon is asked for.
            read: What finds the same in the file.
            timeout_s: For the daemon's whole answer.
            args: The verb's arguments, JSON values.

        Raises:
            NoDaemonError: There is neither a daemon nor a file.
            PrivilegeError: Either is for root.
            GuardError: What the daemon said, or that the file can't be read.
        """
        from smtpguard.control.client import ask

        try:
            return ask(self._socket, verb, timeout_s=timeout_s, **args)
        except NoDaemonError as nobody:
            path = self._find_file(nobody)
        from smtpguard.state.history import History

        with History(path) as history:
            try:
                return read(history)
            except _UNREADABLE as error:
                fault = f"{type(error).__name__}: {error}"
                what = f"holds what no smtpguard has written, or smtpguard reads it wrong: {fault}"
                raise StateError(what, where=path, fix="leave it there, keep a copy of it, and report this") from error

    def _find_file(self, nobody: NoDaemonError) -> str:
        """The state file, which is read where no daemon runs; said on stderr, once."""
        if self._path is not None:
            return self._path
        from smtpguard.settings.load import load_places

        settings, _ = load_places(self._config_path, ["state"])
        path = settings.state_path
        if not os.access(path, os.R_OK | os.W_OK):
            if os.geteuid() != 0 and os.path.exists(os.path.dirname(path)):  # noqa: PTH110, PTH120 - costs less to import
                what = f"no daemon is running, and the history at {path} is for root"
                raise PrivilegeError(what, fix="run as root, or start the guard") from nobody
            raise nobody
        print_message(f"smtpguard: no daemon is running: the history is read from {path}", path)
        self._path = path
        return path
