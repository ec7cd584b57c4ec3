"""What the starter forks is what an executed program would be, whoever looks at it."""

import os
import resource
import sys
from pathlib import Path

import pytest

from smtpguard.demo.lab import PEER4
from tests.fakes.namespaces import enter_tmpfs, run_forked
from tests.support.host import CLIENT, SMTPGUARD, SPAMMER, Host

pytestmark = pytest.mark.kernel

_SAME = ("PPid", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "CapEff")


def describe(host: Host) -> dict[str, object]:
    """A tenant's open session, by everything that the guard and the kernel look at."""
    child = host.session(SPAMMER)
    place = Path(f"/proc/{child.pid}")
    status = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines())
    links = {name: str((place / name).readlink()) for name in ("exe", "cwd", "root", "ns/net", "ns/pid", "ns/user")}
    texts = {name: (place / name).read_bytes() for name in ("cmdline", "comm", "limits", "cgroup", "autogroup")}
    opened = sorted(entry.name for entry in (place / "fd").iterdir())
    group = os.getpgid(child.pid), os.getsid(child.pid)
    child.kill()
    return {**{name: status[name] for name in _SAME}, **links, **texts, "fd": opened, "group": group}


def test_it_looks_like_an_executed_program() -> None:
    with Host() as host:
        warm = describe(host)
        host.lab.is_cold = True
        assert warm == describe(host)
        assert warm["cmdline"] == b"\0".join(
            word.encode()
            for word in [*CLIENT, "session", "--uid", str(SPAMMER[1]), "--seconds", "10", "--port", "25", PEER4, ""]
        )


def test_it_ends_as_an_executed_program_does() -> None:
    with Host() as host:
        programs = [
            [*CLIENT, "connect", "--uid", "nobody"],
            [sys.executable, "-c", "import os, sys; print(sys.argv, os.getcwd(), dict(os.environ)); sys.exit(7)"],
            [*SMTPGUARD, "run", "--config", "/nonexistent"],
            [*SMTPGUARD, "run", "--no-such-option"],
            [*SMTPGUARD, "unblock", "--config", host.config, "--socket", "/nonexistent", "nobody-of-that-name"],
            [*SMTPGUARD, "block", "--help"],
        ]
        warm = [host.lab.run(program) for program in programs]
        host.lab.is_cold = True
        for program, done in zip(programs, warm, strict=True):
            cold = host.lab.run(program)
            assert (done.returncode, done.stdout) == (cold.returncode, cold.stdout)
            assert done.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]
    assert [done.returncode for done in warm] == [2, 7, 78, 2, 1, 0]


def test_it_runs_where_the_test_is() -> None:
    """A test that has forked, mounted and limited something starts its programs there."""

    def body() -> None:
        with Host() as host:
            inner = host.lab.directory / "inner"
            inner.mkdir()
            enter_tmpfs(inner, "1m")
            (inner / "here").touch()
            assert host.lab.run(["ls", str(inner)]).stdout == "here\n"
            assert (
                host.lab.run(["sh", "-c", "ulimit -n"]).stdout == f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}\n"
            )
            resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1000))
            os.umask(0o027)
            assert host.lab.run(["sh", "-c", "ulimit -n; umask"]).stdout == "300\n0027\n"

    run_forked(body)
