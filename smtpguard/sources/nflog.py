"""The `nflog` source: SYNs to SMTP ports, logged by an nftables rule of ours and read from nfnetlink_log.

It sees every attempt that leaves by this network namespace, whichever system call opened it, with the uid of the
socket's creator; not those of containers with a network of their own, and not whether the attempt was refused. Its
rule lives in a table of its own, changes no packet, and is the only thing that dry run may add. The process is not
in the packet: the socket's inode is asked of sock_diag at once, so that who holds it can be looked for later; where
the socket is gone by then nothing is guessed. The event's time is when it was read: the log stamps no outgoing packet.
"""

import contextlib
import errno
import logging
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence

from smtpguard.clock import boottime_ns
from smtpguard.decode.netlink.nflog import NflogDecoder, Syn
from smtpguard.errors import DecodeError, EnforceError, GuardError, SourceError
from smtpguard.kernel.nflog_group import open_log_group
from smtpguard.kernel.nft.access import Nft, open_nft
from smtpguard.kernel.nft.notifications import NftNotifications
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.model import NS, Connect
from smtpguard.settings import Settings
from smtpguard.sources.base import SourceStats, Unsent
from smtpguard.sources.nflog_table import NflogTable
from smtpguard.text import render_escaped

_log = logging.getLogger(__name__)

_SO_BINDTODEVICE = 25
_RECEIVE_BYTES = 4 << 20
"""Some 3,000 packets wait here while the guard is busy."""
_COPY_BYTES = 256
_MAX_DATAGRAM_BYTES = 65_536
_MAX_EVENTS = 512
"""Read at one go, so that nobody's flood holds up the daemon's loop."""
_LOOKUPS_PER_USER = 50
_LOOKUPS = 200
"""Sockets looked up a second, in all: 12 us each, on the way to the verdict."""
_CHECK_NS = NS
_PROBE_ADDRESS = "192.0.2.1"
"""TEST-NET-1 (RFC 5737), asked for by way of the loopback interface: the SYN is logged and goes nowhere."""


def make_source(settings: Settings) -> "NflogSource":
    """The source, unopened."""
    return NflogSource(settings)


