"""Real programs that send mail, by names of one, two and four addresses, over a link of 5 ms: what audit tells of them.

Every program runs under the kernel's audit with a real auditd, in a cgroup whose connects bpf counts: bpf is the judge.
The sources `audit` and `audit-log`, and `replay` of what auditd wrote, have to come to the same connects, to the same
destinations. What is not available here is named in the output.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from smtpguard.model import Connect
from smtpguard.settings import Settings
from smtpguard.sources.audit.logfile import AuditLogSource
from smtpguard.sources.audit.netlink import AuditSource
from smtpguard.sources.audit.replay import ReplaySource
from smtpguard.sources.base import Source
from smtpguard.sources.bpf.source import BpfSource
from smtpguard.text import render_address
from tests.kernel.bpf_lab import private_cgroup
from tests.support.audit_lab import random_uid, sole_audit
from tests.support.auditd import Auditd
from tests.support.mail_programs import Program, list_programs
from tests.support.mail_servers import MailServer, NameServer
from tests.support.netlab import Lab
from tests.support.slow_link import SlowLink

pytestmark = pytest.mark.kernel
CLIENT, SERVERS = "10.77.0.1", tuple(f"10.77.0.{number}" for number in range(2, 6))
NAMES = {"one.test": SERVERS[:1], "two.test": SERVERS[:2], "four.test": SERVERS}
ENTER = """
echo $$ > "$1/cgroup.procs"
mount --bind "$2/resolv.conf" "$(readlink -f /etc/resolv.conf)" && mount --bind "$2/nsswitch.conf" /etc/nsswitch.conf
uid=$3; shift 3
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups --inh-caps=-all "$@"
"""
Tally = Counter[str]
"""Connects by destination."""


@dataclass(kw_only=True)
class World:
    """Two namespaces, a mail server and a name server in one, and everything that watches the other."""

    lab: Lab
    server: MailServer
    cgroup: Path
    folder: Path
    uid: int
    sources: dict[str, Source]
    log: Path
    totals: dict[str, Tally] = field(default_factory=dict)

    def run(self, program: Program, host: str, mails: int) -> None:
        """Let a program connect to a name, as the user."""
        assert program.command is not None
        enter = ["nsenter", f"--net=/run/netns/{self.lab.client}", "unshare", "--mount", "--propagation", "private"]
        script = ["sh", "-c", ENTER, "sh", str(self.cgroup), str(self.folder), str(self.uid)]
        done = subprocess.run(
            [*enter, *script, *program.command(host, mails)],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LC_ALL": "C", **program.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{program.name} to {host}: {done.stdout[-300:]}{done.stderr[-600:]}"

    def tallies(self) -> dict[str, Tally]:
        """What each source saw since the last call, once they agree or 15 s have passed."""
        seen = {name: Counter[str]() for name in self.sources}
        deadline = time.monotonic() + 15
        quiet = 0
        while time.monotonic() < deadline and (quiet < 3 or len({tally.total() for tally in seen.values()}) > 1):
            fresh = {name: source.read() for name, source in self.sources.items()}
            for name, connects in fresh.items():
                seen[name] += tally_of(connects, self.uid)
            quiet = 0 if any(fresh.values()) else quiet + 1
            time.sleep(0.025)
        for name, tally in seen.items():
            self.totals.setdefault(name, Counter()).update(tally)
        return seen


def tally_of(connects: list[Connect], uid: int) -> Tally:
    return Counter(render_address(connect.address) for connect in connects if connect.uid == uid)


@contextmanager
def world(folder: Path, form: str) -> Iterator[World]:
    """Everything, and nothing left of it."""
    lab, uid = Lab(), random_uid()
    folder.chmod(0o755)
    (folder / "resolv.conf").write_text(f"nameserver {SERVERS[0]}\noptions timeout:5 attempts:2\n")
    (folder / "nsswitch.conf").write_text(
        "hosts: dns\npasswd: files\ngroup: files\nservices: files\nprotocols: files\n"
    )
    with sole_audit(), private_cgroup() as cgroup:
        closing: list[SlowLink | MailServer | NameServer | Source] = []
        auditd: Auditd | None = None
        try:
            lab.open()
            auditd = Auditd(folder / "auditd", form=form)
            addresses = {lab.client: (f"{CLIENT}/24",), lab.server: tuple(f"{address}/24" for address in SERVERS)}
            closing.append(SlowLink(lab.client, lab.server, addresses=addresses))
            server = MailServer(lab.server)
            closing += [server, NameServer(lab.server, SERVERS[0], NAMES)]
            ports = frozenset({25})
            sources: dict[str, Source] = {
                "bpf": BpfSource(Settings(cgroup=str(cgroup), ports=ports)),
                "audit": AuditSource(Settings(ports=ports, audit_enable=True, audit_uid=uid)),
                "audit-log": AuditLogSource(
                    Settings(sources=("audit-log",), ports=ports), path=str(auditd.log), alone=True
                ),
            }
            for source in sources.values():
                source.open()
                closing.append(source)
            yield World(lab=lab, server=server, cgroup=cgroup, folder=folder, uid=uid, sources=sources, log=auditd.log)
        finally:
            for each in reversed(closing):
                each.close()
            if auditd is not None:
                auditd.stop()
            lab.close()


@pytest.mark.parametrize(
    ("form", "mails"),
    [
        ("RAW", 2),  # tests/e2e/test_audit_daemon.py has a short ENRICHED log of a real auditd
        pytest.param("RAW", 20, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
        pytest.param("ENRICHED", 20, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_what_programs_do_is_counted_as_bpf_counts_it(tmp_path: Path, form: str, mails: int) -> None:
    programs = list_programs()
    wrong: list[str] = []
    expected = 0
    with world(tmp_path, form) as here:
        for program in programs:
            if program.command is None:
                sys.stderr.write(f"\nnot tried: {program.name}: {program.lacks}")
                continue
            for host in NAMES:
                here.run(program, host, mails)
            expected += mails * len(NAMES)
            seen = here.tallies()
            judge = seen["bpf"]
            if judge.total() != mails * len(NAMES):
                wrong.append(f"{program.name}: {judge.total()} connects by bpf, {mails * len(NAMES)} mails")
            wrong += [
                f"{program.name}: {name} {dict(seen[name])}, bpf {dict(judge)}"
                for name in ("audit", "audit-log")
                if seen[name] != judge
            ]
        replay = ReplaySource([str(here.log)], ports=frozenset({25}))
        replay.open()
        connects: list[Connect] = []
        while not replay.done:
            connects += replay.read()
        replay.close()
        replayed = tally_of(connects, here.uid)
        judge = here.totals["bpf"]
        if replayed != judge:
            wrong.append(f"replay {dict(replayed)}, bpf {dict(judge)}")
        assert wrong == []
        assert judge.total() == expected == len(here.server.accepted)
        assert replay.stats.notes["probes"] > 0, "the names were looked up by getaddrinfo"
    assert sum(program.command is not None for program in programs) >= 8
