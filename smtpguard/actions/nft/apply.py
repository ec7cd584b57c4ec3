"""The enforcer by nftables: keeps our table in the kernel, and who is refused in its sets. Decides about nobody.

It touches the table it was given and no other. A refusal in another network namespace (`Subject.scope`) is not its
business: the output hook of this namespace never sees those packets, only BPF does. The kernel ends every element by
itself. Not thread safe: one thread calls it (the daemon's loop, or a command).
"""

from collections.abc import Iterable, Mapping

from smtpguard.actions.base import Deny, Passes
from smtpguard.actions.nft.difference import Difference
from smtpguard.actions.nft.elements import Interval, flatten
from smtpguard.actions.nft.render import TableSpec
from smtpguard.actions.nft.sets import Kind, SetFullError, UidSet
from smtpguard.actions.nft.table import OwnTable, read_templates
from smtpguard.clock import boottime_ns
from smtpguard.decode.nft_numbers import Change
from smtpguard.errors import EnforceError
from smtpguard.hooks import ClockNs
from smtpguard.kernel.nft import Nft
from smtpguard.model import Subject

__all__ = ["SETS", "NftEnforcer", "read_templates"]

SETS: dict[Kind, str] = {"block": "blocked", "throttle": "throttled"}


class NftEnforcer(OwnTable):
    """One table, in force from `ensure` to `remove`. Every method may raise EnforceError or PrivilegeError.

    Args:
        spec: The table.
        nft: The way to nft; None for the best there is.
        templates: Text of the templates; None to read them.
        passes: What passes in spite of any refusal, until `apply_passes`.
        now_ns: CLOCK_BOOTTIME.

    Attributes:
        active: Whether the table ought to be there; then a lost one is put back by the next change.
        handle: The number that the kernel gave the table when it was loaded; None before.
    """

    name = "nft"

    def __init__(
        self,
        spec: TableSpec,
        *,
        nft: Nft | None = None,
        templates: Mapping[str, str] | None = None,
        passes: Passes | None = None,
        now_ns: ClockNs = boottime_ns,
    ) -> None:
        super().__init__(spec, nft=nft, templates=templates, passes=passes)
        self._now_ns = now_ns
        self._restoring = False
        self._sets: dict[Kind, UidSet] = {
            kind: UidSet(
                kind, table=spec.table, name=name, nft=self._nft, now_ns=now_ns, on_missing=self._restore_if_lost
            )
            for kind, name in SETS.items()
        }

    def remove(self) -> None:
        """Delete the table and forget what was asked for; nothing there is fine. Other tables stay as they are."""
        for uids in self._sets.values():
            uids.forget_all()
        super().remove()

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

    def compare(self) -> dict[Kind, Difference]:
        """What the sets hold beside what was asked for, by kind; {} if they are in step."""
        found = {kind: uids.compare() for kind, uids in self._sets.items()}
        return {kind: difference for kind, difference in found.items() if difference}

    def put_back(self, kind: Kind, intervals: Iterable[Interval]) -> None:
        """Make a set hold within these uids what was asked for."""
        self._sets[kind].repaint(intervals)

    def clear(self, kind: Kind, intervals: Iterable[Interval]) -> None:
        """Take out of a set whoever is in it within these uids and was not asked for; no set is fine."""
        self._sets[kind].repaint(intervals)

    def clear_all(self) -> None:
        """Empty both sets, and forget what was asked for; no sets are fine."""
        for uids in self._sets.values():
            uids.take_all()

    def read_denies(self) -> list[Deny]:
        """What the kernel holds now, elements of others included; [] without a table."""
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

    # -- inside ------------------------------------------------------------------------------------------------------

    def _render_held(self) -> list[Change]:
        return [change for uids in self._sets.values() for change in uids.render_again(flatten(uids.read()))]

    def _render_asked(self) -> list[Change]:
        return [change for uids in self._sets.values() for change in uids.render_asked()]

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
