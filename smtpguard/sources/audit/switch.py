"""Switches the kernel's auditing on where that is allowed, and back off if nobody else has come to rely on it."""

import logging
from pathlib import Path
from typing import Protocol

from smtpguard.decode.netlink.audit import AuditStatus
from smtpguard.errors import SourceError
from smtpguard.sources.audit.control import AuditControl

_log = logging.getLogger(__name__)
_BACKLOG = 8192
"""Records that may wait, where auditing is ours alone: the kernel's default of 64 is full in a millisecond."""


class ListRules(Protocol):
    """Knows the kernel's audit rules."""

    def __call__(self) -> set[bytes]:
        """Those that are not ours."""
        ...


class AuditSwitch:
    """The state of auditing as we found it.

    Args:
        control: The kernel's audit.
        others: The rules that are not ours.
    """

    def __init__(self, control: AuditControl, others: ListRules) -> None:
        self._control = control
        self._others = others
        self._before: AuditStatus | None = None
        self._rules: set[bytes] = set()

    def turn_on(self, *, allowed: bool) -> AuditStatus:
        """See that auditing is on; returns the state it is in now.

        Args:
            allowed: Whether it may be switched on (`audit.enable`).

        Raises:
            SourceError: It is off and must stay so.
        """
        status = self._control.read_status()
        if status.enabled:
            return status
        if not allowed:
            raise SourceError(
                "auditing is switched off", where="audit", fix="set audit: {enable: true}, or start auditd"
            )
        self._before, self._rules = status, self._others()
        # Nobody else uses it, so nobody shall sleep for it: records are lost, and counted, before processes wait.
        self._control.set_status(enabled=1, backlog_limit=max(_BACKLOG, status.backlog_limit), backlog_wait_time=0)
        _log.info("auditing was off and is on now")
        return self._control.read_status()

    def turn_back(self) -> None:
        """Switch it off again if we switched it on and nobody else changed anything since. Raises SourceError."""
        before, self._before = self._before, None
        if before is None:
            return
        status = self._control.read_status()
        joined = status.pid != before.pid and is_process(status.pid)
        untouched = (status.enabled, status.backlog_wait_time) == (1, 0)
        if joined or not untouched or self._others() != self._rules:
            _log.info("auditing stays on: somebody else uses it now")
            return
        self._control.set_status(
            enabled=0, backlog_limit=before.backlog_limit, backlog_wait_time=before.backlog_wait_time
        )


def is_process(pid: int) -> bool:
    """Whether there is a process of that id; the status keeps that of a dead auditd until the next record."""
    return pid != 0 and Path(f"/proc/{pid}").exists()