class NflogSource:
    """The sensor.

    Args:
        settings: `ports`, `loopback`, `nft_table` and `nflog_group` are used.
        nft: The way to nft; None for the best there is.
    """

    name = "nflog"

    def __init__(self, settings: Settings, *, nft: Nft | None = None) -> None:
        self.stats = SourceStats()
        self.table = f"{settings.nft_table}_watch"
        self._ports = settings.ports
        self._loopback = settings.loopback == "count"
        self._group = settings.nflog_group
        self._nft = nft
        self._decoder = NflogDecoder()
        self._socket: socket.socket | None = None
        self._watch: NftNotifications | None = None
        self._table: NflogTable | None = None
        self._diag: SockDiag | None = None
        self._waiting: list[Connect] = []
        self._looked_up: Counter[int | None] = Counter()
        self._lookup_second = 0
        self._probe_port: int | None = None
        self._probe_seen = False
        self._next_check_ns: int | None = None
        self._last_restored_ns = 0

    def open(self) -> None:
        """Become the group's reader, then load the rule. Raises SourceError or PrivilegeError."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def probe(self, timeout_s: float) -> None:
        """Prove that an own SYN is logged and read; it leaves no namespace. Raises SourceError."""
        self._probe_seen = False
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, b"lo\0")
                code = sock.connect_ex((_PROBE_ADDRESS, min(self._ports)))
            except OSError as error:
                raise SourceError(f"self-test: no own SYN could be sent: {error.strerror}", where="nflog") from error
            self._probe_port = sock.getsockname()[1]
            deadline = time.monotonic() + timeout_s
            while not self._probe_seen and (left := deadline - time.monotonic()) > 0:
                select.select(self.filenos(), [], [], left)
                self._waiting += self._receive()
        self._probe_port = None
        if not self._probe_seen:
            raise SourceError(
                f"self-test: an own SYN was not logged (connect: {errno.errorcode.get(code, code)})",
                where=f"table inet {self.table}",
                fix="is the loopback interface up, and nfnetlink_log there? modprobe nfnetlink_log",
            )

    def filenos(self) -> Sequence[int]:
        """The log's socket, and that of the table's watch."""
        return [part.fileno() for part in (self._socket, self._watch) if part is not None]

    def read(self) -> list[Connect]:
        """What is there now. Raises SourceError if the log is gone."""
        connects, self._waiting = self._waiting, []
        connects += self._receive()
        self._look_after_table()
        self.stats.events += len(connects)
        self.stats.lost = self._decoder.lost
        for name in ("repeated", "forgotten", "odd"):
            self.stats.notes[name] = getattr(self._decoder, name)
        return connects

    def next_poll_ns(self) -> int | None:
        """When the table is to be looked at."""
        return self._next_check_ns

    def set_ports(self, ports: frozenset[int]) -> None:
        """Have the SYNs to these ports logged from now on. Raises SourceError; then the old rule is still there."""
        before, self._ports = self._ports, ports
        if self._socket is None or ports == before:
            return
        try:
            self._load_table()
        except SourceError:
            self._ports = before
            raise

    def set_loopback(self, *, counts: bool) -> None:
        """Have connections to loopback logged, or not. Raises SourceError; then it is as before."""
        before, self._loopback = self._loopback, counts
        if self._socket is None or counts == before:
            return
        try:
            self._load_table()
        except SourceError:
            self._loopback = before
            raise

    def read_unsent(self) -> list[Unsent]:
        """What was counted, being beyond a user's budget. Raises SourceError."""
        return [] if self._table is None else self._table.read_unsent()

    def close(self) -> None:
        """Stop reading and delete the table. May be called twice."""
        for part in (self._watch, self._diag, self._socket):
            if part is not None:
                part.close()
        was_open, self._socket = self._socket is not None, None
        self._watch = self._diag = None
        if was_open and self._table is not None:
            with contextlib.suppress(GuardError):
                self._table.delete()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._nft = self._nft or open_nft()
        self._table = NflogTable(self.table, self._group, self._nft)
        self._socket = open_log_group(self._group, copy_bytes=_COPY_BYTES, receive_bytes=_RECEIVE_BYTES)
        self._load_table()
        self._watch = NftNotifications(self.table, self._nft)
        try:
            self._watch.open()
        except EnforceError as error:
            _log.warning("nflog: %s; its table is looked at once a second", error)
            self._watch = None
            self._next_check_ns = boottime_ns() + _CHECK_NS
        try:
            self._diag = SockDiag()
        except SourceError as error:
            _log.warning("nflog: %s; processes stay unknown", error)

    def _load_table(self) -> None:
        if self._table is not None:
            self._table.load(self._ports, loopback=self._loopback)

    def _receive(self) -> list[Connect]:
        connects: list[Connect] = []
        if self._socket is None:
            return connects
        for _ in range(_MAX_EVENTS):
            try:
                datagram, sender = self._socket.recvfrom(_MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise SourceError(f"the log can't be read: {error.strerror}", where="nflog") from error
                self.stats.notes["overruns"] = self.stats.notes.get("overruns", 0) + 1
                continue
            if sender[0] != 0:  # not the kernel
                continue
            now_ns = boottime_ns()
            try:
                syns = self._decoder.feed(datagram, now_ns)
            except DecodeError:
                self.stats.garbled += 1
                continue
            connects += [self._describe(syn, now_ns) for syn in syns if not self._is_probe(syn)]
        return connects

    def _is_probe(self, syn: Syn) -> bool:
        if syn.address != socket.inet_aton(_PROBE_ADDRESS) or syn.source_port != self._probe_port:
            return False
        self._probe_seen = True
        return True

    def _describe(self, syn: Syn, now_ns: int) -> Connect:
        cookie = inode = None
        if self._diag is not None and self._may_look_up(syn.uid, now_ns):
            try:
                session = self._diag.find((syn.source, syn.source_port), (syn.address, syn.port), syn.interface)
            except GuardError:
                session = None
            if session is not None and session.uid == syn.uid:
                cookie, inode = session.cookie, session.inode
        return Connect(
            time_ns=now_ns,
            uid=syn.uid,
            port=syn.port,
            address=syn.address,
            sensor=self.name,
            cookie=cookie,
            inode=inode,
        )

    def _may_look_up(self, uid: int | None, now_ns: int) -> bool:
        second = now_ns // NS
        if second != self._lookup_second:
            self._lookup_second = second
            self._looked_up.clear()
        if self._looked_up[uid] >= _LOOKUPS_PER_USER or self._looked_up.total() >= _LOOKUPS:
            self.stats.notes["not_looked_up"] = self.stats.notes.get("not_looked_up", 0) + 1
            return False
        self._looked_up[uid] += 1
        return True

    def _look_after_table(self) -> None:
        """Put the table back when somebody took it, at most once a second."""
        now_ns = boottime_ns()
        due = self._next_check_ns is not None and now_ns >= self._next_check_ns
        if self._watch is not None:
            events = self._watch.read()
            harm = next((event for event in events if event.kind in ("lost", "damaged", "unknown")), None)
            if harm is None and not due:
                return
            known = harm is not None and harm.pid is not None
            who = f" by {render_escaped(harm.comm)} (pid {harm.pid})" if harm is not None and known else ""
        elif due:
            who = ""
        else:
            return
        if now_ns - self._last_restored_ns < _CHECK_NS:
            self._next_check_ns = self._last_restored_ns + _CHECK_NS
            return
        self._next_check_ns = None if self._watch is not None else now_ns + _CHECK_NS
        if self._table is None or self._table.is_whole():
            return
        self._load_table()
        self._last_restored_ns = now_ns
        restored = self.stats.notes["table_restored"] = self.stats.notes.get("table_restored", 0) + 1
        if restored == 1:
            _log.warning(
                "nflog: table inet %s was deleted%s; it is back, and will be put back silently", self.table, who
            )
