"""Credits and the cap in the kernel: connections rules enforced where connect() happens, exact on every CPU.

`CreditMaps` reads and writes the program's maps; kernel_credits.py keeps them right. Credits are ignored by the program
when the last heartbeat is older than 2 s, so a stopped daemon refuses nobody; the cap stands without it.

Who is never refused here: root, exempt users and destinations (checked before), subjects of other network namespaces
(no account of ours), and uids given to `replace_told`.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smtpguard.errors import EnforceError, SourceError
from smtpguard.policy.credit_rules import MAX_RULES, NO_LIMIT, CreditRule, Grant
from smtpguard.settings import Cap
from smtpguard.sources.bpf import maps
from smtpguard.sources.bpf.budget import read_unsent
from smtpguard.sources.bpf.key_maps import Keys
from smtpguard.sources.bpf.libbpf import BpfError
from smtpguard.sources.bpf.program import BpfProgram
from smtpguard.sources.bpf.refusals import refused

_ACCOUNT = struct.Struct("=IIQ16QQQQQQIIQ")
_GRANT = struct.Struct("=IIQ16QQ16QQ")
_GRANT_TOLD, _GRANT_WAKE, _GRANT_UNCAPPED = 1, 2, 4
_FIRST = struct.pack("=I", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the kernel counted for one user.

    Attributes:
        used: Credits taken, by rule.
        cap_full_ns: CLOCK_BOOTTIME at which the user's bucket is full again.
        by_credit, by_cap: Attempts refused by credits and by the cap.
        verdict_ns: When a rule that holds was exceeded last; 0 if never.
    """

    used: tuple[int, ...]
    cap_full_ns: int
    by_credit: int
    by_cap: int
    verdict_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWindow:
    """What the engine's window of a rule that counts destinations or networks holds.

    Attributes:
        uid: The user.
        index: The rule.
        keys: The keys with the times of their last attempts.
        emptied_ns: What came up to then does not count; 0 if it was never emptied.
    """

    uid: int
    index: int
    keys: Keys
    emptied_ns: int


