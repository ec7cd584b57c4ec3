"""Our table in the kernel: compiled, loaded, looked at, taken away. Who is in its uid sets is not its business.

It touches the table it was given and no other.
"""

import logging
from collections.abc import Mapping, Sequence

from smtpguard.actions.base import Exemptions
from smtpguard.actions.nft.render import (
    Content,
    TableSpec,
    list_contents,
    render_ruleset,
    render_shape,
)
from smtpguard.actions.nft.templates import NEEDED_SETS, Render, State, read_templates, render_contents
from smtpguard.decode.netlink.messages import split_attributes
from smtpguard.decode.netlink.nft_elements import read_counts
from smtpguard.decode.netlink.nft_numbers import Kind as Message
from smtpguard.decode.netlink.nft_numbers import NftChange, render_chain, render_delete_table, render_names
from smtpguard.decode.netlink.nft_ruleset import (
    Ruleset,
    read_counters,
    read_dormant,
    read_fingerprint,
    read_handle,
    read_shape,
    read_size,
)
from smtpguard.errors import ConfigError, EnforceError
from smtpguard.kernel.nft.access import Nft, NftError, open_nft, read_set
from smtpguard.kernel.nft.wire import render_create, render_flush

log = logging.getLogger(__name__)

ALIVE_MS = 10_000
"""So long after the last `beat` the cap goes on: a busy host may well keep the daemon waiting for a second or two."""
_ALIVE, _TCP = "alive", 6


