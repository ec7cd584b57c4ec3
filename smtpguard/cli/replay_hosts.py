"""The hosts of a replayed log. The same uid is somebody else on each, so each has accounts and an engine of its own.

A log that names no host is one host's. Where a log names several, each user is shown as user@node.
"""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from smtpguard.cli.replay_report import Report, ReportRow, UserRow
from smtpguard.errors import SourceError
from smtpguard.model import BreakerChange, Verdict

if TYPE_CHECKING:
    from smtpguard.settings import Settings

MAX_HOSTS = 10_000


class Host:
    """One host of the log.

    Args:
        settings: What is judged by.
        node: Its name in the log; None if the log names none.

    Attributes:
        accounts: Who is who there.
        engine: What judges.
        report: What was found.
        rows: The report's rows by the uid of the record.
        tick_ns: When the engine wants its next tick.
    """

    __slots__ = ("accounts", "engine", "report", "rows", "tick_ns")

    def __init__(self, settings: "Settings", node: bytes | None) -> None:
        from smtpguard.enrich.accounts.replay_accounts import ReplayAccounts
        from smtpguard.policy.destinations import Destinations
        from smtpguard.policy.engine import Engine

        self.accounts = ReplayAccounts(settings, foreign=node is not None and not _is_this_host(node))
        # Loopback does not come to the engine if it is ignored; without exempt networks there is nothing to look up.
        why_exempt = Destinations(exempt=settings.exempt.networks).why_exempt
        looked_up = settings.exempt.networks or settings.loopback == "count"
        self.engine = Engine(settings=settings, directory=self.accounts, why_exempt=why_exempt if looked_up else None)
        self.report = Report(self.accounts, node)
        self.rows: dict[int | None, UserRow] = {}
        self.tick_ns = 0


class Hosts:
    """All of them.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: "Settings") -> None:
        # Who is new can be known only by what was seen before the log began.
        rules = tuple(rule for rule in settings.rules if rule.novel_ns is None)
        self._settings = replace(settings, dry_run=False, rules=rules)
        self._hosts: dict[bytes | None, Host] = {}
        self._nameless = Host(self._settings, None)

    def of(self, node: bytes | None) -> Host:
        """The host of that name."""
        host = self._hosts.get(node)
        if host is None:
            if len(self._hosts) >= MAX_HOSTS:
                raise SourceError(f"names more than {MAX_HOSTS:,} hosts", where="replay", fix="replay fewer files")
            host = self._hosts[node] = self._nameless if node is None else Host(self._settings, node)
            several = len(self._hosts) > 1
            for each in self._hosts.values() if several else ():
                each.report.several = True
        return host

    @property
    def reports(self) -> list[Report]:
        """What was found of each."""
        return [host.report for host in self._hosts.values()]

    @property
    def dropped_verdicts(self) -> int:
        """Verdicts that were counted only."""
        return sum(report.dropped_verdicts for report in self.reports)

    def verdicts(self) -> list[tuple[Report, Verdict]]:
        """All verdicts, in the order of their times."""
        found = [(report, verdict) for report in self.reports for verdict in report.verdicts]
        return found if len(self._hosts) == 1 else sorted(found, key=lambda entry: entry[1].time_ns)

    def users(self) -> list[tuple[Report, UserRow]]:
        """All users who connected, the busiest first."""
        found = [(report, row) for report in self.reports for row in report.users.values() if row.connects]
        return sorted(found, key=lambda entry: (-entry[1].connects, -1 if entry[1].uid is None else entry[1].uid))

    def to_json(self) -> dict[str, Any]:
        """The lists of the JSON object."""
        blocks: list[tuple[Report, ReportRow]] = [(report, row) for report in self.reports for row in report.blocks]
        breakers: list[tuple[Report, BreakerChange]] = [
            (report, change) for report in self.reports for change in report.breakers
        ]
        if len(self._hosts) > 1:
            blocks.sort(key=lambda entry: entry[1].block.since_ns)
            breakers.sort(key=lambda entry: entry[1].time_ns)
        return {
            "verdicts": [report.verdict_json(verdict) for report, verdict in self.verdicts()],
            "blocks": [report.block_json(row) for report, row in blocks],
            "users": [report.user_json(row) for report, row in self.users()],
            "nodes": sorted(report.node_text for report in self.reports if report.node_text is not None),
            "breaker": [report.breaker_json(change) for report, change in breakers],
        }


def _is_this_host(node: bytes) -> bool:
    """Whether a name in a log is this host's, in short or in full."""
    return node.partition(b".")[0].lower() == os.uname().nodename.encode().partition(b".")[0].lower()
