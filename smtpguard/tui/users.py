"""View 2: users, how fast they go, how near they are to a limit, and whether they are refused. Pure."""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import ClassVar, NamedTuple

from smtpguard.tui.columns import Column
from smtpguard.tui.contents import Contents
from smtpguard.tui.facts import Held, UserState
from smtpguard.tui.pieces import Piece, draw_ticks
from smtpguard.tui.tally import Sum
from smtpguard.tui.view import View, is_wanted

_COLUMNS = (
    Column(title="USER", least=11, most=20),
    Column(title="/MIN", least=5, is_right=True),
    Column(title="LAST MINUTE", least=20),
    Column(title="SEEN", least=6, most=8, is_right=True),
    Column(title="STATE", least=17, most=26),
    Column(title="FULLEST RULE", least=15, most=28),
    Column(title="DOMAIN", least=16, most=22),
    Column(title="STANDING", least=8, most=10),
    Column(title="REFUSED", least=7, most=8, is_right=True),
    Column(title="LAST", least=8),
    Column(title="SCRIPT", least=20, most=60, keeps_end=True),
)


class ShownUser(NamedTuple):
    """A user in the list; a tuple, for 5,000 of them are made five times a second.

    Attributes:
        user, uid: Who; a uid of None is nobody's on this host.
        total: What they did; None where nothing was seen since the screen began.
        held: What is in force for them.
        state: What the guard says of them; None where it was not asked.
    """

    user: str
    uid: int | None
    total: Sum | None
    held: tuple[Held, ...]
    state: UserState | None

    @property
    def refused(self) -> int:
        """Attempts that were refused, as was seen here."""
        return self.total.refused if self.total is not None else 0

    @property
    def seen(self) -> int:
        """Attempts."""
        return self.total.seen if self.total is not None else 0

    @property
    def domain(self) -> str:
        """With which they are a customer."""
        if self.total is not None and self.total.last is not None and self.total.last.domain != "-":
            return self.total.last.domain
        return self.held[0].domain if self.held else "-"

    @property
    def fill(self) -> float:
        """How full the fullest window is."""
        return 0.0 if self.state is None else self.state.now / max(1, self.state.limit)


class Users(View[ShownUser]):
    """Who was seen, and who is blocked."""

    name: ClassVar[str] = "Users"
    short: ClassVar[str] = "Users"
    sorts: ClassVar[tuple[str, ...]] = ("/MIN", "SEEN", "REFUSED", "FULLEST RULE", "STATE", "USER")

    def columns(self, *, rdns: bool) -> Sequence[Column]:
        """Always the same."""
        del rdns
        return _COLUMNS

    def list(self, contents: Contents, words: Sequence[str], sort: str) -> Sequence[ShownUser]:
        """All of them, those first that matter most."""
        facts = contents.facts
        by_uid: dict[int, list[Held]] = {}
        for held in facts.held:
            if held.is_local:
                by_uid.setdefault(held.uid, []).append(held)
        found = []
        for total in contents.users:
            uid = total.users.get(total.key)
            held_for = by_uid.pop(uid, ()) if uid is not None else ()
            state = facts.users.get(uid) if uid is not None else None
            found.append(ShownUser(total.key, uid, total, tuple(held_for), state))
        found += [ShownUser(held[0].user, uid, None, tuple(held), facts.users.get(uid)) for uid, held in by_uid.items()]
        if words:
            found = [one for one in found if is_wanted(self._join(one, contents), words)]
        found.sort(key=attrgetter("user"))
        if sort != "USER":
            found.sort(key=attrgetter("seen"), reverse=True)
            found.sort(key=partial(_rank, sort, contents.now_ns), reverse=True)
        return found

    def key(self, item: ShownUser) -> str:
        """The name."""
        return item.user

    def cell(self, item: ShownUser, column: Column, width: int, contents: Contents) -> Piece:
        """One of the figures."""
        total, last = item.total, item.total.last if item.total is not None else None
        match column.title:
            case "USER":
                return Piece(item.user, "refused" if any(held.is_enforced for held in item.held) else "plain")
            case "/MIN":
                return Piece(str(total.per_minute(contents.now_ns) if total is not None else 0))
            case "LAST MINUTE":
                return Piece(draw_ticks(total.list_beats(contents.now_ns)) if total is not None else "", "rate")
            case "SEEN":
                return Piece(str(item.seen))
            case "REFUSED":
                return Piece(str(item.refused), "refused" if item.refused else "plain")
            case "STATE":
                return self._tell_held(item, contents)
            case "FULLEST RULE":
                return _tell_fill(item.state, width)
            case "DOMAIN":
                return Piece(item.domain)
            case "STANDING":
                return Piece("-" if item.state is None else item.state.standing)
            case "LAST":
                return Piece("-" if last is None else self.clock(last.wall_ns))
        return Piece("-" if last is None else last.script)

    def users(self, item: ShownUser) -> dict[str, int | None]:
        """The one."""
        return {item.user: item.uid}

    def _tell_held(self, item: ShownUser, contents: Contents) -> Piece:
        if not item.held:
            return Piece("-")
        held = max(item.held, key=lambda one: (rank_held([one]), one.until))
        return Piece(f"{name_state(held)} {self.until(held.until, contents)}", style_state(held))

    def _join(self, item: ShownUser, contents: Contents) -> str:
        last = item.total.last if item.total is not None else None
        state = item.state
        parts = [item.user, item.domain, self._tell_held(item, contents).text]
        parts += [state.standing, state.rule] if state is not None else []
        return " ".join([*parts, *([last.script] if last is not None else [])])


def _rank(sort: str, now_ns: int, one: ShownUser) -> float:
    """By what they are sorted first; the greater is the higher."""
    match sort:
        case "/MIN":
            return one.total.per_minute(now_ns) if one.total is not None else 0
        case "REFUSED":
            return one.refused
        case "FULLEST RULE":
            return one.fill
        case "STATE":
            return rank_held(one.held)
    return one.seen


def rank_held(held: Sequence[Held]) -> int:
    """How bad it is: of several the worst."""
    if not held:
        return 0
    ranks = [3 if one.kind == "block" and one.is_enforced else 2 if one.is_enforced else 1 for one in held]
    return max(ranks)


def name_state(held: Held) -> str:
    """What is done to a user, in the words of `blocks`; in parentheses what would be."""
    if held.kind == "allow":
        return "allowed"
    done = {"block": "blocked", "throttle": "throttled", "hold": "held"}.get(held.kind, held.kind)
    return done.upper() if held.is_enforced else f"({done})"


def style_state(held: Held) -> str:
    """Its colour."""
    if held.kind == "allow":
        return "allowed"
    return "refused" if held.is_enforced else "dry"


def _tell_fill(state: UserState | None, width: int) -> Piece:
    if state is None or not state.rule:
        return Piece("-")
    figures = f"{state.now}/{state.limit}"
    style = "refused" if state.now > state.limit else "dry" if state.now * 4 >= state.limit * 3 else "plain"
    room = width - len(figures) - 1
    return Piece(f"{figures} {state.rule[: max(0, room)]}", style)
