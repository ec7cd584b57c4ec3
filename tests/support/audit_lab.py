"""What tests of the kernel's audit share: one at a time on this machine, a user of its own, audit left as it was."""

import fcntl
import os
import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smtpguard.errors import SourceError
from smtpguard.model import Connect
from smtpguard.sources.audit.control import AuditControl
from smtpguard.sources.base import Source

LOCK = Path("/run/lock/smtpguard-tests-audit")


@contextmanager
def sole_audit() -> Generator[AuditControl]:
    """Audit for this test alone: its switch is the machine's, so no two tests may turn it at once."""
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            control = AuditControl()
            status = control.read_status()
        except SourceError as error:
            pytest.skip(f"lacks the kernel's audit (CAP_AUDIT_CONTROL): {error}")
        if status.enabled == 2:
            pytest.skip("lacks audit rules: they are locked on this machine")
        rules = set(control.list_rules())
        try:
            yield control
        finally:
            left = set(control.list_rules()) - rules
            for rule in left:
                control.delete_rule(rule)
            after = control.read_status()
            control.set_status(
                enabled=status.enabled,
                backlog_limit=status.backlog_limit,
                backlog_wait_time=status.backlog_wait_time,
            )
            control.close()
        assert not left, f"{len(left)} audit rules were left"
        assert after.enabled == status.enabled, "auditing was left switched"


def random_uid() -> int:
    """A uid that nobody has."""
    return random.SystemRandom().randint(61001, 61999)


def as_user(uid: int, action: Callable[[], object]) -> int:
    """Run something in a child process of that user; the child's process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return pid


def read_until(source: Source, enough: Callable[[list[Connect]], bool], seconds: float = 5.0) -> list[Connect]:
    """Read a source until what came is enough, or the time is over."""
    deadline = time.monotonic() + seconds
    out: list[Connect] = []
    while True:
        out += source.read()
        if enough(out) or time.monotonic() > deadline:
            return out
        time.sleep(0.005)
