"""One uid set of our table in the kernel: who is asked to be in it, and the cheapest change that makes it so.

What was asked for is remembered, so that a lost table can be filled again with what is left of each time, and so that
accounts with common subordinate uids do not free each other. The kernel stays the truth about what is in force.
Decides about nobody, and never holds uid 0.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from smtpguard.actions.base import Deny, Reach
from smtpguard.actions.nft.asked_denies import AskedDenies
from smtpguard.actions.nft.difference import MAX_STRANGERS, Difference, find_difference, is_as_wanted
from smtpguard.actions.nft.elements import (
    Element,
    Interval,
    build_denies,
    carve,
    clip,
    flatten,
    list_claims,
    merge_intervals,
)
from smtpguard.actions.nft.set_elements import SetFullError, bounds_of, build_elements, find_fine, list_region, make_new
from smtpguard.decode.netlink.nft_elements import Interval as KernelInterval
from smtpguard.decode.netlink.nft_numbers import NftChange
from smtpguard.errors import EnforceError, GuardError
from smtpguard.hooks import ClockNs, YesNo
from smtpguard.kernel.nft.access import Nft, NftError, read_set
from smtpguard.kernel.nft.wire import render_add, render_create, render_delete, render_flush
from smtpguard.model import Subject

_REFRESH_MS = 1000


class _RenderChanges(Protocol):
    def __call__(self) -> list[NftChange]: ...


class UidSet:
    """The set of one reach of refusal.

    Args:
        reach: The reach.
        table: Table of family inet.
        name: The set in it.
        nft: The way to nft.
        now_ns: CLOCK_BOOTTIME.
        on_missing: Called when something is not there: puts a lost table back and says whether it did.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        table: str,
        name: str,
        nft: Nft,
        now_ns: ClockNs,
        on_missing: YesNo,
    ) -> None:
        self.reach = reach
        self._table = table
        self._name = name
        self._nft = nft
        self._now_ns = now_ns
        self._on_missing = on_missing
        self._asked = AskedDenies()

    def read(self) -> list[Element]:
        """The elements in the kernel; [] without a set."""
        now_ns = self._now_ns()  # before: what is read may seem to end a little early, so nothing grows by being read
        return build_elements(self._read_intervals(), now_ns)

    def _read_intervals(self) -> list[KernelInterval]:
        try:
            return read_set(self._nft, self._table, self._name)
        except NftError as error:
            if error.missing:
                return []
            raise self._failed(error) from error

    def read_denies(self) -> list[Deny]:
        """The elements in the kernel as denies."""
        return build_denies(self.reach.kind, self.read(), self.reach.port)

    def compare(self) -> Difference:
        """What the kernel's set holds beside what was asked for.

        Raises:
            EnforceError: It can't be looked at.
        """
        now_ns = self._now_ns()
        wanted = self._asked.list_wanted(now_ns)
        held = self._read_intervals()
        if is_as_wanted(wanted, held, now_ns):
            return Difference()  # of ten thousand, three times as fast as what follows
        if len(held) > len(wanted) + MAX_STRANGERS:
            return Difference(uncounted=len(held) - len(wanted))
        return find_difference(wanted, build_elements(held, now_ns), now_ns)

    def repaint(self, intervals: Iterable[Interval]) -> None:
        """Make the set hold within these uids just what was asked for; no set is fine."""
        try:
            self._repaint(intervals)
        except NftError as error:
            if not error.missing:
                raise self._failed(error) from error

    def render_again(self, elements: Iterable[Element]) -> list[NftChange]:
        """What puts elements into the set when it is new."""
        return render_create(self._table, self._name, make_new(elements, self._now_ns()))

    def render_asked(self) -> list[NftChange]:
        """What puts all that was asked for into the set when it is new."""
        return self.render_again(self._asked.list_wanted(self._now_ns()))

    def find_owners(self, ranges: Iterable[Interval]) -> list[Subject]:
        """Who asked for any of these uids."""
        return self._asked.find_owners(ranges)

    def remember(self, deny: Deny) -> None:
        """Ask from now on, and leave the kernel alone: the set is not there yet."""
        self._asked.remember(deny)

    def forget(self, subject: Subject) -> None:
        """Ask no longer, and leave the kernel alone."""
        self._asked.forget(subject)

    def forget_all(self) -> None:
        """Ask for nobody, and leave the kernel alone."""
        self._asked.clear()

    def put(self, deny: Deny) -> None:
        """Begin or change one refusal.

        Raises:
            SetFullError: There is no room.
            EnforceError: The kernel refused it otherwise.
        """
        claims = list_claims(deny)
        before = self._asked.get(deny.subject)
        self._asked.prune(self._now_ns())
        self._asked.remember(deny)
        try:
            if (before and before.ranges != deny.ranges) or self._asked.is_shared(deny.subject, claims):
                self._repaint(list_region(deny, before))
            else:
                self._write(claims, fresh=before is None)
        except GuardError:
            self.forget(deny.subject)
            raise

    def put_many(self, denies: Sequence[Deny], takes: Iterable[Subject] = ()) -> None:
        """Begin or change many refusals, and end others, in one transaction; if there is no room, as many as fit.

        Args:
            denies: In the order in which they are to find room.
            takes: Whose refusals end.

        Raises:
            SetFullError: Some are not carried out; it says how many.
            EnforceError: The kernel refused them otherwise.
        """
        gone = [
            self._asked.get(s) or Deny(subject=s, kind=self.reach.kind, port=self.reach.port, until_ns=0) for s in takes
        ]
        for deny in gone:
            self.forget(deny.subject)
        region = [interval for deny in gone for interval in list_region(deny, None)]
        if not denies and region:
            self._repaint(region)
        index, chunk = 0, len(denies)
        while index < len(denies):
            part = denies[index : index + chunk]
            before = {deny.subject: self._asked.get(deny.subject) for deny in part}
            for deny in part:
                self._asked.remember(deny)
            try:
                self._repaint([*region, *(i for deny in part for i in list_region(deny, before[deny.subject]))])
            except GuardError as error:
                for subject, old in before.items():
                    self.forget(subject)
                    if old is not None:
                        self._asked.remember(old)
                if not isinstance(error, SetFullError):
                    raise
                if chunk == 1:
                    raise self._full(f"{len(denies) - index} of {len(denies)} refusals are not carried out") from error
                chunk //= 2
            else:
                index += len(part)

    def take(self, subject: Subject) -> None:
        """End one refusal; nothing to end is fine."""
        deny = self._asked.get(subject) or Deny(subject=subject, kind=self.reach.kind, port=self.reach.port, until_ns=0)
        self.forget(subject)
        claims = list_claims(deny)
        if not self._asked.is_shared(subject, claims):
            try:
                self._nft.transact(render_delete(self._table, self._name, bounds_of(claims)))
            except NftError as error:
                if not error.missing:
                    raise self._failed(error) from error
            else:
                return
        # Some of it is gone already (its time, somebody else, the table), or others claim some of it.
        self._repaint(list_region(deny, None))

    def take_all(self) -> None:
        """End all refusals, and those that others put in; no set is fine."""
        self.forget_all()
        try:
            self._nft.transact(render_flush(self._table, self._name))
        except NftError as error:
            if not error.missing:
                raise self._failed(error) from error

    # -- inside ------------------------------------------------------------------------------------------------------

    def _write(self, claims: Sequence[Element], *, fresh: bool) -> None:
        """Put elements of one account into the set, the cheapest way first: most accounts were not in it."""
        try:
            if fresh:
                try:
                    self._change(lambda: render_create(self._table, self._name, make_new(claims, self._now_ns())))
                except NftError as error:
                    if error.full:  # repainting makes no room, and reading 65,536 elements takes half a second
                        raise self._full() from error
                    if not error.present:
                        raise
                else:
                    return
            self._change(lambda: self._render_refresh(claims))
        except NftError as error:
            if not (error.present or error.full or error.missing):
                raise self._failed(error) from error
            # Present: somebody else's element overlaps. Full: a refresh needs room for one more, repainting none.
            self._repaint(bounds_of(claims))

    def _render_refresh(self, claims: Sequence[Element]) -> list[NftChange]:
        """Set elements anew whether or not they are there, and whether or not their time was over.

        A plain addition of what is there leaves the comment, and on older kernels the timeout, as it was.
        """
        brief = [(claim.first, claim.last, _REFRESH_MS, "") for claim in claims]
        return [
            *render_add(self._table, self._name, brief),
            *render_delete(self._table, self._name, bounds_of(claims)),
            *render_create(self._table, self._name, make_new(claims, self._now_ns())),
        ]

    def _repaint(self, intervals: Iterable[Interval]) -> None:
        """Make the set hold, within the intervals, exactly what is asked for; outside them everything stays."""
        region = merge_intervals(intervals)

        def render() -> list[NftChange]:
            now_ns = self._now_ns()
            wanted = clip(self._asked.list_wanted(now_ns), region)
            touched, outside = carve(self.read(), region)
            kept = [element for element in outside if element.until_ns > now_ns]
            fine = find_fine(wanted, touched)  # after a restart all of them are
            stale = [bounds for bounds in bounds_of(touched) if bounds not in fine]
            new = [element for element in wanted if (element.first, element.last) not in fine]
            return [
                *render_delete(self._table, self._name, stale),
                *render_create(self._table, self._name, make_new(flatten(kept + new), self._now_ns())),
            ]

        try:
            try:
                self._change(render)
            except NftError as error:
                if not error.missing:
                    raise
                self._change(render)  # an element's time ran out between the look and the change
        except NftError as error:
            raise self._full() if error.full else self._failed(error) from error

    def _change(self, render: _RenderChanges) -> None:
        """Run a change; if the table ought to be there and is not, once more when it is back."""
        try:
            self._nft.transact(render())
        except NftError as error:
            if not (error.missing and self._on_missing()):
                raise
            self._nft.transact(render())

    def _failed(self, error: NftError) -> EnforceError:
        return EnforceError(error.what, where=f"set {self._name} of table inet {self._table}", fix=error.fix)

    def _full(self, detail: str = "") -> SetFullError:
        return SetFullError(
            f"the set {self._name} is full" + (f": {detail}" if detail else ""),
            where=f"table inet {self._table}",
            fix="end other blocks first",
        )
