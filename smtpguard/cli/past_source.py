"""Who answers for the past: the daemon, else the state file itself. In one place for `events`, `why` and `report`."""

import os
from typing import TYPE_CHECKING, Any, Protocol

from smtpguard.cli.answers import ask, note_file
from smtpguard.cli.common import find_socket
from smtpguard.cli.messages import print_message
from smtpguard.errors import NoDaemonError, PrivilegeError

if TYPE_CHECKING:
    from smtpguard.state.history import History

Json = dict[str, Any]
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
        try:
            return ask(self._socket, verb, timeout_s=timeout_s, **args)
        except NoDaemonError as nobody:
            path = self._find_file(nobody)
        from smtpguard.state.history import History

        # What a report or a card makes of it comes later: until the command ends its rows are what may be unreadable.
        note_file(path)
        with History(path) as history:
            return read(history)

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
