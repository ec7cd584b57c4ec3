"""The `bpf` Enforcer: refusals as entries of the program's maps, each with its own end. The fastest and the broadest.

It refuses by EPERM at connect(), in every network namespace, whoever made the socket's program. It never ends an open
session (nft and sock_diag do that), and nothing it writes outlives the process. It knows the maps only through
`DenyMaps`, which `smtpguard.sources.bpf.program.BpfProgram` fulfils.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from smtpguard.actions.base import Deny, Exemptions, Kind, Reach
from smtpguard.clock import boottime_ns
from smtpguard.model import NS, Subject
from smtpguard.settings import Network

KINDS: tuple[Kind, ...] = ("block", "throttle")
_PURGE_NS = 60 * NS


Refusal = tuple[int, int | None, int | None, int, int]
"""uid, network namespace (None for the guard's own), port (None for all), ends of block and throttle, 0 for none."""


class DenyMaps(Protocol):
    """What the enforcer writes into. Methods raise EnforceError."""

    def put_denies(self, denies: Iterable[Refusal]) -> None:
        """Make these hold, in one go where the kernel can."""
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

    def read_denies(self) -> list[Refusal]:
        """Every refusal that is held."""
        ...

    def replace_exemptions(
        self, uids: Iterable[tuple[int, int]], networks: Iterable[Network], *, loopback: bool
    ) -> None:
        """Replace what passes."""
        ...

    def replace_translators(self, prefixes: Iterable[Network]) -> None:
        """Say which prefixes the host's own NAT64 has."""
        ...


class BpfDeny:
    """The enforcer.

    Args:
        maps: The program's maps.
    """

    name = "bpf"

    def __init__(self, maps: DenyMaps) -> None:
        self._maps = maps
        self._held: dict[tuple[Subject, int | None], dict[Kind, Deny]] = {}
        self._next_purge_ns = 0

    def apply_deny(self, deny: Deny) -> None:
        """Begin or change a refusal; the later call wins, also if it ends earlier."""
        self.apply_many([deny], [])

    def apply_release(self, subject: Subject, kind: Kind, port: int | None = None) -> None:
        """End a refusal, its ranges too; nothing to end is fine."""
        self.apply_many([], [(subject, Reach(kind, port))])

    def apply_many(self, denies: Iterable[Deny], releases: Iterable[tuple[Subject, Reach]]) -> None:
        """Begin, change and end many refusals."""
        changed = self._take_ended()
        for deny in denies:
            if deny.subject.id == 0:
                continue  # root is never refused; the program would not do it either
            key = deny.subject, deny.port
            if key not in changed:
                changed[key] = dict(self._held.get(key, ()))
            changed[key][deny.kind] = deny
        for subject, reach in releases:
            key = subject, reach.port
            if key not in changed and key in self._held:
                changed[key] = dict(self._held[key])
            if key in changed:
                changed[key].pop(reach.kind, None)
        self._write(changed)

    def apply_exemptions(self, exemptions: Exemptions) -> None:
        """Replace what passes: what is new is there before what is gone has left."""
        self._maps.replace_exemptions(exemptions.uids, exemptions.networks, loopback=exemptions.loopback)
        self._maps.replace_translators(exemptions.translators)

    def read_denies(self) -> list[Deny]:
        """What the kernel holds now and has not ended."""
        now_ns = boottime_ns()
        denies = []
        for uid, netns, port, block_ns, throttle_ns in self._maps.read_denies():
            subject = Subject(id=uid, scope=netns)
            held = self._held.get((subject, port), {})
            for kind, until_ns in zip(KINDS, (block_ns, throttle_ns), strict=True):
                if until_ns > now_ns:
                    base = held.get(kind) or Deny(subject=subject, kind=kind, until_ns=0, port=port)
                    denies.append(replace(base, until_ns=until_ns))
        return denies

    def _write(self, changed: Mapping[tuple[Subject, int | None], dict[Kind, Deny]]) -> None:
        self._maps.put_denies(
            (subject.id, subject.scope, port, _end(held, "block"), _end(held, "throttle"))
            for (subject, port), held in changed.items()
        )
        for (subject, port), held in changed.items():
            before = self._held.get((subject, port), {})
            for kind in KINDS:
                deny, old = held.get(kind), before.get(kind)
                if (deny is not None and deny.ranges) or (old is not None and old.ranges):
                    until_ns = _end(held, kind)
                    ends = (until_ns, 0) if kind == "block" else (0, until_ns)
                    holder = (subject.id, subject.scope, kind)
                    self._maps.put_deny_ranges(holder, deny.ranges if deny else (), *ends, port)
            if held:
                self._held[subject, port] = held
            else:
                self._held.pop((subject, port), None)

    def _take_ended(self) -> dict[tuple[Subject, int | None], dict[Kind, Deny]]:
        """What has ended by itself, as nothing: the maps are to hold only what refuses somebody; once a minute."""
        now_ns = boottime_ns()
        if now_ns < self._next_purge_ns:
            return {}
        self._next_purge_ns = now_ns + _PURGE_NS
        return {key: {} for key, held in self._held.items() if all(deny.until_ns <= now_ns for deny in held.values())}


def _end(held: Mapping[Kind, Deny], kind: Kind) -> int:
    deny = held.get(kind)
    return 0 if deny is None else deny.until_ns
