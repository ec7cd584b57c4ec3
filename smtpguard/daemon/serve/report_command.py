"""`report`: one part of what the history knows of the whole host, or the rules in force."""

from typing import TYPE_CHECKING, Any, cast

from smtpguard.control.answer import Answer, Pages
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.serve.asker import Asker
from smtpguard.daemon.serve.history_command import HistoryCommand
from smtpguard.daemon.serve.history_requests import ReportRequest
from smtpguard.policy.directory import Directory
from smtpguard.policy.rules import find_entries
from smtpguard.state.host_question import Part, show_rules

if TYPE_CHECKING:
    from smtpguard.state.history import History


class ReportCommand:
    """Answers `report`.

    Args:
        history: What reads the past.
        guard: The configuration in force.
        accounts: Who is who.
    """

    def __init__(self, history: HistoryCommand, guard: Guard, accounts: Directory) -> None:
        self._history = history
        self._guard = guard
        self._accounts = accounts

    def __call__(self, request: ReportRequest, asker: Asker) -> Answer:
        """A part; `late` if it took too long."""
        del asker
        if request.part == "rules":
            return show_rules(self._guard.settings)
        if request.part == "entries":
            return {"rows": find_entries(self._guard.settings, map(self._accounts.account, request.uids))}

        def look(history: "History") -> dict[str, Any] | Pages:
            from smtpguard.state.history import LateError
            from smtpguard.state.host_history import collect_part

            try:
                found = collect_part(history, cast("Part", request.part), request.question)
            except LateError:
                return {"late": True}
            rows = found.pop("rows")  # rendered piece by piece: 10,000 at once would hold the loop for 20 ms
            return found | {"items": None} if rows is None else Pages(head=found, items=rows)

        return self._history.ask(look)
