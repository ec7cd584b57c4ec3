"""What the nftables table needs beside refusals: its heartbeat, strangers taken out, an administrator's own ruleset.

Whatever fails is named, and tried again by whoever calls once a second.
"""

import logging
from collections.abc import Iterable

from smtpguard.daemon.enforce.neighbours import NftTable
from smtpguard.daemon.enforce.reconciler import Reconciler
from smtpguard.errors import EnforceError

log = logging.getLogger(__name__)

EVERYBODY = (0, 0xFFFF_FFFF)


class TableUpkeep:
    """Keeps it.

    Args:
        nft: The table.
        reconciler: What has to tell all again after it was emptied.

    Attributes:
        template_trouble: Why an administrator's own ruleset is not taken; None when all is well.
        clear_trouble: Why who is not listed may be refused; None when all is well.
        beat_trouble: Why the cap does not hold; None when all is well.
    """

    def __init__(self, nft: NftTable, reconciler: Reconciler) -> None:
        self._nft = nft
        self._reconciler = reconciler
        self._uncleared: list[tuple[int, int]] = []
        self.template_trouble: str | None = None
        self.clear_trouble: str | None = None
        self.beat_trouble: str | None = None

    @property
    def is_clear(self) -> bool:
        """Whether whoever had to be taken out is."""
        return not self._uncleared

    def clear(self, uids: Iterable[tuple[int, int]]) -> None:
        """Take whoever is in the sets within these uids, and in no list, out of them."""
        self._uncleared += uids
        self.retry_clear(is_there=True)

    def retry_clear(self, *, is_there: bool) -> None:
        """What failed is tried again, for as long as the table is there."""
        if not is_there:
            self._uncleared = []
        try:
            if EVERYBODY in self._uncleared:
                self._nft.clear_all()
                self._reconciler.forget(self._nft)
                self._reconciler.apply_all()
            elif self._uncleared:
                self._nft.clear_everywhere(self._uncleared)
        except EnforceError as error:
            if str(error) != self.clear_trouble:
                log.error("nft: %s", error)  # noqa: TRY400 - one line for people
            self.clear_trouble = str(error)
        else:
            self._uncleared, self.clear_trouble = [], None

    def remove_foreign(self, who: str) -> None:
        """While nothing is to be refused, a table of our name is somebody's saved one, and refuses whom it likes."""
        try:
            if self._nft.exists():
                self._nft.remove()
                log.warning("%s has loaded our nft table, and nothing is to be refused now: taken away", who)
        except EnforceError as error:
            log.error("nft: %s", error)  # noqa: TRY400 - one line for people

    def beat(self) -> None:
        """Say that the guard lives."""
        try:
            self._nft.beat()
        except EnforceError as error:
            if str(error) != self.beat_trouble:
                log.error("nft: the cap ends within ten seconds: %s", error)  # noqa: TRY400 - one line for people
            self.beat_trouble = str(error)
        else:
            self.beat_trouble = None

    def read_templates(self) -> None:
        """An administrator's own ruleset may be another."""
        try:
            self._nft.read_again()
        except EnforceError as error:
            self.template_trouble = str(error)
            log.error("nft: %s", error)  # noqa: TRY400 - one line for people
        else:
            self.template_trouble = None
