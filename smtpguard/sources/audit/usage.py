"""Our use of the kernel's audit, for both sources that live on it: switched on if allowed, with rules of our own.

Whatever of it can't be had is said once, and what the rules of others log is used; only where auditing is off, and must
stay off, there is nothing to use. Everything is taken back at the end.
"""

import contextlib
import logging
from typing import Protocol

from smtpguard.decode.netlink.audit import LOCKED, AuditStatus
from smtpguard.errors import GuardError, PrivilegeError, SourceError
from smtpguard.settings import Settings
from smtpguard.sources.audit.control import AuditControl
from smtpguard.sources.audit.rules import OwnRules
from smtpguard.sources.audit.switch import AuditSwitch

_log = logging.getLogger(__name__)
_OTHERS = "only what the loaded rules log is seen"


class _Action(Protocol):
    def __call__(self) -> object: ...


class AuditUsage:
    """What we have of audit.

    Args:
        settings: `audit_enable` and `audit_uid` are used.
        name: The source, for messages.
        control: The kernel's audit; None for the real one.

    Attributes:
        lost: Records that the kernel lost since `open`.
        restored: How many of our rules somebody took away and we put back.
    """

    def __init__(self, settings: Settings, *, name: str, control: AuditControl | None = None) -> None:
        self.lost = 0
        self._settings = settings
        self._name = name
        self._control = control
        self._rules: OwnRules | None = None
        self._lost_before = 0
        self._told = ""
        self._stack = contextlib.ExitStack()

    @property
    def restored(self) -> int:
        """How many of our rules somebody took away and we put back."""
        return self._rules.restored if self._rules else 0

    @property
    def key(self) -> bytes | None:
        """What marks the records of our rules; None if we have none."""
        return self._rules.key if self._rules else None

    def open(self) -> None:
        """Take audit into use. Raises SourceError if it is off and must stay so."""
        try:
            control = self._control = self._control or AuditControl()
            self._stack.callback(control.close)
            status = control.read_status()
        except GuardError as error:
            self._control = None
            _log.warning("%s: audit can't be asked (%s): %s", self._name, error, _OTHERS)
            return
        self._lost_before = status.lost
        rules = OwnRules(control, uid=self._settings.audit_uid)
        switch = AuditSwitch(control, rules.others)
        # Undone in reverse: the rules first, then the switch, which looks whether others have rules by then that they
        # had not before: what dead instances left must be gone first.
        try:
            if status.enabled != LOCKED:
                rules.sweep()
            self._stack.callback(self._undo, switch.turn_back)
            if switch.turn_on(allowed=self._settings.audit_enable).enabled == LOCKED:
                _log.warning("%s: audit rules are locked until the next boot (auditctl -e 2): %s", self._name, _OTHERS)
                return
            self._stack.callback(self._undo, rules.remove)
            rules.install()
        except (SourceError, PrivilegeError) as error:
            if not status.enabled:
                raise
            _log.warning("%s: no rules of our own (%s): %s", self._name, error, _OTHERS)
            return
        self._rules = rules
        for what in rules.unseen:
            _log.warning("%s: not seen: %s", self._name, what)

    def check(self) -> AuditStatus | None:
        """Look at the losses, put our rules back; the status, None if it can't be asked. Raises SourceError."""
        if self._control is None:
            return None
        status = self._control.read_status()
        # Somebody may set the counter back (auditctl --reset-lost).
        if status.lost < self._lost_before + self.lost:
            self._lost_before = status.lost - self.lost
        self.lost = status.lost - self._lost_before
        try:
            if self._rules is not None:
                self._rules.check()
        except (SourceError, PrivilegeError) as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.warning("%s: our rules can't be put back: %s", self._name, error)
        return status

    def find_obstacle(self) -> str | None:
        """What keeps all rules from working, if anything does."""
        with contextlib.suppress(GuardError):
            return self._rules.find_obstacle() if self._rules else None
        return None

    def close(self) -> None:
        """Take our rules away, switch auditing back; may be called twice."""
        self._stack.close()
        self._control = self._rules = None

    def _undo(self, action: _Action) -> None:
        """Undo something at the end; nobody is left whom an error would help."""
        try:
            action()
        except GuardError as error:
            _log.warning("%s: not undone: %s", self._name, error)
