"""Where a report's parts come from: the daemon, else the state file itself; names and rules beside it."""

import socket
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from smtpguard.cli.past_source import PastSource
from smtpguard.errors import ConfigError
from smtpguard.report.build_report import MONTH_NS, build_report
from smtpguard.report.fullest_windows import list_windows
from smtpguard.report.host_report import HostReport
from smtpguard.report.report_input import ReportInput
from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state.host_question import MAX_WINDOWS, PARTS, HostQuestion, Part, show_rules

if TYPE_CHECKING:
    from smtpguard.state.history import History

Found = dict[str, Any]
PATIENCE_S = 1.0
"""After so long a progress bar is shown on a terminal."""
MAX_ASKED = 200
"""Names that are asked of the name service one by one, which may be slow; the account file has the others."""
MAX_UIDS = 200
"""In one request."""
MAX_USERS = 2000
"""Of whom it is asked which rules hold for them."""
MAX_POINTS = 200
_STEPS = (1, 5, 15, 30, 60, 180, 360, 1440, 10_080)
_ANSWER_S = 30.0


class ReportSource:
    """Collects what a report is made of.

    Args:
        config_path: --config.
        socket_path: --socket.
    """

    def __init__(self, config_path: str | None, socket_path: str | None) -> None:
        self._config_path = config_path
        self._past = PastSource(config_path, socket_path)

    def build(self, since_ns: int, until_ns: int, *, ends_now: bool) -> HostReport:
        """The report of a span of time."""
        rules, overrides = self._find_rules()
        step = next((step for step in _STEPS if until_ns - since_ns <= step * MAX_POINTS * MINUTE_NS), _STEPS[-1])
        windows = tuple(list_windows([*(rules or ()), *chain.from_iterable(overrides)])[:MAX_WINDOWS])
        question = HostQuestion(since_ns=since_ns, until_ns=until_ns, windows=windows, step=step)
        month_ns = (until_ns - MONTH_NS) // HOUR_NS * HOUR_NS
        month = HostQuestion(since_ns=max(0, month_ns), until_ns=until_ns)
        wanted: list[tuple[str, Part, HostQuestion]] = [(part, part, question) for part in PARTS if part != "hours"]
        wanted += [("month", "hours", month), ("watched_month", "watched", month)]
        parts: dict[str, Found | None] = {}
        for name, part, asked in _with_progress(wanted):
            parts[name] = self._collect(part, asked)
        return build_report(
            ReportInput(
                host=socket.gethostname(),
                since_ns=since_ns,
                until_ns=until_ns,
                step=step,
                parts=parts,
                names=_find_names(parts),
                rules=rules,
                own_rules=self._find_own_rules(parts, overrides),
                ends_now=ends_now,
            )
        )

    def _collect(self, part: Part, question: HostQuestion) -> Found | None:
        """A part; None if it takes too long."""

        def read(history: "History") -> Found:
            from smtpguard.state.host_history import collect_part

            found = collect_part(history, part, question)
            return found | {"items": found["rows"]}

        answer = self._past.ask(
            "report",
            read,
            timeout_s=_ANSWER_S,
            part=part,
            since_ns=question.since_ns,
            until_ns=question.until_ns,
            windows=list(question.windows),
            step=question.step,
        )
        return None if answer.get("late") else answer | {"rows": answer["items"]}

    def _find_rules(self) -> tuple[list[Found] | None, list[list[Found]]]:
        """The rules in force, as far as they can be found out, and what entries of `users` change."""
        found = self._past.ask("report", self._read_rules, part="rules")
        return found["rows"], found["overrides"]

    def _read_rules(self, _: "History") -> Found:
        """Those of the configuration: the file has none."""
        from smtpguard.settings.load import load_settings

        try:
            return show_rules(load_settings(self._config_path))
        except ConfigError:
            return {"rows": None, "overrides": []}

    def _find_own_rules(
        self, parts: dict[str, Found | None], overrides: list[list[Found]]
    ) -> dict[int, dict[str, Found]] | None:
        """Whose rules `users` changes, and how; None where there are too many users to ask for each."""
        uids = [row[0] for row in (parts["users"] or {"rows": []})["rows"]] if overrides else []
        if len(uids) > MAX_USERS:
            return None
        entries: list[tuple[int, int]] = []
        for first in range(0, len(uids), MAX_UIDS):
            some = uids[first : first + MAX_UIDS]
            entries += self._past.ask("report", partial(self._read_entries, some), part="entries", uids=some)["rows"]
        return {uid: {rule["name"]: rule for rule in overrides[index]} for uid, index in entries}

    def _read_entries(self, uids: list[int], _: "History") -> Found:
        """By the configuration and the accounts of now: the file has neither."""
        from smtpguard.enrich.accounts.directory import AccountDirectory
        from smtpguard.panels.customers_on_demand import CustomersOnDemand
        from smtpguard.policy.rules import find_entries
        from smtpguard.settings.load import load_settings

        settings = load_settings(self._config_path)
        accounts = AccountDirectory(settings, customers=CustomersOnDemand(settings))
        return {"rows": find_entries(settings, map(accounts.account, uids))}


def _with_progress(wanted: list[tuple[str, Part, HostQuestion]]) -> Iterator[tuple[str, Part, HostQuestion]]:
    """One after the other; a bar on a terminal once it takes long."""
    begun = time.monotonic()
    is_shown = False
    for number, item in enumerate(wanted):
        if sys.stderr.isatty() and (is_shown or time.monotonic() - begun >= PATIENCE_S):
            is_shown = True
            done = 30 * number // len(wanted)
            click.echo(f"\r[{'#' * done}{'-' * (30 - done)}] {item[0]:<14}", err=True, nl=False)
        yield item
    if is_shown:
        click.echo("\r" + " " * 48 + "\r", err=True, nl=False)


def _find_names(parts: dict[str, Found | None]) -> dict[int, str]:
    """Login names: what was written about a user in that time comes first, as numbers are used again."""
    from pathlib import Path

    from smtpguard.enrich.accounts.files import parse_passwd

    names = dict((parts["names"] or {"rows": []})["rows"])
    missing = [uid for uid in _list_uids(parts) if uid not in names]
    try:
        passwd = parse_passwd(Path("/etc/passwd").read_bytes())
    except OSError:
        passwd = parse_passwd(b"")
    names |= {uid: passwd.names[uid][0] for uid in missing if uid in passwd.names}
    return names | _ask_names([uid for uid in missing if uid not in names][:MAX_ASKED])


def _list_uids(parts: dict[str, Found | None]) -> list[int]:
    columns = {"users": 0, "scripts": 1, "ports": 0, "own": 1}
    found = [row[column] for part, column in columns.items() for row in (parts[part] or {"rows": []})["rows"]]
    return list(dict.fromkeys(found))


def _ask_names(uids: Iterable[int]) -> dict[int, str]:
    import pwd

    names = {}
    for uid in uids:
        try:
            names[uid] = pwd.getpwuid(uid).pw_name
        except (KeyError, OverflowError):
            continue
    return names
