"""The program's keys: which destinations or networks each user reached under a rule, and with what they exceeded one.

The layouts are those of keys.bpf.h. A rule has a lane, a number of its own for as long as the program lives, so that a
reload that leaves a rule as it was leaves its windows in the kernel as they were. Methods raise EnforceError.
"""

import struct
import sys
from collections import deque
from collections.abc import Mapping, Sequence

from smtpguard.policy.credit_rules import CreditRule
from smtpguard.policy.networks import network_of
from smtpguard.settings import KEY_SLOTS
from smtpguard.sources.bpf import maps
from smtpguard.sources.bpf.features import ENTER_PROGRAM
from smtpguard.sources.bpf.libbpf import BpfError
from smtpguard.sources.bpf.program import BpfProgram
from smtpguard.sources.bpf.refusals import refused

Keys = Mapping[bytes, int]
"""Addresses or networks as the engine has them, with the time of the last attempt."""

_OF = struct.Struct("=II")
_RULE = struct.Struct("=QII")
_HEAD = struct.Struct("=IIIIIIIIQ")
_SLOT = struct.Struct("=16sQ")
_ENTRY = struct.Struct("=16xIIQ16s")
_MAPPED = bytes(10) + b"\xff\xff"
_NETWORK4, _ADDRESS4, _NETWORK6, _ADDRESS6 = 3, 4, 6, 16
_DELETIONS = 500
"""Entries of rules that are gone, deleted in one go: about a millisecond."""
_Identity = tuple[str, str, int, frozenset[int]]


def pack_key(key: bytes) -> bytes:
    """A destination or network of the engine as the program has it."""
    if len(key) in (_NETWORK4, _ADDRESS4):
        return _MAPPED + key.ljust(_ADDRESS4, b"\0")
    return key.ljust(_ADDRESS6, b"\0")


def unpack_key(key: bytes, *, whole: bool) -> bytes:
    """The other way round."""
    if key.startswith(_MAPPED):
        return key[12:] if whole else key[12 : 12 + _NETWORK4]
    return key if whole else key[:_NETWORK6]


