"""`smtpguard replay`: what the rules would have done with an audit log, at the log's own times."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from smtpguard.cli.common import config_option, json_option, print_json, print_table
from smtpguard.cli.replay_report import MAX_DESTINATIONS, Report, UserRow
from smtpguard.cli.times import render_moment, render_span
from smtpguard.logline import render_time
from smtpguard.model import NS, Connect, Refusal

if TYPE_CHECKING:
    from smtpguard.settings import Settings
    from smtpguard.sources.replay import ReplaySource

_TICK_NS = 10 * NS
_BATCH = 2000
"""Connects judged at a time: reading and judging in turns of a few each would cost a tenth more, in cold caches."""
_SHOWN_VERDICTS = 40
_SHOWN_USERS = 20
_LOOPBACK6 = frozenset({bytes(15) + b"\1", bytes(16), bytes(4)})
"""::1, and the unspecified addresses, which connect to this host."""


@click.command("replay")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--all", "show_all", is_flag=True, help="Show every verdict and user, not the first and the busiest.")
@json_option
@config_option
def command(files: Sequence[str], config_path: str | None, *, as_json: bool, show_all: bool) -> None:
    """Show what the rules would have done with audit logs, at the logs' own times.

    FILE is an audit.log, plain or packed by gzip, xz or bzip2; - is standard input. Rotated files may be named in any
    order. Neither this host's addresses nor its state enter, and nobody is refused anything.
    """
    import gc

    from smtpguard.settings_file import load_settings
    from smtpguard.sources.replay import ReplaySource

    settings = load_settings(config_path)
    source = ReplaySource(files, ports=settings.ports)
    gc.disable()  # nothing here makes cycles worth a search through all that is kept
    replay = Replay(settings, source)
    source.open()
    try:
        replay.run()
    finally:
        source.close()
    for path in source.silent:
        click.echo(f"smtpguard: {path}: no audit record at its beginning", err=True)
    if as_json:
        print_json(replay.to_json(files))
    else:
        replay.show(files, show_all=show_all)


class Replay:
    """One run of the rules over a source.

    Args:
        settings: The configuration; its dry_run does not matter, the question is what would be.
        source: Where the connects come from.

    Attributes:
        report: What was found.
        connects: Connects not to loopback.
        loopback: Connects to loopback.
        left_out: Rules that a log alone can't answer.
    """

    def __init__(self, settings: "Settings", source: "ReplaySource") -> None:
        from smtpguard.enrich.recorded import RecordedAccounts
        from smtpguard.policy.destinations import Destinations
        from smtpguard.policy.engine import Engine

        self._settings = settings
        self._source = source
        # Who is new can be told only by what was seen before the log began.
        self.left_out = [rule.name for rule in settings.rules if rule.novel_ns is not None]
        rules = tuple(rule for rule in settings.rules if rule.novel_ns is None)
        settings = replace(settings, dry_run=False, rules=rules)
        self._accounts = RecordedAccounts(settings)
        # Loopback does not come to the engine if it is ignored; without exempt networks there is nothing to look up.
        passed = Destinations(exempt=settings.exempt.networks).passed
        looked_up = settings.exempt.networks or settings.loopback == "count"
        self._engine = Engine(settings=settings, directory=self._accounts, passes=passed if looked_up else None)
        self.report = Report(self._accounts)
        self.connects = 0
        self.loopback = 0
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def run(self) -> None:
        """Read it all, judge each connect at its own time."""
        source, engine, report = self._source, self._engine, self.report
        feed, take_refusal, named = engine.feed, report.take_refusal, self._accounts.named
        loopback6, skip_loopback = _LOOPBACK6, self._settings.loopback == "ignore"
        rows: dict[int | None, UserRow] = {}
        first_ns, last_ns, tick_ns = 1 << 63, -1, 0
        total = local = kept = 0
        while not source.done:
            connects: list[Connect] = []
            while len(connects) < _BATCH and not source.done:
                connects += source.read()
            if connects:
                times = [connect.time_ns for connect in connects]
                first_ns, last_ns = min(first_ns, *times), max(last_ns, *times)
            for connect in connects:
                time_ns, address = connect.time_ns, connect.address
                if time_ns >= tick_ns:
                    report.take(engine.tick(time_ns))
                    tick_ns = min(time_ns + _TICK_NS, engine.next_deadline() or 1 << 63)
                if connect.user is not None and connect.uid not in named:
                    self._accounts.note(connect)
                if (address[0] == 127 and len(address) == 4) or address in loopback6:
                    local += 1
                    if skip_loopback:
                        continue
                else:
                    total += 1
                    row = rows.get(connect.uid)
                    if row is None:
                        row = rows[connect.uid] = report.row_of(connect.uid)
                    row.connects += 1
                    if connect.euid == 0:
                        row.as_root += 1
                    if kept < MAX_DESTINATIONS:
                        row.destinations.add(address)
                decisions = feed(connect)
                if not decisions:
                    continue
                if type(decisions[0]) is Refusal and len(decisions) == 1:  # nearly always, of a user who is blocked
                    take_refusal(decisions[0])
                else:
                    report.take(decisions)
                    tick_ns = min(tick_ns, engine.next_deadline() or 1 << 63)
            kept = sum(len(row.destinations) for row in rows.values())
        self.connects, self.loopback = total, local
        if last_ns >= 0:
            self._first_ns, self._last_ns = first_ns, last_ns

    def to_json(self, files: Sequence[str]) -> dict[str, object]:
        """The JSON object."""
        stats = self._source.stats
        return {
            "files": list(files),
            "connects": self.connects,
            "loopback": self.loopback,
            "since": None if self._first_ns is None else render_time(self._first_ns),
            "until": None if self._last_ns is None else render_time(self._last_ns),
            "dry_run": self._settings.dry_run,
            "rules_left_out": self.left_out,
            **self.report.to_json(),
            "dropped_verdicts": self.report.dropped_verdicts,
            "garbled": stats.garbled,
            "lost": stats.lost,
            **stats.notes,
        }

    def show(self, files: Sequence[str], *, show_all: bool) -> None:
        """Tell people."""
        report, many = self.report, len(files) > 1
        if self._first_ns is None or self._last_ns is None:
            click.echo(f"{'These files hold' if many else 'This file holds'} no SMTP connect that audit recorded.")
            self._show_left_out()
            return
        rows = report.busiest()
        rules = self._settings.path or "the shipped defaults"
        click.echo(
            f"{render_moment(self._first_ns / NS)} to {render_moment(self._last_ns / NS)} "
            f"({render_span((self._last_ns - self._first_ns) / NS)}), rules of {rules}"
        )
        refused = sum(row.would_refuse for row in rows)
        victims = sum(row.would_refuse > 0 for row in rows)
        click.echo(
            f"{self.connects:,} SMTP connects by {_people(len(rows))}; "
            + (
                f"{refused:,} of them, by {_people(victims)}, would be refused."
                if refused
                else "none would be refused."
            )
        )
        if report.verdicts:
            click.echo("\nVerdicts:")
            cells = list(report.verdict_cells())
            shown = cells if show_all else cells[:_SHOWN_VERDICTS]
            print_table(("TIME", "USER", "RULE", "COUNT", "ACTION", "AT"), shown)
            _show_rest(len(cells) + report.dropped_verdicts - len(shown))
        click.echo("\nUsers:")
        people = list(report.user_cells())
        shown = people if show_all else people[:_SHOWN_USERS]
        print_table(("USER", "UID", "CONNECTS", "DESTINATIONS", "VERDICTS", "REFUSED", "STANDING"), shown)
        _show_rest(len(people) - len(shown))
        self._show_left_out()

    def _show_left_out(self) -> None:
        stats = self._source.stats
        texts = {
            "to loopback": self.loopback,
            "garbled": stats.garbled,
            "without their other half": stats.lost,
            "forged or doubled": stats.notes.get("forged", 0) + stats.notes.get("doubled", 0),
            "repeats of one attempt": stats.notes.get("repeats", 0),
            "probes of name look-ups": stats.notes.get("probes", 0),
        }
        left_out = [f"{count:,} {text}" for text, count in texts.items() if count]
        if left_out:
            click.echo(f"\nLeft out: {', '.join(left_out)}.")
        if self.left_out:
            click.echo(f"\nNot judged, as a log does not say who is new: {', '.join(self.left_out)}.")


def _people(count: int) -> str:
    return f"{count:,} user{'' if count == 1 else 's'}"


def _show_rest(count: int) -> None:
    if count > 0:
        click.echo(f"and {count:,} more (--all shows them)")
