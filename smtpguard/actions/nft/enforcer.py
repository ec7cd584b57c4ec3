"""The enforcer by nftables: keeps our table in the kernel, and who is refused in its sets. Decides about nobody.

It touches the table it was given and no other. A refusal in another network namespace (`Subject.scope`) is not its
business: the output hook of this namespace never sees those packets, only BPF does. The kernel ends every element by
itself. Not thread safe: one thread calls it (the daemon's loop, or a command).
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from smtpguard.actions.base import Deny, Exemptions, Kind, Reach
from smtpguard.actions.nft.difference import Difference
from smtpguard.actions.nft.elements import Interval, flatten
from smtpguard.actions.nft.render import Content, TableSpec, build_spec
from smtpguard.actions.nft.set_elements import SetFullError
from smtpguard.actions.nft.table import OwnTable
from smtpguard.actions.nft.templates import read_templates
from smtpguard.actions.nft.uid_set import UidSet
from smtpguard.clock import boottime_ns
from smtpguard.decode.netlink.nft_numbers import NftChange
from smtpguard.errors import EnforceError
from smtpguard.hooks import ClockNs
from smtpguard.kernel.nft.access import Nft
from smtpguard.model import Subject
from smtpguard.settings import Settings

__all__ = ["SETS", "NftEnforcer", "read_templates"]

SETS: dict[Kind, str] = {"block": "blocked", "throttle": "throttled"}
"""The sets of who is refused all guarded ports; `name_set` has those of one port, too."""


def name_set(reach: Reach) -> str:
    """The set that holds whom a refusal of this reach refuses."""
    return SETS[reach.kind] + ("" if reach.port is None else f"_{reach.port}")


def parse_set(name: str) -> Reach | None:
    """What the uids in a set are refused; None if it is no set of refusals."""
    base, _, port = name.partition("_")
    kind = next((kind for kind, known in SETS.items() if known == base), None)
    if kind is None or not ((port.isascii() and port.isdigit()) or name == base):
        return None
    return Reach(kind, int(port) if port else None)


class TableMade(Protocol):
    """Remembers which table is ours."""

    def __call__(self, handle: int | None, /) -> None:
        """It was made, by whatever way, and the kernel gave it this number; None where it is gone again already."""
        ...


class NftEnforcer(OwnTable):
    """One table, in force from `ensure` to `remove`. Every method may raise EnforceError or PrivilegeError.

    Args:
        spec: The table.
        nft: The way to nft; None for the best there is.
        templates: Text of the templates; None to read them.
        exemptions: What passes in spite of any refusal, until `apply_exemptions`.
        now_ns: CLOCK_BOOTTIME.

    Attributes:
        active: Whether the table ought to be there; then a lost one is put back by the next change.
        handle: The number that the kernel gave the table when it was loaded; None before.
        on_made: Told of each table that is made: a guard that is killed in the next moment is to know it as its own.
    """

    name = "nft"

    def __init__(
        self,
        spec: TableSpec,
        *,
        nft: Nft | None = None,
        templates: Mapping[str, str] | None = None,
        exemptions: Exemptions | None = None,
        now_ns: ClockNs = boottime_ns,
    ) -> None:
        super().__init__(spec, nft=nft, templates=templates, exemptions=exemptions)
        self._now_ns = now_ns
        self.on_made: TableMade | None = None
        self._restoring = False
        self._all_sets: dict[Reach, UidSet] = {}
        self._filled: set[Reach] = set()

    def prepare(self, settings: Settings) -> None:
        """Have compiled what the table of a configuration needs, in any thread: `ensure` then waits for nobody."""
        OwnTable(build_spec(settings), nft=self._nft).compile()

    @property
    def _sets(self) -> dict[Reach, UidSet]:
        """Those that the table has now; what was asked of others waits, until their port is guarded again."""
        reaches = [Reach(kind, port) for port in (None, *sorted(self.spec.ports)) for kind in SETS]
        has = self._has  # a ruleset of an administrator's own may have been written before there were sets of one port
        return {reach: self._set(reach) for reach in reaches if has is None or name_set(reach) in has}

    def _set(self, reach: Reach) -> UidSet:
        uids = self._all_sets.get(reach)
        if uids is None:
            uids = self._all_sets[reach] = UidSet(
                reach,
                table=self.spec.table,
                name=name_set(reach),
                nft=self._nft,
                now_ns=self._now_ns,
                on_missing=self._restore_if_lost,
            )
        return uids

    def ensure(self) -> None:
        """As OwnTable's; a set that comes with its port, guarded from now on, holds whom it is asked to at once."""
        super().ensure()
        for reach in self._sets.keys() - self._filled:
            if missing := self._set(reach).compare().missing:
                self.put_back(reach, missing)
        self._filled = set(self._sets)

    def remove(self) -> None:
        """Delete the table and forget what was asked for; nothing there is fine. Other tables stay as they are."""
        for uids in self._all_sets.values():
            uids.forget_all()
        self._filled.clear()
        super().remove()

    # -- who is refused ----------------------------------------------------------------------------------------------

    def apply_deny(self, deny: Deny) -> None:
        """Begin or change a refusal; one that is over already is a release. Root: EnforceError, whoever asks."""
        if deny.subject.scope is not None:
            return
        _refuse_root(deny)
        if not self._looks_at(deny.reach):
            self._set(deny.reach).remember(deny)
        elif deny.until_ns <= self._now_ns():
            self._set(deny.reach).take(deny.subject)
        else:
            self._set(deny.reach).put(deny)

    def _looks_at(self, reach: Reach) -> bool:
        """Whether packets to its port are looked at: the port may have been guarded once."""
        return reach.port is None or reach.port in self.spec.ports

    def apply_many(self, denies: Iterable[Deny], releases: Iterable[tuple[Subject, Reach]] = ()) -> None:
        """Begin, change and end many refusals, those of a kind and port in one transaction.

        Raises:
            SetFullError: Some are not carried out; as many as the set has room for are, those ending last first.
        """
        now_ns = self._now_ns()
        held = [deny for deny in denies if deny.subject.scope is None]
        ours = [deny for deny in held if deny.until_ns > now_ns]
        ended = [(subject, reach) for subject, reach in releases if subject.scope is None]
        ended += [(deny.subject, deny.reach) for deny in held if deny.until_ns <= now_ns]
        for deny in ours:
            _refuse_root(deny)
        ours.sort(key=lambda deny: -deny.until_ns)
        full: SetFullError | None = None
        puts: dict[Reach, list[Deny]] = {}
        takes: dict[Reach, list[Subject]] = {}
        for deny in ours:
            puts.setdefault(deny.reach, []).append(deny)
        for subject, reach in ended:
            takes.setdefault(reach, []).append(subject)
        # Where nothing ends comes first: what is narrowed to some ports refuses those at every moment.
        for reach in sorted({**puts, **takes}, key=lambda reach: reach in takes):
            if not self._looks_at(reach):
                for deny in puts.get(reach, []):
                    self._set(reach).remember(deny)
                for subject in takes.get(reach, []):
                    self._set(reach).forget(subject)
                continue
            try:
                self._set(reach).put_many(puts.get(reach, []), takes.get(reach, []))
            except SetFullError as error:  # another set may have room
                full = error
        if full is not None:
            raise full

    def apply_release(self, subject: Subject, kind: Kind, port: int | None = None) -> None:
        """End a refusal with its ranges; nothing to end is fine."""
        reach = Reach(kind, port)
        if subject.scope is None:
            if self._looks_at(reach):
                self._set(reach).take(subject)
            else:
                self._set(reach).forget(subject)

    def compare(self) -> dict[Reach, Difference]:
        """What the sets hold beside what was asked for, by kind and port; {} if they are in step."""
        found = {reach: uids.compare() for reach, uids in self._sets.items()}
        return {reach: difference for reach, difference in found.items() if difference}

    def put_back(self, reach: Reach, intervals: Iterable[Interval]) -> None:
        """Make a set hold within these uids what was asked for."""
        self._set(reach).repaint(intervals)

    def clear(self, reach: Reach, intervals: Iterable[Interval]) -> None:
        """Take out of a set whoever is in it within these uids and was not asked for; no set is fine."""
        self._set(reach).repaint(intervals)

    def clear_everywhere(self, intervals: Iterable[Interval]) -> None:
        """The same, out of all sets."""
        uids = list(intervals)
        for reach in self._sets:
            self.clear(reach, uids)

    def clear_all(self) -> None:
        """Empty all sets, and forget what was asked for; no sets are fine."""
        for uids in self._sets.values():
            uids.take_all()

    def read_denies(self) -> list[Deny]:
        """What the kernel holds now, elements of others included; [] without a table."""
        return [deny for uids in self._sets.values() for deny in uids.read_denies()]

    def forget(self, subject: Subject, reach: Reach) -> None:
        """Somebody took the element out by hand: do not put it back with a lost table."""
        self._set(reach).forget(subject)

    def find_owners(self, set_name: str, ranges: Iterable[tuple[int, int]]) -> list[tuple[Reach, Subject]]:
        """Whose refusals lie in these uid ranges of a set: for whom a deletion by hand was meant.

        Args:
            set_name: As a watch names it.
            ranges: Inclusive.
        """
        reach = parse_set(set_name)
        return [] if reach is None else [(reach, subject) for subject in self._set(reach).find_owners(ranges)]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _render_held(self) -> list[NftChange]:
        return [change for uids in self._sets.values() for change in uids.render_again(flatten(uids.read()))]

    def _render_asked(self) -> list[NftChange]:
        return [change for uids in self._sets.values() for change in uids.render_asked()]

    def _note(self, shape: str, contents: dict[str, Content]) -> None:
        super()._note(shape, contents)
        if self.on_made is not None:
            self.on_made(self.handle)

    def _restore_if_lost(self) -> bool:
        """Put the table back if it ought to be there and is not; whether it did."""
        if self._restoring or not self.active or self.exists():
            return False
        self._restoring = True  # somebody who flushes all the time must not drive us into recursion
        try:
            self.restore()
        finally:
            self._restoring = False
        return True


def _refuse_root(deny: Deny) -> None:
    if deny.subject.id == 0:
        raise EnforceError("root is never refused", where="uid 0", fix="look who asked for it")
