"""What the daemon gives up is gone for it and for whatever it starts; what it keeps is enough for its work."""

import ctypes
import os
import resource
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpguard.daemon.startup import privileges
from smtpguard.daemon.startup.privileges import (
    MIN_FILES,
    PRIORITY,
    apply_limits,
    apply_priority,
    apply_privileges,
    needed_capabilities,
)
from smtpguard.errors import PrivilegeError
from smtpguard.kernel import capabilities
from smtpguard.kernel.capabilities import NAMES, apply_capabilities, is_known, read_held
from smtpguard.panels.known_panels import PANELS
from smtpguard.settings import Settings
from smtpguard.sources.bpf.source import BpfSource
from tests.fakes.namespaces import run_forked
from tests.kernel.bpf_lab import private_cgroup

pytestmark = pytest.mark.kernel

_CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(PermissionError):
        call()


def test_the_five_sets_are_exactly_what_is_needed() -> None:
    def body() -> None:
        settings = Settings()
        kept = apply_privileges(settings)
        held = read_held()
        assert kept == set(needed_capabilities(settings))
        assert held.effective == held.permitted == held.bounding == kept
        assert held.inheritable == held.ambient == frozenset()
        assert held.no_new_privileges
        assert read_held(os.getpid()) == held
        assert "SYS_ADMIN" not in kept
        assert "DAC_OVERRIDE" not in kept
        assert "SETUID" not in kept

    run_forked(body)


@pytest.mark.parametrize(("before", "after"), [(0, PRIORITY), (5, PRIORITY), (-15, -15)])
def test_its_turn_comes_before_those_of_whom_it_watches(before: int, after: int) -> None:
    def body() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, before)
        apply_priority()
        assert os.getpriority(os.PRIO_PROCESS, 0) == after

    run_forked(body)


def test_without_the_right_to_a_better_turn_it_goes_on() -> None:
    def body() -> None:
        os.setresuid(61001, 61001, 61001)
        apply_priority()
        assert os.getpriority(os.PRIO_PROCESS, 0) == 0

    run_forked(body)


