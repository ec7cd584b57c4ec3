"""The `bpf` Enforcer: refusals as entries of the program's maps, each with its own end. The fastest and the broadest.

It refuses by EPERM at connect(), in every network namespace, whoever made the socket's program. It never ends an open
session (nft and sock_diag do that), and nothing it writes outlives the process. It knows the maps only through
`DenyMaps`, which `smtpguard.sources.bpf.guard.Guard` fulfils.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from smtpguard.actions.base import Deny, Kind, Passes
from smtpguard.clock import boottime_ns
from smtpguard.model import NS, Subject
from smtpguard.settings import Network

_PURGE_NS = 60 * NS


class DenyMaps(Protocol):
    """What the enforcer writes into. Methods raise EnforceError."""

    def put_deny(self, uid: int, netns: int | None, block_ns: int, throttle_ns: int, port: int | None = None) -> None:
        """Refuse a uid, all or one port, until these ends; 0 for none."""
        ...

    def put_deny_ranges(
        self,
        holder: tuple[int, int | None, str],
        ranges: Iterable[tuple[int, int]],
        block_ns: int,
        throttle_ns: int,
        port: int | None = None,
    ) -> None:
        """Refuse exactly these ranges, all or one port, on a holder's behalf."""
        ...

    def read_denies(self) -> list[tuple[int, int | None, int | None, int, int]]:
        """(uid, netns, port, block_ns, throttle_ns) of every refusal."""
        ...

    def replace_passes(self, uids: Iterable[tuple[int, int]], networks: Iterable[Network], *, loopback: bool) -> None:
        """Replace what passes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """The denies of one subject at one port, or at all, as they were given."""

    block: Deny | None = None
    throttle: Deny | None = None

    def ends(self) -> tuple[int, int]:
        return (self.block.until_ns if self.block else 0, self.throttle.until_ns if self.throttle else 0)


class BpfDeny:
    """The enforcer.

    Args:
        maps: The program's maps.
    """

    name = "bpf"

    def __init__(self, maps: DenyMaps) -> None:
        self._maps = maps
        self._held: dict[tuple[Subject, int | None], _Held] = {}
        self._next_purge_ns = 0

    def apply_deny(self, deny: Deny) -> None:
        """Begin or change a refusal; the later call wins, also if it ends earlier."""
        if deny.subject.id == 0:
            return  # root is never refused; the program would not do it either
        self._purge()
        held = self._held.get((deny.subject, deny.port), _Held())
        changed = replace(held, block=deny) if deny.kind == "block" else replace(held, throttle=deny)
        self._write(deny.subject, deny.port, changed)

    def apply_release(self, subject: Subject, kind: Kind, port: int | None = None) -> None:
        """End a refusal, its ranges too; nothing to end is fine."""
        held = self._held.get((subject, port))
        if held is not None:
            self._write(subject, port, replace(held, block=None) if kind == "block" else replace(held, throttle=None))

    def apply_passes(self, passes: Passes) -> None:
        """Replace what passes: what is new is there before what is gone has left."""
        self._maps.replace_passes(passes.uids, passes.networks, loopback=passes.loopback)

    def read_denies(self) -> list[Deny]:
        """What the kernel holds now and has not ended."""
        now_ns = boottime_ns()
        denies = []
        for uid, netns, port, block_ns, throttle_ns in self._maps.read_denies():
            subject = Subject(id=uid, scope=netns)
            held = self._held.get((subject, port), _Held())
            if block_ns > now_ns:
                base = held.block or Deny(subject=subject, kind="block", until_ns=0, port=port)
                denies.append(replace(base, until_ns=block_ns))
            if throttle_ns > now_ns:
                base = held.throttle or Deny(subject=subject, kind="throttle", until_ns=0, port=port)
                denies.append(replace(base, until_ns=throttle_ns))
        return denies

    def _write(self, subject: Subject, port: int | None, held: _Held) -> None:
        block_ns, throttle_ns = held.ends()
        self._maps.put_deny(subject.id, subject.scope, block_ns, throttle_ns, port)
        for kind, deny in (("block", held.block), ("throttle", held.throttle)):
            ends = (block_ns, 0) if kind == "block" else (0, throttle_ns)
            holder = (subject.id, subject.scope, kind)
            self._maps.put_deny_ranges(holder, deny.ranges if deny else (), *ends, port)
        if held.block or held.throttle:
            self._held[subject, port] = held
        else:
            self._held.pop((subject, port), None)

    def _purge(self) -> None:
        """Take out what has ended by itself, so that the maps hold only what refuses somebody."""
        now_ns = boottime_ns()
        if now_ns < self._next_purge_ns:
            return
        self._next_purge_ns = now_ns + _PURGE_NS
        for key, held in list(self._held.items()):
            if max(held.ends()) <= now_ns:
                self._write(*key, _Held())