class KeyMaps:
    """The maps `keys`, `key_rules` and `verdicts`.

    Args:
        guard: The loaded program.
    """

    def __init__(self, guard: BpfProgram) -> None:
        self._guard = guard
        self._keys = guard.map("keys")
        self._rules = guard.map("key_rules")
        self._verdicts = guard.map("verdicts")
        self._lanes: dict[_Identity, int] = {}
        self._next_lane = 1
        self._of_rule: list[tuple[int, bool]] = []
        self._entries: dict[tuple[int, int], int] = {}
        self._to_delete: deque[tuple[int, int]] = deque()

    def write_rules(self, rules: Sequence[CreditRule], *, anew: bool) -> set[int]:
        """Say what each rule counts.

        Args:
            rules: By index.
            anew: None of them goes on with the windows it had.

        Returns:
            The indices of those whose windows are empty in the kernel.
        """
        before, self._lanes = ({} if anew else self._lanes), {}
        self._of_rule = []
        fresh, keyed, holding = set(), 0, 0
        for index, rule in enumerate(rules):
            holding |= rule.holds << index | (rule.holds and rule.holds_all) << index + 16
            if not rule.is_keyed:
                self._of_rule.append((0, False))
                continue
            identity = (rule.name, rule.count, rule.window_ns, rule.ports)
            lane = before.get(identity)
            if lane is None:
                lane, self._next_lane = self._next_lane, self._next_lane + 1
                fresh.add(index)
            self._lanes[identity] = lane
            whole = rule.count == "destinations"
            self._of_rule.append((lane, whole))
            keyed |= 1 << index
            try:
                self._rules.update(struct.pack("=I", index), _RULE.pack(rule.window_ns, lane, whole))
            except BpfError as error:
                raise refused("the rules can't be written", error) from error
        self._guard.config.fields.keyed = keyed
        self._guard.config.fields.holding = holding
        alive = set(self._lanes.values())
        for entry in [entry for entry in self._entries if entry[1] not in alive]:
            del self._entries[entry]
            self._to_delete.append(entry)
        return fresh

    def note(self, uid: int, index: int, time_ns: int) -> None:
        """An attempt of a user is among a rule's keys."""
        self._entries[uid, self._of_rule[index][0]] = time_ns

    def read(self, uid: int, index: int) -> dict[bytes, int]:
        """What the kernel keeps of a user under a rule, what has left the window included."""
        lane, whole = self._of_rule[index]
        try:
            value = self._keys.lookup(_OF.pack(uid, lane))
        except BpfError as error:
            raise refused(f"the keys of uid {uid} can't be read", error) from error
        if value is None:
            return {}
        found: dict[bytes, int] = {}
        for packed, last_ns in _SLOT.iter_unpack(value[_HEAD.size :]):
            key = unpack_key(packed, whole=whole)
            if last_ns > found.get(key, 0):  # it may stand in two slots, once outside the window
                found[key] = last_ns
        return found

    def enter(self, uid: int, index: int, address: bytes, time_ns: int) -> None:
        """An attempt of a user that the program did not note is in a rule's window too; it goes on meanwhile."""
        lane, whole = self._of_rule[index]
        key = pack_key(address if whole else network_of(address))
        try:
            self._guard.run(ENTER_PROGRAM, _ENTRY.pack(uid, index, time_ns, key))
        except BpfError as error:
            raise refused(f"the keys of uid {uid} can't be written", error) from error
        self._entries[uid, lane] = max(time_ns, self._entries.get((uid, lane), 0))

    def put(self, uid: int, index: int, keys: Keys) -> None:
        """Let a user's window hold exactly these keys, the newest if there are too many; nobody is judged by it yet."""
        lane, whole = self._of_rule[index]
        newest = sorted(keys.items(), key=lambda item: item[1])[-KEY_SLOTS:]
        slots = b"".join(_SLOT.pack(pack_key(key), max(last_ns, 0)) for key, last_ns in newest)
        head = _HEAD.pack(0, len(newest), whole, 0, 0, 0, 0, 0, 0)
        value = (head + slots).ljust(self._keys.value_bytes, b"\0")
        try:
            self._keys.update(_OF.pack(uid, lane), value, locked=True)
        except BpfError as error:
            raise refused(f"the keys of uid {uid} can't be written", error) from error
        self._entries[uid, lane] = newest[-1][1] if newest else 0

    def count_verdicts(self) -> int:
        """How many users were refused by a rule that holds, since the program was loaded."""
        try:
            return self._guard.read_count(maps.COUNT_HELD)
        except BpfError as error:
            raise refused("the verdicts can't be counted", error) from error

    def count_unkeyed(self) -> int:
        """How many attempts could not be looked at, because a map was full."""
        try:
            return self._guard.read_count(maps.COUNT_UNKEYED)
        except BpfError as error:
            raise refused("the keys can't be counted", error) from error

    def read_verdicts(self) -> list[tuple[int, bytes]]:
        """With which attempt who exceeded a rule that holds: uid, and the event as the ring has it."""
        try:
            return [(maps.unpack_subject(key)[0], value) for key, value in self._verdicts.items()]
        except BpfError as error:
            raise refused("the verdicts can't be read", error) from error

    def read_verdict(self, uid: int) -> bytes | None:
        """The same of one user; None if there is nothing."""
        try:
            return self._verdicts.lookup(maps.pack_subject(uid, 0))
        except BpfError as error:
            raise refused(f"the verdict of uid {uid} can't be read", error) from error

    def drop_verdict(self, uid: int, spoken_ns: int) -> None:
        """What came up to a time is known. Until we speak the program puts no later one in its place."""
        found = self.read_verdict(uid)
        if found is None or int.from_bytes(found[:8], sys.byteorder) > spoken_ns:
            return
        try:
            self._verdicts.delete(maps.pack_subject(uid, 0))
        except BpfError as error:
            raise refused(f"the verdict of uid {uid} can't be removed", error) from error

    def delete_some(self) -> None:
        """Delete some of what belongs to rules that are gone."""
        for _ in range(min(_DELETIONS, len(self._to_delete))):
            self._delete(*self._to_delete.popleft())

    def count_entries(self) -> int:
        """Users and rules that the kernel keeps keys of, as far as is known."""
        return len(self._entries)

    def delete_idle(self, windows_ns: Mapping[int, int], now_ns: int) -> None:
        """Delete keys that have all left their windows, by rule index: the map holds 65,536 users."""
        lanes = {self._of_rule[index][0]: window_ns for index, window_ns in windows_ns.items()}
        idle = [entry for entry, last_ns in self._entries.items() if last_ns + lanes.get(entry[1], 0) < now_ns]
        for entry in idle:
            del self._entries[entry]
            self._to_delete.append(entry)

    def _delete(self, uid: int, lane: int) -> None:
        try:
            self._keys.delete(_OF.pack(uid, lane))
        except BpfError as error:
            raise refused(f"the keys of uid {uid} can't be removed", error) from error