def test_it_can_do_nothing_else_and_never_again(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    os.chown(other, 61001, 61001)

    def body() -> None:
        apply_privileges(Settings(sources=("bpf",), attribution_process=False))
        refused(lambda: (other / "file").write_bytes(b""))
        refused(lambda: list(other.iterdir()))
        refused(lambda: os.chown(tmp_path, 61001, 61001))
        refused(lambda: os.setresuid(61001, 61001, 61001))
        refused(lambda: os.mknod(tmp_path / "disk", 0o60600, os.makedev(8, 0)))
        refused(lambda: os.chroot("/"))
        assert _libc.unshare(_CLONE_NEWNS) == -1
        apply_capabilities(NAMES)
        assert read_held().effective == {"NET_ADMIN", "BPF", "PERFMON", "NET_BIND_SERVICE"}
        status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
        masks = {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}
        kept = sum(1 << NAMES.index(name) for name in ("NET_ADMIN", "BPF", "PERFMON", "NET_BIND_SERVICE"))
        assert (masks["CapPrm:"], masks["CapBnd:"]) == (kept, kept)

    run_forked(body)


def test_its_own_work_goes_on(tmp_path: Path) -> None:
    """nft by a child, BPF loaded and attached after the drop, files of root."""
    with private_cgroup() as cgroup:

        def body() -> None:
            assert _libc.unshare(_CLONE_NEWNET) == 0
            apply_limits()
            apply_privileges(Settings(sources=("bpf",)))
            subprocess.run(["nft", "add table inet smtpguard_test"], check=True, timeout=30)
            listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
            assert "smtpguard_test" in listed
            source = BpfSource(Settings(cgroup=str(cgroup)))
            source.open()
            source.close()
            (tmp_path / "file").write_bytes(b"root's own")

        run_forked(body)


def test_threads_would_keep_theirs_so_it_is_refused() -> None:
    def body() -> None:
        ending = threading.Event()
        thread = threading.Thread(target=ending.wait)
        thread.start()
        with pytest.raises(PrivilegeError, match="2 threads"):
            apply_privileges(Settings())
        ending.set()
        thread.join()
        assert "SYS_ADMIN" in read_held().effective

    run_forked(body)


def test_what_is_lacking_is_named() -> None:
    def without_net_admin() -> None:
        apply_capabilities(set(NAMES) - {"NET_ADMIN"}, no_new_privileges=False)
        with pytest.raises(PrivilegeError, match="CAP_NET_ADMIN is lacking: the nft table"):
            apply_privileges(Settings())

    def without_ptrace() -> None:
        apply_capabilities(set(NAMES) - {"SYS_PTRACE", "SETPCAP"}, no_new_privileges=False)
        kept = apply_privileges(Settings())
        assert "SYS_PTRACE" not in kept
        assert "NET_ADMIN" in kept
        assert read_held().bounding > kept  # without SETPCAP it can't be narrowed; there is no way to use it either

    run_forked(without_net_admin)
    run_forked(without_ptrace)


@pytest.mark.parametrize(
    ("changes", "more", "less"),
    [
        ({}, {"NET_ADMIN", "BPF", "AUDIT_READ", "SYS_PTRACE", "DAC_READ_SEARCH", "KILL"}, {"SYS_ADMIN", "CHOWN"}),
        ({"sources": "none", "attribution_process": False}, {"NET_ADMIN"}, set(NAMES) - {"NET_ADMIN"}),
        ({"sources": ("audit",)}, {"AUDIT_READ", "AUDIT_CONTROL"}, {"BPF", "SYS_PTRACE", "DAC_READ_SEARCH"}),
        ({"sources": ("audit-log",)}, {"DAC_READ_SEARCH"}, {"BPF", "AUDIT_READ", "SYS_PTRACE"}),
        ({"sources": ("bpf", "postfix")}, {"BPF", "SYS_ADMIN", "DAC_READ_SEARCH"}, {"AUDIT_READ"}),
        ({"control_group": "wheel"}, {"CHOWN"}, {"DAC_OVERRIDE"}),
        ({"block_verdict": "tell"}, {"NET_BIND_SERVICE"}, {"NET_RAW"}),
    ],
)
def test_each_part_asks_for_its_own(changes: dict[str, object], more: set[str], less: set[str]) -> None:
    needed = needed_capabilities(Settings(**changes))  # type: ignore[arg-type]
    assert more <= needed.keys()
    assert not less & needed.keys()
    assert all(needed.values())


def test_an_old_kernel_has_both_in_sys_admin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "last").write_text("37\n")
    monkeypatch.setattr(capabilities, "_LAST", tmp_path / "last")
    assert not is_known("BPF")
    assert is_known("AUDIT_READ")
    needed = needed_capabilities(Settings(sources=("bpf",)))
    assert needed.keys() == {"NET_ADMIN", "SYS_ADMIN", "KILL", "NET_BIND_SERVICE"}


def test_limits_are_raised_and_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    def raised() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 65_536))
        apply_limits()
        files, memory = resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if "SYS_RESOURCE" in read_held().effective:
            assert (files, memory) == ((MIN_FILES,) * 2, (resource.RLIM_INFINITY,) * 2)
        else:
            assert (files, memory) == ((1024, 1024), (65_536, 65_536))

    def kept() -> None:
        monkeypatch.setattr(privileges, "MIN_FILES", 512)
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, 1024))
        apply_limits()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (600, 1024)
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1024))
        apply_limits()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (512, 1024)

    def without_the_right() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
        apply_capabilities(set())
        apply_limits()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1024, 1024)

    for body in (raised, kept, without_the_right):
        run_forked(body)


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(PrivilegeError, match="No such file"):
        read_held(2**22 + 1)


def test_a_panel_whose_files_are_not_roots_needs_reading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "find_panel", lambda: PANELS[2])
    assert "DirectAdmin" in needed_capabilities(Settings(sources=("bpf",)))["DAC_READ_SEARCH"]
    assert "DAC_READ_SEARCH" not in needed_capabilities(Settings(sources=("bpf",), accounts="none"))