class CreditMaps:
    """The maps `accounts`, `grants` and what stands beside them. Methods raise EnforceError."""

    def __init__(self, guard: BpfProgram) -> None:
        self._guard = guard
        self._accounts = guard.map("accounts")
        self._grants = guard.map("grants")
        self._new_grant = guard.map("new_grant")
        self._told = maps.KeySet(guard.map("told_uids"))

    def write_rules(self, rules: Sequence[CreditRule], *, wake: bool = False) -> None:
        """Say which ports each rule counts, and what a user without entries starts with; `wake` as in write_grant."""
        if len(rules) > MAX_RULES:
            raise EnforceError(f"{len(rules)} rules, the kernel takes {MAX_RULES}", where="bpf")
        ports: dict[int, int] = {}
        for index, rule in enumerate(rules):
            for port in rule.ports:
                ports[port] = ports.get(port, 0) | 1 << index
        try:
            blank = Grant(uid=0, allowed=tuple(rule.limit for rule in rules), as_of_ns=0)
            self._new_grant.update(_FIRST, _pack_grant(blank, wake=wake))
        except BpfError as error:
            raise refused("the limits can't be written", error) from error
        self._guard.set_ports(self._guard.ports, ports)

    def write_grant(
        self, uid: int, allowed: Sequence[int], as_of_ns: int, *, told: bool = False, wake: bool = False
    ) -> None:
        """Say how many credits a user may have taken in all, by rule.

        Args:
            uid: The user.
            allowed: By rule.
            as_of_ns: CLOCK_BOOTTIME from which on that is right.
            told: He is never refused.
            wake: Each of the user's attempts is reported at once.
        """
        self.write(Grant(uid=uid, allowed=tuple(allowed), as_of_ns=as_of_ns), told=told, wake=wake)

    def write(self, grant: Grant, *, told: bool = False, wake: bool = False, uncapped: bool = False) -> None:
        """Tell the program of a grant; `told` and `wake` as in write_grant, `uncapped`: the cap is not this user's."""
        value = _pack_grant(grant, told=told, wake=wake, uncapped=uncapped)
        try:
            self._grants.update(maps.pack_subject(grant.uid, 0), value, locked=True)
        except BpfError as error:
            raise refused(f"the credits of uid {grant.uid} can't be written", error) from error

    def read_usage(self, uid: int) -> Usage | None:
        """What the kernel counted for a user; None if there is no account yet."""
        try:
            value = self._accounts.lookup(maps.pack_subject(uid, 0), locked=True)
        except BpfError as error:
            raise refused(f"the account of uid {uid} can't be read", error) from error
        if value is None:
            return None
        fields = _ACCOUNT.unpack(value)
        return Usage(
            used=fields[3:19],
            cap_full_ns=fields[19],
            by_credit=fields[20],
            by_cap=fields[21],
            verdict_ns=fields[23],
        )

    def read_uids(self) -> list[int]:
        """Users with an account."""
        try:
            return [maps.unpack_subject(key)[0] for key in self._accounts.keys()]  # noqa: SIM118 - a map, not a dict
        except BpfError as error:
            raise refused("the accounts can't be read", error) from error

    def read_capped(self) -> dict[int, int]:
        """Attempts that the cap refused, by uid, of users whom it ever did refuse."""
        try:
            rows = [(maps.unpack_subject(key)[0], _ACCOUNT.unpack(value)[21]) for key, value in self._accounts.items()]
        except BpfError as error:
            raise refused("the accounts can't be read", error) from error
        return {uid: by_cap for uid, by_cap in rows if by_cap}

    def read_unsent(self) -> dict[int, int]:
        """Events that were not handed over, by the uid whose account they are on."""
        found: dict[int, int] = {}
        try:
            for row in read_unsent(self._guard):
                if not row.elsewhere:
                    found[row.owner] = found.get(row.owner, 0) + row.count
        except SourceError as error:
            raise EnforceError(error.what, where=error.where, fix=error.fix) from error
        return found

    def remove(self, uid: int) -> None:
        """Remove a user's entries, so that they begin anew; they are let through in between, never refused."""
        key = maps.pack_subject(uid, 0)
        self.write_grant(uid, [NO_LIMIT] * MAX_RULES, 0, told=True)
        try:
            self._accounts.delete(key)
            self._grants.delete(key)
        except BpfError as error:
            raise refused(f"the account of uid {uid} can't be removed", error) from error

    def replace_told(self, uids: Iterable[tuple[int, int]]) -> None:
        """Replace who is counted and never refused by credits or cap, as inclusive (first, last) ranges."""
        prefixes = [p for first, last in uids for p in maps.split_range(first, last - first + 1)]
        try:
            self._told.replace(maps.pack_uid_prefix(*prefix) for prefix in prefixes)
        except BpfError as error:
            raise refused("the users who are report-only can't be written", error) from error

    def set_cap(self, cap: Cap | None) -> None:
        """Let each user have a token bucket, or none."""
        fields = self._guard.config.fields
        if cap is not None:
            # Rounded up: never a token too many. What is saved up is counted in whole intervals.
            fields.cap_interval_ns = interval_ns = -(-cap.per_ns // cap.rate)
            fields.cap_depth_ns = cap.burst * interval_ns
        self._guard.config.set_flag(maps.FLAG_CAP, on=cap is not None)

    def set_attention(self, *, look: bool, exact: bool) -> None:
        """Say what we want to be woken for.

        Args:
            look: Processes are looked at, so that we want to hear of them while they are there.
            exact: Every rule that refuses is enforced in the kernel: no verdict waits for us.
        """
        self._guard.config.set_flag(maps.FLAG_LOOK, on=look)
        self._guard.config.set_flag(maps.FLAG_EXACT, on=exact)

    def set_crediting(self, *, on: bool) -> None:
        """Whether the program takes and demands credits."""
        self._guard.config.set_flag(maps.FLAG_CREDITS, on=on)

    def set_noting(self, *, on: bool) -> None:
        """Whether the program takes credits and notes keys, and refuses nobody by them."""
        self._guard.config.set_flag(maps.FLAG_NOTING, on=on)

    def beat(self, now_ns: int) -> None:
        """Say that the daemon lives."""
        self._guard.config.fields.heartbeat_ns = now_ns


def _pack_grant(grant: Grant, *, told: bool = False, wake: bool = False, uncapped: bool = False) -> bytes:
    flags = told * _GRANT_TOLD | wake * _GRANT_WAKE | uncapped * _GRANT_UNCAPPED
    allowed = (*grant.allowed, *[NO_LIMIT] * (MAX_RULES - len(grant.allowed)))
    emptied_ns = (*grant.emptied_ns, *[0] * (MAX_RULES - len(grant.emptied_ns)))
    return _GRANT.pack(0, flags, grant.as_of_ns, *allowed, grant.spoken_ns, *emptied_ns, grant.settled_ns)
