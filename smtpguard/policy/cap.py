"""The cap as the kernel carries it out, for sensors that can't tell what it refused. Pure.

Only BPF reports a refusal by the cap. What nflog and audit report may have been refused by the nftables rule a moment
later; it must enter no window all the same. So the same bucket is kept here, with the same arithmetic and on the
events' own times: as many attempts are taken for refused as the kernel refused.
"""

from collections import OrderedDict

from smtpguard.settings import Cap

MAX_USERS = 65_536
"""Buckets kept, as many as the set `ratecap` holds; the one that was used longest ago is dropped first: it is full."""


class CapBuckets:
    """A token bucket per uid.

    Args:
        cap: Its size and refill.
    """

    def __init__(self, cap: Cap) -> None:
        self.cap = cap
        self._interval_ns = -(-cap.per_ns // max(cap.rate, 1))
        self._depth_ns = max(cap.burst, 1) * self._interval_ns
        self._full_ns: OrderedDict[int, int] = OrderedDict()

    def take(self, uid: int, time_ns: int) -> bool:
        """Take a token; False if there is none.

        Args:
            uid: Whose.
            time_ns: Event time.
        """
        full_ns = max(self._full_ns.get(uid, 0), time_ns) + self._interval_ns
        if full_ns - time_ns > self._depth_ns:
            return False
        self._full_ns[uid] = full_ns
        self._full_ns.move_to_end(uid)
        if len(self._full_ns) > MAX_USERS:
            self._full_ns.popitem(last=False)
        return True
