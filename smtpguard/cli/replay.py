"""`smtpguard replay`: what the rules would have done with an audit log, at the log's own times."""

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

import click

from smtpguard.cli.common import EXIT_FAILED, config_option, json_option, print_json
from smtpguard.cli.messages import print_message
from smtpguard.cli.replay_hosts import Host, Hosts
from smtpguard.cli.replay_report import MAX_DESTINATIONS
from smtpguard.cli.tables import print_lines, print_table
from smtpguard.clock import render_moment
from smtpguard.logline import render_time
from smtpguard.model import NS, Connect, Refusal
from smtpguard.text import render_duration

if TYPE_CHECKING:
    from smtpguard.settings import Settings
    from smtpguard.sources.audit.replay import ReplaySource

_TICK_NS = 10 * NS
_BATCH = 4000
"""Connects judged at a time, 3 MB: reading and judging in turns of a few hundred cost a tenth more, in cold caches."""
_SHOWN_VERDICTS = 40
_SHOWN_USERS = 20
_BY_TIME = attrgetter("time_ns")
_MAYBE_LOOPBACK = b"\0\x7f"
"""How an address begins that may be loopback: 0 or 127."""
_UNSPECIFIED = frozenset({bytes(15) + b"\1", bytes(16), bytes(4)})
"""::1, and the unspecified addresses, which connect to this host."""


@click.command("replay")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--learn",
    "is_learning",
    is_flag=True,
    help="Teach the guard from these logs who sends; as root, it changes the state.",
)
@click.option("--all", "show_all", is_flag=True, help="Show every verdict and user, not the first and the busiest.")
@json_option
@config_option
def command(files: Sequence[str], config_path: str | None, *, is_learning: bool, as_json: bool, show_all: bool) -> None:
    """Show what the rules would have done with audit logs, at the logs' own times.

    FILE is an audit.log, plain or packed by gzip, xz, bzip2 or zstd. What syslog, the journal (-o json, -o export) or a
    collector made of it will do, too. - is standard input. Rotated files may be named in any order. Neither this host's
    addresses nor its state matter, and nobody is refused. Exit 1 if something of a file can't be read.

    With --learn nothing is judged: rules of newcomers (`novel`) learn who sent before. The guard may run or not. The
    same log read twice counts once.
    """
    from smtpguard.daemon.enforce.bulk import without_collections
    from smtpguard.settings.load import load_settings
    from smtpguard.sources.audit.replay import ReplaySource
    from smtpguard.sources.audit.replay_problems import CUT

    settings = load_settings(config_path)
    source = ReplaySource(files, ports=settings.ports)
    # Nothing here makes cycles worth a search through all that is kept, which is gone when the context ends.
    click.get_current_context().with_resource(without_collections())
    if is_learning:
        from smtpguard.cli.replay_learn import learn

        learn(settings, source, config_path=config_path, as_json=as_json)
    else:
        replay = Replay(settings, source)
        source.open()
        try:
            replay.run()
        finally:
            source.close()
    for problem in source.problems:
        use = f"; use: {problem.use}" if problem.use else ""
        print_message(f"smtpguard: {problem.file}: {problem.problem}{use}", problem.file)
    for name in source.cut:
        print_message(f"note: {name}: {CUT}", name)
    if is_learning:
        pass
    elif as_json:
        print_json(replay.to_json(files))
    else:
        replay.show(files, show_all=show_all)
    if source.problems:
        click.get_current_context().exit(EXIT_FAILED)


