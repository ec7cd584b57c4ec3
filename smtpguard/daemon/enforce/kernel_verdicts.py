"""Verdicts that the kernel keeps until the guard has spoken: found by looking, where the ring did not tell of them."""

from smtpguard.decode.bpf_event import decode
from smtpguard.model import NS, Connect
from smtpguard.sources.bpf.kernel_credits import Credits
from smtpguard.sources.bpf.source import BpfSource

MAX_KNOWN = 1024
"""Verdicts that were found in the map before the ring told of them, remembered so that they are not judged twice."""

_LOST_NS = 3 * NS
"""A verdict is reported within this time, or found in the map, which is looked at once a second; or it is lost."""


def speak(book: Credits, uid: int, connect: Connect, now_ns: int) -> None:
    """A refused attempt was judged: its user is held no longer, unless what holds them is still on its way.

    Args:
        book: Whom the kernel is told by.
        uid: The user.
        connect: The attempt.
        now_ns: CLOCK_BOOTTIME.

    Raises:
        EnforceError: The maps can't be read or written.
    """
    usage = book.maps.read_usage(uid)
    verdict_ns = 0 if usage is None else usage.verdict_ns
    # Of another CPU's verdict we may hear, and find it in the map, only after what it held.
    if book.ledger.spoken().get(uid, 0) < verdict_ns < connect.time_ns and now_ns < verdict_ns + _LOST_NS:
        return
    book.speak(uid, connect.time_ns, now_ns)


class KernelVerdicts:
    """What was found in one program's map of verdicts."""

    def __init__(self) -> None:
        self._looked_at = self._unkeyed = 0
        self._known: dict[tuple[int | None, int], bool] = {}

    def begin(self) -> None:
        """The program is another one."""
        self._looked_at = self._unkeyed = 0

    def is_known(self, connect: Connect) -> bool:
        """Whether a refused attempt was found here; asked once of each."""
        return self._known.pop((connect.uid, connect.time_ns), False)

    def remember(self, verdict: Connect) -> None:
        """It is judged now, before the ring tells of it."""
        self._known[verdict.uid, verdict.time_ns] = True
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def find(self, book: Credits, source: BpfSource, now_ns: int, found: list[Connect]) -> None:
        """Look for those that the ring will not tell of any more.

        Args:
            book: What was spoken of already.
            source: Until when the ring was read, and where a full map is noted.
            now_ns: CLOCK_BOOTTIME.
            found: They are put here, so that those before a failure count.

        Raises:
            EnforceError: The maps can't be read.
        """
        unkeyed = book.keys.count_unkeyed()
        if unkeyed != self._unkeyed:
            source.stats.notes["attempts not counted in the kernel, its map of keys is full"] = unkeyed
            self._unkeyed = unkeyed
        many = book.keys.count_verdicts()
        if many == self._looked_at:
            return
        waiting = False
        for uid, sample in book.keys.read_verdicts():
            event = decode(sample)
            if not isinstance(event, Connect):
                continue
            if event.time_ns <= book.ledger.spoken().get(uid, 0):
                book.keys.drop_verdict(uid, event.time_ns)
            elif event.time_ns < max(source.drained_ns, now_ns - NS):
                self.remember(event)
                found.append(event)
            else:
                waiting = True
        if not waiting:
            self._looked_at = many
