"""One loaded and attached copy of connect.bpf.o, and its maps as operations on users, networks and times.

Several guards live side by side, each with its own maps; a connect() is refused if any of them refuses it. Nothing is
pinned: program, maps and attachment end with the process, SIGKILL included. The guard refuses nobody until
`set_enforcing(on=True)`.
"""

import logging
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv6Network
from pathlib import Path

from smtpguard.errors import GuardError, SourceError
from smtpguard.kernel.netns import read_cookie
from smtpguard.policy.networks import MAX_TRANSLATORS
from smtpguard.settings import Network
from smtpguard.sources.bpf import maps
from smtpguard.sources.bpf.features import OUTCOME_PROGRAM, Features, list_preferences, load_object
from smtpguard.sources.bpf.libbpf import BpfError, describe
from smtpguard.sources.bpf.objects import Link, Map
from smtpguard.sources.bpf.refusals import Refusal, refused
from smtpguard.sources.bpf.uid_ranges import UidRanges

_log = logging.getLogger(__name__)

_PROGRAMS = ("smtpguard_v4", "smtpguard_v6")
RING_BYTES = 1 << 20
KEY_USERS = 1 << 16
"""1.5 KiB each, made with the first attempt under a rule that counts destinations or networks."""


class BpfProgram:
    """The program in the kernel.

    Args:
        cgroup: Directory of the cgroup v2 hierarchy to attach to.
        ring_bytes: Size of the event ring, a power of two of pages.
        preferences: Sets of features to try, best first; None for all there are.
        key_users: Of how many users and rules keys are kept.
    """

    def __init__(
        self,
        cgroup: Path,
        *,
        ring_bytes: int = RING_BYTES,
        preferences: Iterable[Features] | None = None,
        key_users: int = KEY_USERS,
    ) -> None:
        self.cgroup = cgroup
        self._links: dict[str, Link] = {}
        self._parts = ExitStack()
        try:
            self._object, self.features = load_object(
                ring_bytes, preferences or list_preferences(), {"keys": key_users}
            )
            self._parts.callback(self._object.close)
            self._open_maps()
            self._attach()
        except BpfError as error:
            self.close()
            raise describe(error, "the BPF maps can't be used") from error
        except GuardError:
            self.close()
            raise

    def _open_maps(self) -> None:
        self.config = maps.ConfigPage(self._object.map("config"))
        self._parts.callback(self.config.close)
        self.config.set_flag(maps.FLAG_PACED, on=True)
        own = read_cookie() if self.features.netns else 0
        self.config.fields.own_netns = own or 0
        self.knows_own_netns = own is not None
        self._ports = self._object.map("ports")
        self._guarded: dict[int, int] = {}
        self._port_rules: dict[int, int] = {}
        self._more_bits: dict[int, frozenset[int]] = {}
        self._counts = self._object.map("counts")
        self._deny = self._object.map("deny")
        self._ranges: dict[int | None, UidRanges] = {}
        self._exempt = maps.KeySet(self._object.map("exempt_uids"))
        self._owners = maps.KeySet(self._object.map("owners"))
        self._exempt_networks = {4: maps.KeySet(self._object.map("pass4")), 6: maps.KeySet(self._object.map("pass6"))}
        self.events = self._object.ring("events")
        self._parts.callback(self.events.close)

    def _attach(self) -> None:
        try:
            self.attach_programs(_PROGRAMS)
        except BpfError as error:
            # It was loaded, so no capability is lacking: EPERM says that somebody here suffers no other.
            raise SourceError(
                f"the BPF program can't be attached: {error.strerror}",
                where=str(self.cgroup),
                fix="bpf links need kernel 5.7, a cgroup v2 directory, and no program there that suffers no other",
            ) from error
        if self.features.outcome:
            try:
                self.attach_programs((OUTCOME_PROGRAM,))
            except BpfError as error:
                _log.warning("bpf: the sockops program can't be attached: %s", error.strerror)
                self.features = replace(self.features, outcome=False)

    def attach_programs(self, names: Iterable[str]) -> None:
        """Attach programs of the object to the cgroup, until `close`. Raises BpfError, or SourceError."""
        try:
            descriptor = os.open(self.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(
                f"can't be opened: {error.strerror}", where=str(self.cgroup), fix="check cgroup"
            ) from error
        try:
            for name in names:
                self._links[name] = self._object.attach(name, descriptor)
        finally:
            os.close(descriptor)

    def attach_again(self) -> None:
        """Attach what somebody has detached; the maps go on as they are. Raises SourceError if that can't be.

        The same program, so there is nothing to verify: that would take 0.06 s of CPU.
        """
        names = tuple(self._links)
        self._detach()
        try:
            self.attach_programs(names)
        except BpfError as error:
            raise SourceError(f"can't be attached again: {error.strerror}", where=str(self.cgroup)) from error

    def _detach(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()

    def map(self, name: str) -> Map:
        """One of the program's maps, for what has no operation here."""
        return self._object.map(name)

    def is_attached(self) -> bool:
        """Whether both programs still are; somebody may have detached them, or removed the cgroup."""
        return bool(self._links) and all(link.is_attached() for link in self._links.values())

    def set_ports(self, ports: Iterable[int], rules: Mapping[int, int] | None = None) -> None:
        """Guard exactly these destination ports. Raises EnforceError.

        Args:
            ports: The ports.
            rules: Bits of the credit rules that count a port, by port; None keeps those there are.
        """
        if rules is not None:
            self._port_rules = dict(rules)
        wanted = {port: maps.PORT_GUARDED | self._port_bits(port) for port in ports}
        try:
            for port, value in wanted.items():
                if self._guarded.get(port) != value:
                    self._ports.update(struct.pack("=I", port), struct.pack("=I", value))
            for port in self._guarded.keys() - wanted.keys():
                self._ports.update(struct.pack("=I", port), struct.pack("=I", 0))
        except BpfError as error:
            raise refused("the guarded ports can't be written", error) from error
        self._guarded = wanted

    def set_port_bits(self, bit: int, ports: Iterable[int]) -> None:
        """Set one more bit of the guarded ones among these ports, and clear it of all others. Raises EnforceError."""
        self._more_bits[bit] = frozenset(ports)
        self.set_ports(self._guarded)

    def _port_bits(self, port: int) -> int:
        return self._port_rules.get(port, 0) | sum(bit for bit, ports in self._more_bits.items() if port in ports)

    @property
    def ports(self) -> frozenset[int]:
        """The ports that are guarded now."""
        return frozenset(self._guarded)

    def set_enforcing(self, *, on: bool) -> None:
        """Whether what the maps say is carried out. Off at start: dry run turns it on only for a person's block."""
        self.config.set_flag(maps.FLAG_ENFORCE, on=on)

    def replace_exemptions(
        self, uids: Iterable[tuple[int, int]], networks: Iterable[Network], *, loopback: bool
    ) -> None:
        """Replace what passes in spite of everything. Raises EnforceError.

        Args:
            uids: Inclusive (first, last) ranges.
            networks: Destinations.
            loopback: Whether 127.0.0.0/8 and ::1 pass.
        """
        prefixes = [p for first, last in uids for p in maps.split_range(first, last - first + 1)]
        keys: dict[int, list[bytes]] = {4: [], 6: []}
        for network in networks:
            version, key = maps.pack_network(network)
            keys[version].append(key)
        try:
            self._exempt.replace(maps.pack_uid_prefix(*p) for p in prefixes)
            for version, table in self._exempt_networks.items():
                table.replace(keys[version])
        except BpfError as error:
            raise refused("what passes can't be written", error) from error
        self.config.set_flag(maps.FLAG_LOOPBACK, on=loopback)

    def replace_translators(self, prefixes: Iterable[Network]) -> None:
        """Say which prefixes the host's own NAT64 has; see policy/networks.py. Raises EnforceError."""
        table = self._object.map("translators")
        values = [maps.pack_translator(prefix) for prefix in prefixes if isinstance(prefix, IPv6Network)]
        values = values[:MAX_TRANSLATORS]
        values += [bytes(table.value_bytes)] * (MAX_TRANSLATORS - len(values))
        try:
            for number, value in enumerate(values):
                table.update(struct.pack("=I", number), value)
        except BpfError as error:
            raise refused("the prefixes of NAT64 can't be written", error) from error

    def replace_owners(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Say who owns which subordinate uids, as (first, count, owner). Raises EnforceError."""
        entries = {
            maps.pack_uid_prefix(*prefix): struct.pack("=I", owner)
            for first, count, owner in ranges
            for prefix in maps.split_range(first, count)
        }
        try:
            self._owners.replace(entries)
        except BpfError as error:
            raise refused("the owners of subordinate uids can't be written", error) from error

    def _netns_key(self, netns: int | None) -> int:
        return 0 if netns is None or netns == self.config.fields.own_netns else netns

    def put_denies(self, denies: Iterable[Refusal]) -> None:
        """Refuse uids in network namespaces (None: our own) one port, or all, until these ends; 0 for none.

        Raises:
            EnforceError: Some can't be written.
        """
        entries: dict[bytes, bytes] = {}
        gone: list[bytes] = []
        for uid, netns, port, block_ns, throttle_ns in denies:
            key = maps.pack_subject(uid, self._netns_key(netns), port)
            if block_ns or throttle_ns:
                entries[key] = maps.pack_ends(block_ns, throttle_ns)
            else:
                gone.append(key)
        try:
            # First what begins: what is narrowed to some ports refuses those at every moment.
            self._deny.update_many(entries)
            self._deny.delete_many(gone)
        except BpfError as error:
            raise refused("refusals can't be written", error) from error

    def put_deny_ranges(
        self,
        holder: tuple[int, int | None, str],
        ranges: Iterable[tuple[int, int]],
        block_ns: int,
        throttle_ns: int,
        port: int | None = None,
    ) -> None:
        """Refuse exactly these (first, count) ranges on a holder's behalf, in any namespace. Raises EnforceError."""
        try:
            self._ranges_of(port).put(holder, ranges, (block_ns, throttle_ns))
        except BpfError as error:
            raise refused(f"a refusal of the ranges of uid {holder[0]} can't be written", error) from error

    def _ranges_of(self, port: int | None) -> UidRanges:
        table = self._ranges.get(port)
        if table is None:
            table = self._ranges[port] = UidRanges(self._object.map("deny_ranges"), port)
        return table

    def read_denies(self) -> list[Refusal]:
        """What the kernel holds: (uid, netns, port, block_ns, throttle_ns), ended ones too. Raises EnforceError."""
        try:
            items = list(self._deny.items())
        except BpfError as error:
            raise refused("the refusals can't be read", error) from error
        return [
            (uid, netns or None, port, *maps.unpack_ends(v))
            for k, v in items
            for uid, port, netns in (maps.unpack_denied(k),)
        ]

    def run(self, program: str, data: bytes) -> None:
        """Run a program that is attached nowhere. Raises BpfError."""
        self._object.run(program, data)

    def read_count(self, which: int) -> int:
        """One of the program's COUNT_ counters since it was loaded. Raises BpfError."""
        value = self._counts.lookup(struct.pack("=I", which)) or b""
        return sum(struct.unpack(f"={len(value) // 8}Q", value))

    def close(self) -> None:
        """Detach and unload; may be called twice."""
        self._detach()
        self._parts.close()
