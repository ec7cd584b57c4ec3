"""The enforcer by nftables: keeps our table in the kernel, and who is refused in its sets. Decides about nobody.

It touches the table it was given and no other. A refusal in another network namespace (`Subject.scope`) is not its
business: the output hook of this namespace never sees those packets, only BPF does. The kernel ends every element by
itself. Not thread safe: one thread calls it (the daemon's loop, or a command).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from smtpguard.actions.base import Deny, Passes
from smtpguard.actions.nft.elements import flatten
from smtpguard.actions.nft.render import (
    TEMPLATE_NAMES,
    Content,
    TableSpec,
    list_contents,
    render_ruleset,
    render_shape,
)
from smtpguard.actions.nft.sets import Kind, SetFullError, UidSet
from smtpguard.clock import boottime_ns
from smtpguard.decode.netlink import split_attributes
from smtpguard.decode.nft_elements import read_counts
from smtpguard.decode.nft_numbers import Change, render_chain, render_delete_table, render_names
from smtpguard.decode.nft_numbers import Kind as Message
from smtpguard.decode.nft_ruleset import Ruleset, read_counters, read_handle
from smtpguard.errors import ConfigError, EnforceError
from smtpguard.hooks import ClockNs
from smtpguard.kernel.nft import Nft, NftError, open_nft
from smtpguard.kernel.nft_wire import render_create, render_flush
from smtpguard.model import Subject
from smtpguard.resources import read_resource

ALIVE_MS = 10_000
"""So long after the last `beat` the cap goes on: a busy host may well keep the daemon waiting for a second or two."""
_ALIVE, _TCP = "alive", 6
SETS: dict[Kind, str] = {"block": "blocked", "throttle": "throttled"}


class Render(Protocol):
    """Makes text of a ruleset."""

    def __call__(self, spec: TableSpec, passes: Passes, templates: Mapping[str, str]) -> str:
        """The text."""
        ...


def read_templates() -> dict[str, str]:
    """The ruleset's templates: an administrator's below /etc/smtpguard/nft, else the shipped ones."""
    return {name: read_resource("nft", name) for name in TEMPLATE_NAMES}


class NftEnforcer:
    """One table, in force from `ensure` to `remove`. Every method may raise EnforceError or PrivilegeError.

    Args:
        spec: The table.
        nft: The way to nft; None for the best there is.
        templates: Text of the templates; None to read them.
        passes: What passes in spite of any refusal, until `apply_passes`.
        now_ns: CLOCK_BOOTTIME.

    Attributes:
        active: Whether the table ought to be there; then a lost one is put back by the next change.
    """

    name = "nft"

    def __init__(
        self,
        spec: TableSpec,
        *,
        nft: Nft | None = None,
        templates: dict[str, str] | None = None,
        passes: Passes | None = None,
        now_ns: ClockNs = boottime_ns,
    ) -> None:
        self.spec = spec
        self.active = False
        self._nft = nft if nft is not None else open_nft()
        self._templates = templates if templates is not None else read_templates()
        self._passes = passes or Passes()
        self._now_ns = now_ns
        self._restoring = False
        self._loaded: tuple[str, dict[str, Content]] | None = None
        self._caps = False
        self._sets: dict[Kind, UidSet] = {
            kind: UidSet(
                kind, table=spec.table, name=name, nft=self._nft, now_ns=now_ns, on_missing=self._restore_if_lost
            )
            for kind, name in SETS.items()
        }

    # -- the table ---------------------------------------------------------------------------------------------------

    def render(self) -> str:
        """The ruleset as `ensure` loads it, in nft's language.

        Raises:
            ConfigError: An administrator's template asks for a value that does not exist.
        """
        return self._render(render_ruleset)

    def ensure(self) -> None:
        """Put the table there as it ought to be, in one transaction; elements in force stay. May be repeated."""
        shape, ruleset = self._compile()
        contents = list_contents(self.spec, self._passes)
        self._caps = self.spec.cap is not None and _ALIVE in ruleset.sets
        load = ruleset.render([*self._render_contents(ruleset, contents), *self._render_alive()])
        try:
            self._nft.transact(load)
        except NftError as error:
            if not (error.present or error.unsupported):
                raise EnforceError(f"the ruleset was refused: {error.what}", where=self._where()) from error
            # A set or chain of another shape is in the way (an older version's): all new, with what is in force.
            adds = [change for uids in self._sets.values() for change in uids.render_again(flatten(uids.read()))]
            self._transact([*render_delete_table(self.spec.table), *load, *adds])
        self.active = True
        self._loaded = shape, contents

    def restore(self) -> None:
        """Put a lost table back, with every refusal that was asked for and what is left of its time."""
        self.ensure()
        for uids in self._sets.values():
            uids.put_many(uids.list_asked())

    def remove(self) -> None:
        """Delete the table and forget what was asked for; nothing there is fine. Other tables stay as they are."""
        self.active = False
        for uids in self._sets.values():
            uids.forget_all()
        self._transact(render_delete_table(self.spec.table))

    def beat(self) -> None:
        """Say that the guard lives; a cap ends ALIVE_MS after the last time. Every third of it is often enough."""
        if self.active and self._caps:
            try:
                self._nft.transact(self._render_alive())
            except NftError as error:
                if not error.missing:  # a table that is gone is put back by others
                    raise self._failed(error) from error

    def exists(self) -> bool:
        """Whether the table and its chain are in the kernel."""
        try:
            return bool(self._nft.get(Message.GETCHAIN, render_chain(self.spec.table, "output"), dump=False))
        except NftError as error:
            if error.missing:
                return False
            raise self._failed(error) from error

    def read_handle(self) -> int | None:
        """The number that the kernel gave our table when it was made; None without a table."""
        try:
            return read_handle(self._nft.get(Message.GETTABLE, render_names(self.spec.table), dump=False))
        except NftError as error:
            if error.missing:
                return None
            raise self._failed(error) from error

    # -- who is refused ----------------------------------------------------------------------------------------------

    def apply_deny(self, deny: Deny) -> None:
        """Begin or change a refusal; one that is over already is a release. Root: EnforceError, whoever asks."""
        if deny.subject.scope is not None:
            return
        _refuse_root(deny)
        if deny.until_ns <= self._now_ns():
            self._sets[deny.kind].take(deny.subject)
        else:
            self._sets[deny.kind].put(deny)

    def apply_many(self, denies: Iterable[Deny], releases: Iterable[tuple[Subject, Kind]] = ()) -> None:
        """Begin, change and end many refusals, those of a kind in one transaction.

        Raises:
            SetFullError: Some are not carried out; as many as the set has room for are, those ending last first.
        """
        now_ns = self._now_ns()
        held = [deny for deny in denies if deny.subject.scope is None]
        ours = [deny for deny in held if deny.until_ns > now_ns]
        ended = [(subject, kind) for subject, kind in releases if subject.scope is None]
        ended += [(deny.subject, deny.kind) for deny in held if deny.until_ns <= now_ns]
        for deny in ours:
            _refuse_root(deny)
        ours.sort(key=lambda deny: -deny.until_ns)
        full: SetFullError | None = None
        for kind, uids in self._sets.items():
            try:
                uids.put_many(
                    [deny for deny in ours if deny.kind == kind], [subject for subject, what in ended if what == kind]
                )
            except SetFullError as error:  # the other set may have room
                full = error
        if full is not None:
            raise full

    def apply_release(self, subject: Subject, kind: Kind) -> None:
        """End a refusal with its ranges; nothing to end is fine."""
        if subject.scope is None:
            self._sets[kind].take(subject)

    def apply_passes(self, passes: Passes) -> None:
        """Replace what passes, rules and sets at once; without a table in force it waits for `ensure`."""
        self._passes = passes
        if not self.active:
            return
        shape, ruleset = self._compile()
        contents = list_contents(self.spec, passes)
        if self._loaded is None or self._loaded[0] != shape:
            self.ensure()
            return
        changed = {name: content for name, content in contents.items() if self._loaded[1].get(name) != content}
        try:
            self._nft.transact(self._render_contents(ruleset, changed))
        except NftError:
            self.ensure()  # the table is not there, or not as it was loaded
        self._loaded = shape, contents

    def read_denies(self) -> list[Deny]:
        """What the kernel holds now, elements of others included (adopted from then on); [] without a table."""
        return [deny for uids in self._sets.values() for deny in uids.read_denies()]

    def forget(self, subject: Subject, kind: Kind) -> None:
        """Somebody took the element out by hand: do not put it back with a lost table."""
        self._sets[kind].forget(subject)

    def find_owners(self, set_name: str, ranges: Iterable[tuple[int, int]]) -> list[tuple[Kind, Subject]]:
        """Whose refusals lie in these uid ranges of a set: for whom a deletion by hand was meant.

        Args:
            set_name: As a watch names it.
            ranges: Inclusive.
        """
        kind = next(kind for kind, name in SETS.items() if name == set_name)
        return [(kind, subject) for subject in self._sets[kind].find_owners(ranges)]

    # -- what was counted --------------------------------------------------------------------------------------------

    def read_counters(self) -> dict[str, int]:
        """Packets by rule since the table is there: `refused_blocked`, `passed_root` ...; {} without a table."""
        return read_counters(self._dump(Message.GETOBJ, self.spec.table))

    def read_capped(self) -> dict[int, int]:
        """Connections that the cap refused, by uid, of the last day."""
        bodies = self._dump(Message.GETSETELEM, self.spec.table, "capped")
        return read_counts([split_attributes(body).get(3, b"") for body in bodies])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _where(self) -> str:
        return f"table inet {self.spec.table}"

    def _render(self, render: Render) -> str:
        try:
            return render(self.spec, self._passes, self._templates)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"a ruleset template has an unknown placeholder: {error}", where="nft/*.nft") from error

    def _compile(self) -> tuple[str, Ruleset]:
        shape = self._render(render_shape)
        try:
            ruleset = self._nft.compile(self.spec.table, shape)
        except NftError as error:
            raise EnforceError(f"the ruleset was refused: {error.what}", where="nft/*.nft") from error
        missing = sorted({*SETS.values(), "exempt", "exempt4", "exempt6"} - ruleset.sets)
        if missing:
            raise EnforceError(
                f"the ruleset has no set {missing[0]}", where="nft/table.nft", fix="compare the shipped one"
            )
        return shape, ruleset

    def _render_contents(self, ruleset: Ruleset, contents: Mapping[str, Content]) -> list[Change]:
        table = self.spec.table
        changes: list[Change] = []
        for name, (width, intervals) in contents.items():
            if name in ruleset.sets:  # an administrator's own text may do without some
                changes += render_flush(table, name)
                changes += render_create(table, name, [(a, b, None, "") for a, b in intervals], width)
        return changes

    def _render_alive(self) -> list[Change]:
        if not self._caps:
            return []
        table = self.spec.table
        return [*render_flush(table, _ALIVE), *render_create(table, _ALIVE, [(_TCP, _TCP, ALIVE_MS, "")], 1)]

    def _transact(self, changes: Sequence[Change]) -> None:
        try:
            self._nft.transact(changes)
        except NftError as error:
            raise self._failed(error) from error

    def _dump(self, kind: Message, *names: str) -> list[memoryview]:
        try:
            return self._nft.get(kind, render_names(*names), dump=True)
        except NftError as error:
            if error.missing:
                return []
            raise self._failed(error) from error

    def _failed(self, error: NftError) -> EnforceError:
        return EnforceError(error.what, where=self._where())

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