class OwnTable:
    """One table, in force from `ensure` to `remove`. Every method may raise EnforceError or PrivilegeError.

    Args:
        spec: The table.
        nft: The way to nftables; None for this process's.
        templates: Text of the templates; None to read them.
        exemptions: What passes in spite of any refusal, until `apply_exemptions`.

    Attributes:
        active: Whether the table ought to be there.
        handle: The number that the kernel gave the table when it was loaded; None before.
    """

    def __init__(
        self,
        spec: TableSpec,
        *,
        nft: Nft | None = None,
        templates: Mapping[str, str] | None = None,
        exemptions: Exemptions | None = None,
    ) -> None:
        self.spec = spec
        self.active = False
        self.handle: int | None = None
        self._nft: Nft = nft if nft is not None else open_nft()
        self._templates = templates if templates is not None else read_templates()
        self._exemptions = exemptions or Exemptions()
        self._loaded: tuple[str, dict[str, Content]] | None = None
        self._caps = False
        self._has: frozenset[str] | None = None
        self._size: int | None = None

    def render(self) -> str:
        """The ruleset as `ensure` loads it, in nft's language.

        Raises:
            ConfigError: An administrator's template asks for a value that does not exist.
        """
        return self._render(render_ruleset)

    def ensure(self) -> None:
        """Put the table there as it ought to be, in one transaction; elements in force stay. May be repeated."""
        shape, ruleset = self.compile()
        contents = list_contents(self.spec, self._exemptions)
        self._caps = self.spec.cap is not None and _ALIVE in ruleset.sets
        load = ruleset.render([*render_contents(self.spec.table, ruleset, contents), *self._render_alive()])
        try:
            self._nft.transact(load)
            # Else others' chains are in it, which may refuse whom they like, or an older version's.
            is_ours = read_size(self._get_table()) == ruleset.size
            if not is_ours:
                log.warning(
                    "%s holds chains or sets that are not ours: made anew, with what is in force", self._where()
                )
        except NftError as error:
            if not (error.present or error.unsupported):
                raise EnforceError(f"the ruleset was refused: {error.what}", where=self._where()) from error
            is_ours = False  # a set or chain of another shape is in the way
        if not is_ours:
            self._transact([*render_delete_table(self.spec.table), *load, *self._render_held()])
        self._note(shape, contents)

    def restore(self) -> None:
        """Put a lost table back, with every refusal that was asked for and what is left of its time, and nothing else.

        Whatever is there under its name is replaced, with all that it holds: somebody has loaded or changed it.
        """
        shape, ruleset = self.compile()
        contents = list_contents(self.spec, self._exemptions)
        self._caps = self.spec.cap is not None and _ALIVE in ruleset.sets
        load = ruleset.render([*render_contents(self.spec.table, ruleset, contents), *self._render_alive()])
        self._transact([*render_delete_table(self.spec.table), *load, *self._render_asked()])
        self._note(shape, contents)

    def read_again(self) -> None:
        """Take the templates as they are now, and load the table again if they have changed.

        Raises:
            EnforceError: They can't be compiled; the old ones stay.
        """
        before, self._templates = self._templates, read_templates()
        if before == self._templates:
            return
        try:
            self.compile()
        except (ConfigError, EnforceError) as error:
            self._templates = before
            raise EnforceError(error.what, where=error.where, fix="the old ruleset stays in force") from error
        if self.active:
            self.ensure()

    def compile(self) -> tuple[str, Ruleset]:
        """The text and what becomes of it.

        Raises:
            ConfigError: An administrator's template asks for a value that does not exist.
            EnforceError: It can't be compiled, or lacks what a guard needs.
        """
        shape = self._render(render_shape)
        try:
            ruleset = self._nft.compile(self.spec.table, shape)
        except NftError as error:
            raise EnforceError(f"the ruleset was refused: {error.what}", where="nft/*.nft") from error
        self._has = frozenset(ruleset.sets)
        missing = sorted(set(NEEDED_SETS) - ruleset.sets)
        if missing:
            raise EnforceError(
                f"the ruleset has no set {missing[0]}", where="nft/table.nft", fix="compare the shipped one"
            )
        return shape, ruleset

    def remove(self) -> None:
        """Delete the table; nothing there is fine. Other tables stay as they are."""
        self.active = False
        self._transact(render_delete_table(self.spec.table))

    def beat(self) -> None:
        """Say that the guard lives; a cap ends ALIVE_MS after the last time. Every third of it is often enough."""
        if self.active and self._caps:
            try:
                self._nft.transact(self._render_alive())
            except NftError as error:
                if not error.missing:  # a table that is gone is put back by others
                    raise self._failed(error) from error

    def check(self) -> State:
        """Whether the table is the one that was loaded, awake, with all its rules and sets as they were."""
        _, ruleset = self.compile()
        contents = list_contents(self.spec, self._exemptions)
        table = self.spec.table
        try:
            found = self._get_table()
            if read_handle(found) != self.handle:
                return "somebody else's"
            chains = [self._nft.get(Message.GETCHAIN, render_chain(table, name), dump=False) for name in ruleset.chains]
            has_shape = read_size(found) == self._size and tuple(read_shape(*body) for body in chains) == ruleset.shapes
            rules = tuple(
                read_fingerprint(self._nft.get(Message.GETRULE, render_names(table, chain), dump=True))
                for chain in ruleset.chains
            )
            kept = all(
                tuple((a, b) for a, b, *_ in read_set(self._nft, table, name, content.width)) == content.intervals
                for name, content in contents.items()
                if name in ruleset.sets
            )
        except NftError as error:
            if error.missing:
                return "changed" if self.exists() else "deleted"
            raise self._failed(error) from error
        is_whole = has_shape and kept and rules == ruleset.fingerprint and not any(map(read_dormant, found))
        return "whole" if is_whole else "changed"

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
            return read_handle(self._get_table())
        except NftError as error:
            if error.missing:
                return None
            raise self._failed(error) from error

    def _get_table(self) -> list[memoryview]:
        return self._nft.get(Message.GETTABLE, render_names(self.spec.table), dump=False)

    def apply_exemptions(self, exemptions: Exemptions) -> None:
        """Replace what passes, rules and sets at once; without a table in force it waits for `ensure`."""
        self._exemptions = exemptions
        if not self.active:
            return
        shape, ruleset = self.compile()
        contents = list_contents(self.spec, exemptions)
        if self._loaded is None or self._loaded[0] != shape:
            self.ensure()
            return
        changed = {name: content for name, content in contents.items() if self._loaded[1].get(name) != content}
        try:
            self._nft.transact(render_contents(self.spec.table, ruleset, changed))
        except NftError:
            self.ensure()  # the table is not there, or not as it was loaded
        self._loaded = shape, contents

    # -- what was counted --------------------------------------------------------------------------------------------

    def read_counters(self) -> dict[str, int]:
        """Packets by rule since the table is there: `refused_blocked`, `passed_root` ...; {} without a table."""
        return read_counters(self._dump(Message.GETOBJ, self.spec.table))

    def read_capped(self) -> dict[int, int]:
        """Connections that the cap refused, by uid, of the last day."""
        bodies = self._dump(Message.GETSETELEM, self.spec.table, "capped")
        return read_counts([split_attributes(body).get(3, b"") for body in bodies])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _render_held(self) -> list[NftChange]:
        """What the uid sets hold now, for a table that is made anew."""
        return []

    def _render_asked(self) -> list[NftChange]:
        """What the uid sets are to hold, for a table that is made anew."""
        return []

    def _note(self, shape: str, contents: dict[str, Content]) -> None:
        self.active = True
        self._loaded = shape, contents
        try:
            found = self._get_table()
        except NftError as error:
            if not error.missing:
                raise self._failed(error) from error
            found = []  # somebody has deleted it at once
        self.handle, self._size = read_handle(found), read_size(found)

    def _where(self) -> str:
        return f"table inet {self.spec.table}"

    def _render(self, render: Render) -> str:
        try:
            return render(self.spec, self._exemptions, self._templates)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"a ruleset template has an unknown placeholder: {error}", where="nft/*.nft") from error

    def _render_alive(self) -> list[NftChange]:
        if not self._caps:
            return []
        table = self.spec.table
        return [*render_flush(table, _ALIVE), *render_create(table, _ALIVE, [(_TCP, _TCP, ALIVE_MS, "")], 1)]

    def _transact(self, changes: Sequence[NftChange]) -> None:
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
