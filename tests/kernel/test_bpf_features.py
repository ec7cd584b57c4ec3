"""The BPF program where a feature, a capability or a place to attach is lacking: it does with less, or says what."""

import errno
import os
from pathlib import Path

import pytest

from smtpguard.decode.bpf_event import decode
from smtpguard.errors import PrivilegeError, SourceError
from smtpguard.model import Connect
from smtpguard.settings import Settings
from smtpguard.sources.bpf.features import Features, probe_features
from smtpguard.sources.bpf.libbpf import library
from smtpguard.sources.bpf.program import BpfProgram
from smtpguard.sources.bpf.source import BpfSource
from tests.kernel.bpf_lab import (
    ADDRESS4,
    PORTS,
    count_programs,
    dials,
    drop_capabilities,
    private_cgroup,
    private_netns,
    random_uid,
    run_as,
)
from tests.support.processes import read_process

pytestmark = pytest.mark.kernel

OPEN = errno.ECONNREFUSED
CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_BPF = 1, 12, 39
CONNECT4 = 10  # BPF_CGROUP_INET4_CONNECT


@pytest.mark.parametrize(
    "features",
    [
        Features(comm=False),
        Features(pid=False, comm=False),
        Features(netns=False),
        Features(outcome=False),
        Features(creator=False),
        Features(storage=False),
    ],
    ids=["no-comm", "no-pid", "no-netns", "no-outcome", "no-creator", "no-storage"],
)
def test_without_a_feature_it_loads_and_says_less(features: Features) -> None:
    with private_netns(), private_cgroup() as cgroup:
        guard = BpfProgram(cgroup, preferences=(features,))
        try:
            guard.set_ports(PORTS)
            uid = random_uid()
            assert dials(uid, cgroup, ADDRESS4) == [OPEN]
            events = [decode(sample) for sample in guard.events.consume(10)]
            assert isinstance(events[0], Connect)
            event = events[0]
            assert len(events) == (2 if features.outcome else 1)
            assert (event.uid, event.netns) == (uid, None)
            assert event.creator == (uid if features.creator else None)
            assert (event.pid is None) == (not features.pid)
            assert (event.proc is None) == (not features.comm)
            assert len(features.missing()) >= 1
        finally:
            guard.close()


def test_without_perfmon_only_the_names_are_missing() -> None:
    with private_netns(), private_cgroup() as cgroup:

        def client() -> Features:
            drop_capabilities(CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_BPF)
            return BpfProgram(cgroup).features

        assert run_as(0, cgroup, client) == Features(comm=False, creator=False, keys=False)


def read_walked() -> dict[int, int]:
    """Instructions that the verifier walked for each program that this process holds, by the program's id."""
    found = {}
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib's looks again, and fails at what is closed
        text = read_process("self", f"fdinfo/{number}").decode()
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        if "verified_insns" in fields:
            found[int(fields["prog_id"])] = int(fields["verified_insns"])
    return found


def test_the_verifier_has_little_to_walk() -> None:
    """It costs each start of the guard some 0.03 s with 40,000 instructions; 0.27 s were 240,000."""
    others = read_walked()
    with private_netns(), private_cgroup() as cgroup:
        guard = BpfProgram(cgroup)
        try:
            assert guard.features == Features()
            walked = [count for number, count in read_walked().items() if number not in others]
        finally:
            guard.close()
    if not walked:
        pytest.skip("lacks verified_insns in /proc/PID/fdinfo (Linux 5.16)")
    assert len(walked) == 6
    assert max(walked) < 20_000
    assert sum(walked) < 50_000


def test_without_capabilities_it_says_which_it_needs() -> None:
    with private_netns(), private_cgroup() as cgroup:

        def client() -> str:
            drop_capabilities()
            with pytest.raises(PrivilegeError) as caught:
                BpfSource(Settings(cgroup=str(cgroup), ports=PORTS)).open()
            return str(caught.value)

        assert "CAP_BPF" in run_as(0, cgroup, client)


def test_a_directory_that_is_no_cgroup_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a cgroup v2 directory"):
        BpfSource(Settings(cgroup=str(tmp_path))).open()


def test_probing_attaches_nothing() -> None:
    with private_cgroup() as cgroup:
        assert probe_features().netns
        assert count_programs(cgroup) == 0


def test_a_cgroup_that_another_program_has_for_itself_is_named() -> None:
    lib = library()
    with private_netns(), private_cgroup() as cgroup, private_cgroup() as elsewhere:
        other = BpfProgram(elsewhere)
        program = lib.call("bpf_program__fd", other._object._find_program("smtpguard_v4"))
        descriptor = os.open(cgroup, os.O_RDONLY)
        try:
            assert lib._dll.bpf_prog_attach(program, descriptor, CONNECT4, 0) == 0
            with pytest.raises(SourceError, match="suffers no other"):
                BpfProgram(cgroup)
        finally:
            lib._dll.bpf_prog_detach2(program, descriptor, CONNECT4)
            os.close(descriptor)
            other.close()
        BpfProgram(cgroup).close()
