"""Every way to open an SMTP connection against every sensor and every means of refusal, on the real kernel.

`ROWS` is the table: who sees a way, as whom, and who stops it when the user is blocked. A new sensor is one more field
of `Row` with what it usually sees, and its exceptions in the rows. Whether something was stopped is judged on the
wire, at the peer: no SYN arrives.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pytest

from smtpguard.actions.base import Deny, Enforcer, Exemptions
from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.actions.nft.render import TableSpec
from smtpguard.clock import boottime_ns
from smtpguard.decode.audit.rule import FILTER_EXIT, AuditRule, connect_rules
from smtpguard.demo.lab import Lab
from smtpguard.kernel.netns import read_cookie
from smtpguard.model import NS, Connect, Subject
from smtpguard.settings import Settings
from smtpguard.sources.audit.control import AuditControl
from smtpguard.sources.audit.netlink import AuditSource
from smtpguard.sources.audit.rules import OwnRules
from smtpguard.sources.base import Source
from smtpguard.sources.bpf.cgroup import read_cgroup
from smtpguard.sources.bpf.features import Features, list_preferences
from smtpguard.sources.bpf.program import BpfProgram
from smtpguard.sources.proc import ProcSource
from smtpguard.sources.registry import KINDS, make_source
from tests.support.audit_lab import read_until, sole_audit
from tests.support.evasion import WAYS
from tests.support.evasion_lab import Attempt, Course, inside
from tests.support.host import SPAMMER, Host
from tests.support.proc_looks import look_now

pytestmark = pytest.mark.kernel

USER = SPAMMER[1]
OTHER = USER + 1
SUBORDINATE = 700005
ROOT = 0
RANGES = ((700000, 65536),)
SOMETIMES = -1
"""Seen or not as a thread of the kernel gets to it; if seen, then as the user."""
Means = Literal["nft", "caller", "creator", "both"]
"""nftables; BPF by the caller alone, as where the kernel has no BTF; BPF by caller and creator; nftables and BPF."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is true of one way.

    Attributes:
        way: As `evasion.WAYS` has it.
        runs_as: The uid of who does it.
        bpf, nflog, proc: The uid that each sensor sees; None if it sees nothing.
        audit: The same by audit's records with all rules that the audit source loads; audit-log reads the same records.
        audit_base: The same with the one rule that everybody has, `-a always,exit -F arch=b64 -S connect`.
        nft_stops: Whether nftables alone refuses it when the user is blocked.
        caller_stops: Whether BPF that knows only the caller does.
        tells: Whether the program is told that it was refused.
        own_subject: Blocked as the container's own uid: the host's user of that number is somebody else.
    """

    way: str
    runs_as: int = USER
    bpf: int | None = USER
    nflog: int | None = USER
    proc: int | None = USER
    audit: int | None = USER
    audit_base: int | None = USER
    nft_stops: bool = True
    caller_stops: bool = True
    tells: bool = True
    own_subject: bool = False

    def stopped_by(self, means: Means) -> bool:
        """BPF that knows caller and creator stops every row alone; nftables ends open sessions beside it."""
        return {"nft": self.nft_stops, "caller": self.caller_stops}.get(means, True)


ROWS = [
    Row(way="plain"),
    Row(way="v6"),
    Row(way="mapped"),
    Row(way="nonblocking"),
    Row(way="bound"),
    Row(way="blackhole"),
    Row(way="user-namespace"),
    Row(way="orphan"),
    Row(way="four-connects"),
    # It is gone before anybody can look, or be told.
    Row(way="short-lived", tells=False),
    Row(way="sendto-fastopen", audit_base=None),
    Row(way="sendmsg-fastopen", audit_base=None),
    Row(way="sendmmsg-fastopen", audit_base=None),
    Row(way="fastopen-option"),
    Row(way="uring", audit_base=None),
    Row(way="uring-async", audit=None, audit_base=None),
    Row(way="uring-sqpoll", audit=SOMETIMES, audit_base=None),
    Row(way="uring-fastopen", audit=None, audit_base=None),
    Row(way="int80-connect", audit_base=None),
    Row(way="int80-socketcall", audit_base=None),
    # The program keeps no session open, so there is none to look at.
    Row(way="m32", proc=None, audit_base=None),
    Row(way="mptcp"),
    Row(way="mptcp-fastopen", audit_base=None),
    # Packets of other network namespaces are forwarded here, not sent: no output hook, no socket, no uid.
    Row(way="container", nflog=None, proc=None, nft_stops=False, own_subject=True),
    Row(
        way="rootless-container",
        runs_as=SUBORDINATE,
        bpf=SUBORDINATE,
        nflog=None,
        proc=None,
        audit=SUBORDINATE,
        audit_base=SUBORDINATE,
        nft_stops=False,
    ),
    # BPF and audit see the caller's real uid; the others the fsuid that made the socket.
    Row(way="setuid-root", nflog=ROOT, proc=ROOT, nft_stops=False),
    Row(way="inherited-socket", nflog=ROOT, proc=ROOT, nft_stops=False),
    Row(way="passed-socket", nflog=ROOT, proc=ROOT, nft_stops=False),
    Row(way="lent-socket", bpf=OTHER, audit=OTHER, audit_base=OTHER, caller_stops=False),
]
_CONNECT = 42
"""connect(2) of x86-64."""
CONTAINERS = ("container", "rootless-container")
SENSORS = ("bpf", "nflog", "proc")
AUDITS = ("audit", "audit_base")
each_row = pytest.mark.parametrize("row", ROWS, ids=[row.way for row in ROWS])


def start_sink(lab: Lab) -> None:
    sink = lab.start([sys.executable, "-m", "smtpguard.demo.sink", "25"], net=lab.peer)
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"


@pytest.fixture(scope="module", autouse=True)
def home() -> Iterator[str]:
    """The network namespace that the tests began in: audit multicasts to the initial one only."""
    with Path("/proc/thread-self/ns/net").open("rb") as namespace:
        yield f"/proc/self/fd/{namespace.fileno()}"


class Watch:
    """All sensors at once in one laboratory; each way is run once, and what each of them saw is kept."""

    def __init__(self, lab: Lab, course: Course, stack: ExitStack) -> None:
        self.course = course
        self._seen: dict[str, tuple[Attempt, dict[str, list[Connect]]]] = {}
        self.cgroup = read_cgroup(lab.cgroup or "auto")
        settings = Settings(cgroup=str(self.cgroup))
        self.sources = {name: self._open(make_source(name, settings), stack) for name in SENSORS}

    @staticmethod
    def _open(source: Source, stack: ExitStack) -> Source:
        source.open()
        stack.callback(source.close)
        source.probe(2)
        return source

    def see(self, row: Row) -> tuple[Attempt, dict[str, list[Connect]]]:
        if row.way not in self._seen:
            events: dict[str, list[Connect]] = {}

            def look() -> None:
                for name, source in self.sources.items():
                    events[name] = look_now(source) if isinstance(source, ProcSource) else source.read()

            attempt = self.course.run(row.way, row.runs_as, look)
            own = {name: [c for c in found if c.address == attempt.address] for name, found in events.items()}
            self._seen[row.way] = attempt, own
        return self._seen[row.way]


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    with Lab() as lab, ExitStack() as stack:
        start_sink(lab)
        course = Course(lab)
        stack.callback(course.close)
        stack.enter_context(inside(lab.host))
        yield Watch(lab, course, stack)


@pytest.fixture(scope="module", params=get_args(Means))
def refusing(request: pytest.FixtureRequest, watch: Watch) -> Iterator[Means]:
    """The user is blocked by these means, and by no other."""
    means: Means = request.param
    with inside(watch.course.container.path):
        contained = Subject(id=USER, scope=read_cookie())
    until_ns = boottime_ns() + 600 * NS
    denies = [
        Deny(subject=Subject(id=USER), kind="block", until_ns=until_ns, ranges=RANGES),
        Deny(subject=contained, kind="block", until_ns=until_ns),
    ]
    enforcers: list[Enforcer] = []
    with ExitStack() as stack:
        if means != "nft":
            preferences = [Features(creator=False)] if means == "caller" else list_preferences()
            guard = BpfProgram(watch.cgroup, preferences=preferences)
            stack.callback(guard.close)
            if means != "caller" and not guard.features.creator:
                pytest.skip("lacks BTF (CONFIG_DEBUG_INFO_BTF) or CAP_PERFMON")
            guard.set_ports(Settings().ports)
            guard.set_enforcing(on=True)
            enforcers.append(BpfDeny(guard))
        if means in ("nft", "both"):
            nft = NftEnforcer(TableSpec())
            nft.ensure()
            stack.callback(nft.remove)
            enforcers.append(nft)
        for enforcer in enforcers:
            enforcer.apply_exemptions(Exemptions())
            for deny in denies:
                enforcer.apply_deny(deny)
        yield means


def test_the_table_names_every_way() -> None:
    assert {row.way for row in ROWS} == set(WAYS)
    assert set(KINDS) <= {*SENSORS, "audit", "audit-log"}, "a sensor without a column"


@each_row
def test_it_comes_through_while_nobody_is_blocked(watch: Watch, row: Row) -> None:
    attempt, _ = watch.see(row)
    assert attempt.left
    assert attempt.error == ("ETIMEDOUT" if row.way == "blackhole" else None)


@pytest.mark.parametrize("sensor", SENSORS)
@each_row
def test_seen_once_and_as_whom(watch: Watch, row: Row, sensor: str) -> None:
    _, seen = watch.see(row)
    uid: int | None = getattr(row, sensor)
    assert [connect.uid for connect in seen[sensor]] == ([] if uid is None else [uid])


@contextmanager
def open_audit(control: AuditControl, name: str) -> Iterator[AuditSource]:
    """The audit source, with rules for those who run the ways, and for nobody else of this machine."""

    def base_rules(machine: str, *, key: bytes, uid: int | None, by_family: bool) -> list[AuditRule]:
        rules = connect_rules(machine, key=key, uid=uid, by_family=by_family)
        return [rule for rule in rules if rule.filter == FILTER_EXIT and rule.calls == {_CONNECT}]

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        if name == "audit_base":
            patch.setattr("smtpguard.sources.audit.rules.connect_rules", base_rules)
        source = AuditSource(Settings(audit_enable=True, audit_uid=USER))
        stack.callback(source.close)
        source.open()
        for uid in (OTHER, SUBORDINATE):
            rules = OwnRules(control, uid=uid)
            stack.callback(rules.remove)
            rules.install()
        source.probe(5)
        yield source


@pytest.fixture(scope="module")
def audited(home: str) -> dict[tuple[str, str], list[Connect]]:
    """What audit saw, by column and way: all ways in one go, for a machine's audit can't be had for long."""
    found: dict[tuple[str, str], list[Connect]] = {}
    with Lab() as lab, ExitStack() as stack:
        start_sink(lab)
        course = Course(lab)
        stack.callback(course.close)
        control = stack.enter_context(sole_audit())
        stack.enter_context(inside(home))
        for name in AUDITS:
            with open_audit(control, name) as source:
                found |= {(name, way): connects for way, connects in sweep(source, course).items()}
    return found


def sweep(source: AuditSource, course: Course) -> dict[str, list[Connect]]:
    """Run every way; records come in order, so all are there when those of a plain one at the end are."""
    attempts = {row.way: course.run(row.way, row.runs_as) for row in ROWS}
    last = course.run("plain", USER)
    seen = read_until(source, lambda seen: any(connect.address == last.address for connect in seen))
    assert seen, "audit saw nothing at all"
    return {way: [c for c in seen if c.address == attempt.address] for way, attempt in attempts.items()}


@pytest.mark.parametrize("column", AUDITS)
@each_row
def test_seen_by_audit_once_and_as_whom(audited: dict[tuple[str, str], list[Connect]], row: Row, column: str) -> None:
    uids = [connect.uid for connect in audited[column, row.way]]
    uid: int | None = getattr(row, column)
    if uid == SOMETIMES:
        assert uids in ([], [USER])
    else:
        assert uids == ([] if uid is None else [uid])


@each_row
def test_bpf_tells_namespaces_apart(watch: Watch, row: Row) -> None:
    _, seen = watch.see(row)
    with inside(watch.course.container.path):
        cookie = read_cookie()
    assert [connect.netns for connect in seen["bpf"]] == [cookie if row.way in CONTAINERS else None]


@each_row
def test_stopped_or_not(watch: Watch, refusing: Means, row: Row) -> None:
    attempt = watch.course.run(row.way, row.runs_as)
    check(attempt, row, stopped=row.stopped_by(refusing))


def check(attempt: Attempt, row: Row, *, stopped: bool) -> None:
    assert attempt.left is not stopped
    if stopped and row.tells:
        assert attempt.error in ("EPERM", "ECONNREFUSED")


@pytest.fixture(scope="module", params=["none", "auto"])
def blocking(request: pytest.FixtureRequest) -> Iterator[Callable[[Row], tuple[Attempt, bool]]]:
    """The real daemon, and its user blocked by the command: runs a way, and says whether it should be stopped."""
    with Host(sources=request.param) as host:
        course = Course(host.lab)
        try:
            host.start()
            assert host.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
            means: Means = "nft" if request.param == "none" else "both"

            def run(row: Row) -> tuple[Attempt, bool]:
                return course.run(row.way, row.runs_as), row.stopped_by(means) and not row.own_subject

            yield run
        finally:
            course.close()


@each_row
def test_the_daemon_stops_what_its_means_stop(blocking: Callable[[Row], tuple[Attempt, bool]], row: Row) -> None:
    """A container's uid is not the host's customer of that number: the daemon leaves it alone (`own_subject`)."""
    attempt, stopped = blocking(row)
    check(attempt, row, stopped=stopped)
