"""What a person has put into a uid set by hand: a block like any other, listed, told, and ended by `unblock`.

Who can't be blocked is taken out: root, who is exempt (the kernel lets them pass anyway), and ranges that are nobody's
and too long to be listed one by one.
"""

import logging
from collections.abc import Iterator

from smtpguard.actions.base import Reach
from smtpguard.actions.nft.elements import Element
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.serve.orders import Orders
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.hooks import ClockNs
from smtpguard.model import NS, Block, Subject
from smtpguard.policy.subject_state import NEVER_REFUSED
from smtpguard.policy.subjects import account_of
from smtpguard.text import render_user

log = logging.getLogger(__name__)

_MAX_LISTED = 256
"""Longest range that is listed one by one."""
_LONGEST_NS = 3650 * 86_400 * NS
"""An element without an end gets one, as a person's longest block has."""


class Adoption:
    """Takes over elements.

    Args:
        orders: What begins blocks.
        enforcement: Follows what begins.
        nft: The table.
        accounts: Who is who.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self, orders: Orders, enforcement: Enforcement, nft: NftEnforcer, accounts: AccountDirectory, now: ClockNs
    ) -> None:
        self._orders = orders
        self._enforcement = enforcement
        self._nft = nft
        self._accounts = accounts
        self._now = now

    def __call__(self, reach: Reach, strangers: tuple[Element, ...], *, who: str) -> None:
        """Take over, or take out who can't be blocked."""
        with self._enforcement.together():
            self.take_over(reach, strangers, reason=f"added to the nft set by {who}" if who else "found in the nft set")

    def take_over(self, reach: Reach, strangers: tuple[Element, ...], *, reason: str) -> None:
        """The same, before or while enforcement is put in step.

        Args:
            reach: In which set they are.
            strangers: What the list does not know.
            reason: For people.
        """
        now_ns = self._now()
        ends: dict[int, int] = {}
        for element in strangers:
            until_ns = min(element.until_ns, now_ns + _LONGEST_NS)
            for uid in self._list_owners(reach, element):
                ends[uid] = max(ends.get(uid, 0), until_ns)
        for uid, until_ns in ends.items():
            subject = Subject(id=uid)
            account = account_of(self._accounts, subject)
            user = render_user(uid, account.name)
            if account.standing in NEVER_REFUSED:
                log.warning("%s can't be blocked (%s): taken out of the nft set", user, account.standing)
                self._nft.clear(reach, [(uid, uid), *((a, a + count - 1) for a, count in account.ranges)])
                continue
            log.warning("%s was put into the kernel's set, and is listed as blocked now (%s)", user, reason)
            self._orders.begin(
                Block(
                    subject=subject,
                    name=account.name,
                    source="admin",
                    kind=reach.kind,
                    ports=None if reach.port is None else (reach.port,),
                    since_ns=now_ns,
                    until_ns=until_ns,
                    mode="enforce",
                    reason=reason,
                ),
                force=True,
            )

    def _list_owners(self, reach: Reach, element: Element) -> Iterator[int]:
        """Whose uids they are."""
        accounts = self._accounts
        owner = accounts.owner(element.first)
        if owner == accounts.owner(element.last) and (owner != element.first or element.first == element.last):
            yield owner
            return
        if element.last - element.first >= _MAX_LISTED:
            log.warning(
                "uids %d to %d were put into the nft set and are too many to be listed: taken out",
                element.first,
                element.last,
            )
            self._nft.clear(reach, [(element.first, element.last)])
            return
        for uid in range(element.first, element.last + 1):
            yield accounts.owner(uid)
