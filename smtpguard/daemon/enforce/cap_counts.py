"""The cap of the running guard: whom it refused, and which of the attempts seen it refused.

The kernel carries it out and counts: the BPF program where connect() happens, the nftables rule behind it. An attempt
that BPF refuses never becomes a packet, so the two counts add up.
"""

import time
from collections import Counter
from dataclasses import replace
from typing import Protocol

from smtpguard.hooks import ClockS, YesNo
from smtpguard.model import Connect
from smtpguard.policy.cap import CapBuckets
from smtpguard.policy.directory import Directory
from smtpguard.policy.engine import Engine
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.settings import Cap, Settings

_REST = 20
"""With very many users the kernel's counts take a while to read: twenty times as long passes before the next time."""


class ReadCounts(Protocol):
    """Counts of the kernel's."""

    def __call__(self) -> dict[int, int]:
        """Attempts refused so far, by uid. Raises EnforceError."""
        ...


class CapCounts:
    """What the cap does.

    Args:
        settings: The configuration.
        accounts: Who is who.
        engine: Who is blocked, and who has an allowance.
        in_force: Whether the kernel refuses at all now.
        counts: Give the attempts refused so far, by uid; raise EnforceError.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        accounts: Directory,
        engine: Engine,
        *,
        in_force: YesNo,
        counts: tuple[ReadCounts, ...],
        clock: ClockS = time.monotonic,
    ) -> None:
        self._accounts = accounts
        self._engine = engine
        self._in_force = in_force
        self._counts = counts
        self._clock = clock
        self._buckets: CapBuckets | None = None
        self._known: Counter[int] = Counter()
        self._next = 0.0
        self.reconfigure(settings)

    @property
    def cap(self) -> Cap | None:
        """The cap that is in force now."""
        return self._buckets.cap if self._buckets is not None and self._in_force() else None

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration; buckets of the same cap stay as they are."""
        self._settings = settings
        cap = None if settings.dry_run else settings.cap
        if cap is None or self._buckets is None or cap != self._buckets.cap:
            self._buckets = None if cap is None else CapBuckets(cap)

    def mark(self, connect: Connect) -> Connect:
        """An attempt as it came, or as one refused by the cap where its sensor could not know that."""
        buckets, uid = self._buckets, connect.uid
        if buckets is None or not uid or connect.sensor == "bpf" or connect.result == "refused" or connect.netns:
            return connect
        if not self._in_force() or not self._meets(uid, connect) or buckets.take(uid, connect.time_ns):
            return connect
        return replace(connect, result="refused", refused_by="cap")

    def read(self) -> Counter[int]:
        """Attempts that the cap refused, by account. Raises EnforceError."""
        begun = self._clock()
        if begun >= self._next:
            known: Counter[int] = Counter()
            for read in self._counts:
                for uid, count in read().items():
                    known[subject_of(self._accounts, uid).id] += count
            self._known = known
            ended = self._clock()
            self._next = ended + _REST * (ended - begun)
        return self._known

    def _meets(self, uid: int, connect: Connect) -> bool:
        """Whether such an attempt gets as far as the cap's rule."""
        if connect.port not in self._settings.ports or not self._engine.counts(connect.address):
            return False
        subject = subject_of(self._accounts, uid)
        account = account_of(self._accounts, subject)
        may = account.standing == "tenant" or not self._settings.shared_block.isdisjoint(account.names)
        if not may or any(a.subject == subject for a in self._engine.allowances()):
            return False
        held = self._engine.blocks_of(subject)
        return not any(
            block.mode == "enforce" and block.until_ns > connect.time_ns and block.covers(connect.port)
            for block in held
        )
