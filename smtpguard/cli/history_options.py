"""What `events` and `incidents` have in common: their filters, and who answers: the daemon, else the file itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.decorators import FC

from smtpguard.cli.common import find_socket
from smtpguard.cli.messages import print_message
from smtpguard.cli.past_source import PastSource
from smtpguard.cli.tables import print_lines

if TYPE_CHECKING:
    from smtpguard.state.event_query import EventQuery
    from smtpguard.state.history import History
    from smtpguard.state.history_page import Verb

PAGE = 1000
MAX_ROWS = 100_000
Json = dict[str, Any]
Ask = dict[str, Any]
_TIMES = {"events": "time_ns", "incidents": "last_ns"}
"""The field by which pages go on; not shown."""


def filter_options(command: FC) -> FC:
    """The options that both take."""
    options = (
        click.option("--user", default="", metavar="USER", help="Only of this user; a name, or uid:N."),
        click.option("--since", default=None, metavar="T", help="From then on: 2h (ago), 14:05, 'yesterday 12:00'."),
        click.option("--until", default=None, metavar="T", help="Until then."),
        click.option("--mode", type=click.Choice(["enforce", "dry-run"]), default=None, help="Only of this mode."),
        click.option("--src", default=None, metavar="ADDR", help="Only of users who sent from this own address."),
        click.option("--rule", default=None, metavar="R", help="Only of this rule."),
        click.option(
            "--rows", type=click.IntRange(1, MAX_ROWS), default=100, show_default=True, help="How many at most."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """What came back.

    Attributes:
        items: Events or incidents, the newest first.
        has_more: Whether there are more.
        source: With --src: who connected from there; else None.
    """

    items: list[Json]
    has_more: bool
    source: Json | None = None


class HistorySource:
    """Answers from the daemon, or from the state file where none runs.

    Args:
        config_path: --config.
        socket_path: --socket.
    """

    def __init__(self, config_path: str | None, socket_path: str | None) -> None:
        self._config_path = config_path
        self._past = PastSource(config_path, socket_path)

    def find(self, verb: "Verb", rows: int, args: Ask) -> HistoryPage:
        """Ask, page by page.

        Args:
            verb: Of what.
            rows: How many at most.
            args: As HistoryRequest has them.
        """
        key = _TIMES[verb]
        items: list[Json] = []
        seen: set[str] = set()
        source: Json | None = None
        args = dict(args) | {"rows": min(PAGE, rows + 1)}
        while True:
            page = self._ask(verb, args)
            source = source or page.source  # of the whole span, not of what is left of it
            fresh = [item for item in page.items if repr(item) not in seen]
            items += fresh
            if not fresh or not page.has_more or len(items) > rows:
                has_more = page.has_more or len(items) > rows
                return HistoryPage(items=items[:rows], has_more=has_more, source=source)
            seen.update(map(repr, fresh))
            args["until_ns"] = items[-1][key] + 1  # others of the same moment come again

    def _ask(self, verb: "Verb", args: Ask) -> HistoryPage:
        def read(history: "History") -> Json:
            from smtpguard.state.history_page import find_page
            from smtpguard.state.own_history import find_source

            query = self._build_query(args)
            items, has_more = find_page(history, verb, query, is_open=args.get("is_open", False))
            return {"items": items, "has_more": has_more, "source": find_source(history, query)}

        answer = self._past.ask(verb, read, **args)
        source = answer.get("source")
        return HistoryPage(items=answer["items"], has_more=answer.get("has_more", False), source=source)

    def _build_query(self, args: Ask) -> "EventQuery":
        """The same as the daemon makes of a request."""
        from smtpguard.state.event_query import EventQuery, parse_own
        from smtpguard.state.span import Span

        uid, name = find_uid(args.get("user", ""), self._config_path)
        return EventQuery(
            span=Span(since_ns=args["since_ns"], until_ns=args["until_ns"], uid=uid, name=name, limit=args["rows"]),
            kinds=frozenset(args.get("kinds", ())),
            mode=args.get("mode"),
            port=args.get("port"),
            networks=parse_networks(args.get("dst", ())),
            script=args.get("script"),
            sha256=args.get("sha256"),
            rule=args.get("rule"),
            src=parse_own(args["src"]) if "src" in args else None,
        )


def without_time(verb: "Verb", item: Json) -> Json:
    """An item as it is shown."""
    return {name: value for name, value in item.items() if name != _TIMES[verb]}


def print_more(found: HistoryPage, rows: int, field: str) -> None:
    """How to see what was left out, on stderr.

    Args:
        found: What is shown.
        rows: How many were asked for.
        field: The last one's time.
    """
    if found.has_more:
        print_message(f"There is more: --rows {rows * 10}, or --until {found.items[-1][field]}")


def find_uid(user: str, config_path: str | None = None) -> tuple[int | None, str | None]:
    """Whose history is meant, where no daemon says: a uid, or a name that no account has any more.

    Args:
        user: As a person names them.
        config_path: --config: it says who knows whose a domain is.

    Raises:
        AmbiguousUserError: Two own the domain.
    """
    import pwd

    from smtpguard.enrich.accounts.spellings import parse_uid, unescape_name

    if not user:
        return None, None
    number = parse_uid(user.removeprefix("uid:"))
    if number is not None:
        return number, None
    name = unescape_name(user) if "%" in user else user
    try:
        return pwd.getpwnam(name).pw_uid, None
    except (KeyError, ValueError):
        uid = _find_owner(user, config_path)
        return uid, name if uid is None else None


def _find_owner(user: str, config_path: str | None) -> int | None:
    """Whose a domain is, or an address at one; said on stderr. None if nobody is known to own it."""
    if "." not in user:
        return None
    from smtpguard.enrich.accounts.directory import AccountDirectory
    from smtpguard.panels.customers_on_demand import CustomersOnDemand
    from smtpguard.settings.load import load_places

    settings, _ = load_places(config_path, ["state"])
    lookup = AccountDirectory(settings, customers=CustomersOnDemand(settings)).lookup
    account = lookup.by_person(user)
    if account is None:
        return None
    print_message(f"smtpguard: {lookup.tell_domain(user)}")
    return account.uid


def check_source(args: Ask) -> None:
    """A usage error if --src is no address."""
    from smtpguard.state.event_query import parse_own

    try:
        parse_own(args.get("src", "::"))
    except ValueError:
        hint = f"{args['src']!r} is no address of this host. Such as: 198.51.100.7"
        raise click.BadParameter(hint, param_hint="--src") from None


def name_source(source: Json | None) -> Json | None:
    """Who connected from an own address, with the names that accounts have now."""
    if source is None:
        return None
    users = [{"user": find_name(row["uid"]) or f"uid:{row['uid']}"} | row for row in source["users"]]
    return source | {"users": users}


def print_source(source: Json | None) -> None:
    """The same for people, above the table."""
    named = name_source(source)
    if named is None:
        return
    address = named["address"]
    if not named["users"]:
        print_lines([f"No connection from {address} is known."])
    for row in named["users"]:
        first, last = (row[name][:19].replace("T", " ") for name in ("first", "last"))
        figures = f"{row['connected']} connected, {row['failed']} failed"
        print_lines([f"from {address}: {row['user']}, {figures}, {first} to {last}"])
    if named["unknown"]:
        print_lines([f"Of {named['unknown']} attempts it is not known from which address they came."])


def find_name(uid: int) -> str | None:
    """The login name of a uid, as the log writes it; None without one."""
    import pwd

    from smtpguard.text import render_user

    try:
        return render_user(uid, pwd.getpwuid(uid).pw_name)
    except KeyError:
        return None


def parse_networks(texts: Iterator[str] | list[str] | tuple[str, ...]) -> tuple[Any, ...]:
    """Networks as typed; a usage error else."""
    import ipaddress

    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--dst") from None


def build_times(since: str | None, until: str | None) -> Ask:
    """--since and --until as a request has them."""
    from datetime import UTC, datetime

    from smtpguard.cli.moments import parse_moment

    now = datetime.now(UTC).astimezone()
    since_ns = 0 if since is None else parse_moment(since, now)
    until_ns = (1 << 63) - 1 if until is None else parse_moment(until, now, "--until")
    if since_ns >= until_ns:
        raise click.BadParameter("it lies before --since", param_hint="--until")
    return {"since_ns": since_ns, "until_ns": until_ns}


def ask_daemon(config_path: str | None, socket_path: str | None, verb: str, args: Ask) -> str:
    """Have a running daemon do something; what it said."""
    from smtpguard.cli.answers import ask

    return str(ask(find_socket(config_path, socket_path), verb, **args)["text"])