class Replay:
    """One run of the rules over a source.

    Args:
        settings: The configuration; its dry_run does not matter, the question is what would be.
        source: Where the connects come from.

    Attributes:
        hosts: What was found, by host.
        connects: Connects not to loopback.
        loopback: Connects to loopback.
        left_out: Rules that a log alone can't answer.
    """

    def __init__(self, settings: "Settings", source: "ReplaySource") -> None:
        self._settings = settings
        self._source = source
        self.left_out = [rule.name for rule in settings.rules if rule.novel_ns is not None]
        self.hosts = Hosts(settings)
        self.connects = 0
        self.loopback = 0
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def run(self) -> None:
        """Read it all, judge each connect at its own time."""
        source = self._source
        skip_loopback = self._settings.loopback == "ignore"
        host: Host | None = None
        node: bytes | None = None
        first_ns, last_ns = 1 << 63, -1
        total = local = kept = 0
        while not source.done:
            connects: list[Connect] = []
            while len(connects) < _BATCH and not source.done:
                connects += source.read()
            if connects:
                connects.sort(key=_BY_TIME)  # nearly in order, but for those that were held back for a moment
                first_ns, last_ns = min(first_ns, connects[0].time_ns), max(last_ns, connects[-1].time_ns)
            for connect in connects:
                if connect.node != node or host is None:
                    node = connect.node
                    host = self.hosts.of(node)
                    engine, report, rows, named = host.engine, host.report, host.rows, host.accounts.named
                    feed = engine.feed
                time_ns, uid, address = connect.time_ns, connect.uid, connect.address
                if time_ns >= host.tick_ns:
                    report.take(engine.tick(time_ns))
                    host.tick_ns = min(time_ns + _TICK_NS, engine.next_deadline() or 1 << 63)
                if connect.user is not None and uid not in named:
                    host.accounts.note(connect)
                if address[0] in _MAYBE_LOOPBACK and ((address[0] and len(address) == 4) or address in _UNSPECIFIED):
                    local += 1
                    if skip_loopback:
                        continue
                else:
                    total += 1
                    row = rows.get(uid)
                    if row is None:
                        row = rows[uid] = report.row_of(uid)
                    row.connects += 1
                    if connect.euid == 0:
                        row.as_root += 1
                    if kept < MAX_DESTINATIONS:
                        row.destinations.add(address)
                decisions = feed(connect)
                if not decisions:
                    continue
                if type(decisions[0]) is Refusal and len(decisions) == 1:  # nearly always, of a user who is blocked
                    report.take_refusal(decisions[0])
                else:
                    report.take(decisions)
                    host.tick_ns = min(host.tick_ns, engine.next_deadline() or 1 << 63)
            kept = sum(len(row.destinations) for each in self.hosts.reports for row in each.users.values())
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
            **self.hosts.to_json(),
            "dropped_verdicts": self.hosts.dropped_verdicts,
            "garbled": stats.garbled,
            "lost": stats.lost,
            **stats.notes,
            "problems": [
                {"file": problem.file, "problem": problem.problem, "use": problem.use}
                for problem in self._source.problems
            ],
        }

    def show(self, files: Sequence[str], *, show_all: bool) -> None:
        """Tell people."""
        many = len(files) > 1
        if self._first_ns is None or self._last_ns is None:
            holds = "These files hold" if many else "This file holds"
            if self._source.problems or self._count_bad():
                print_lines([f"No SMTP connect could be read from {'these files' if many else 'this file'}."])
            else:
                print_lines([f"{holds} no SMTP connect that audit recorded."])
            self._show_left_out()
            return
        users = self.hosts.users()
        rules = self._settings.path or "the shipped defaults"
        first, last = render_moment(self._first_ns / NS), render_moment(self._last_ns / NS)
        duration = render_duration((self._last_ns - self._first_ns) / NS)
        print_lines([f"{first} to {last} ({duration}), rules of {rules}"])
        refused = sum(row.would_refuse for _, row in users)
        victims = sum(row.would_refuse > 0 for _, row in users)
        word = "connect" if self.connects == 1 else "connects"
        would = f"{refused:,} of them, by {_people(victims)}, would be" if refused else "none would be"
        print_lines([f"{self.connects:,} SMTP {word} by {_people(len(users))}; {would} refused."])
        verdicts = self.hosts.verdicts()
        if verdicts:
            click.echo("\nVerdicts:")
            shown_verdicts = verdicts if show_all else verdicts[:_SHOWN_VERDICTS]
            shown = [report.verdict_cells(verdict) for report, verdict in shown_verdicts]
            print_table(("TIME", "USER", "RULE", "COUNT", "ACTION", "AT"), shown)
            _show_rest(len(verdicts) + self.hosts.dropped_verdicts - len(shown))
        click.echo("\nUsers:")
        busiest = users if show_all else users[:_SHOWN_USERS]
        shown = [report.user_cells(row) for report, row in busiest]
        print_table(("USER", "UID", "CONNECTS", "DESTINATIONS", "VERDICTS", "REFUSED", "STANDING"), shown)
        _show_rest(len(users) - len(shown))
        self._show_left_out()

    def _count_bad(self) -> int:
        """Records that should have been connects and are none."""
        stats = self._source.stats
        return stats.garbled + stats.lost + stats.notes.get("forged", 0) + stats.notes.get("doubled", 0)

    def _show_left_out(self) -> None:
        stats = self._source.stats
        texts = {
            "to loopback": self.loopback,
            "garbled": stats.garbled,
            "without their other half": stats.lost,
            "forged or doubled": stats.notes.get("forged", 0) + stats.notes.get("doubled", 0),
            "repeats of one attempt": stats.notes.get("repeats", 0),
            "probes of name look-ups": stats.notes.get("probes", 0),
            "in more than one file": stats.notes.get("duplicates", 0),
        }
        left_out = [f"{count:,} {text}" for text, count in texts.items() if count]
        if left_out:
            print_lines([f"\nLeft out: {', '.join(left_out)}."])
        if self.left_out:
            print_lines([f"\nNot judged, as a log does not say who is new: {', '.join(self.left_out)}."])


def _people(count: int) -> str:
    return f"{count:,} user{'' if count == 1 else 's'}"


def _show_rest(count: int) -> None:
    if count > 0:
        click.echo(f"and {count:,} more (--all shows them)")
