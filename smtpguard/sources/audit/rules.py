"""Our rules in the kernel's audit: loaded under a key of our own, watched, and taken away again.

Never touches anybody else's rules, but for those that an instance of ours left behind when it was killed: their key
names a process that is no more.
"""

import errno
import itertools
import logging
import os
import platform
import re
from pathlib import Path

from smtpguard.decode.audit.rule import (
    ACTION_NEVER,
    FILTER_TASK,
    FILTER_URING_EXIT,
    connect_rules,
    parse_rule,
    render_rule,
)
from smtpguard.errors import DecodeError, SourceError
from smtpguard.sources.audit.control import AuditControl, RefusedError

_log = logging.getLogger(__name__)
_KEY = re.compile(rb"smtpguard-(\d{1,10})-(\d{1,20})-\d{1,10}")
_numbers = itertools.count(1)
_UNKNOWN = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
"""What the kernel says of a field or list it does not know."""


class OwnRules:
    """The rules of this process.

    Args:
        control: The kernel's audit.
        uid: Only calls of this real uid are logged; None for everybody's.

    Attributes:
        key: What marks them: our name, process id and start time, and a number for each use within the process.
        unseen: What the kernel can't log by rules, for people.
        restored: How many rules somebody else took away and we put back.
    """

    def __init__(self, control: AuditControl, *, uid: int | None) -> None:
        self._control = control
        self._uid = uid
        pid = os.getpid()
        self.key = b"smtpguard-%d-%d-%d" % (pid, _read_start(pid) or 0, next(_numbers))
        self.unseen: list[str] = []
        self.restored = 0
        self._rules: list[bytes] = []

    def install(self) -> None:
        """Load ours, or none if one is refused. Raises SourceError."""
        try:
            self._load(by_family=True)
        except RefusedError as error:
            self.remove()
            if error.code not in _UNKNOWN:
                raise
            _log.warning("audit: this kernel can't tell families of addresses: local connects are logged too")
            try:
                self._load(by_family=False)
            except RefusedError:
                self.remove()
                raise

    def sweep(self) -> int:
        """Take away rules of instances that are no more; how many there were."""
        swept = 0
        for raw in self._control.list_rules():
            try:
                key = parse_rule(raw).key or b""
            except DecodeError:
                continue
            owner = _KEY.fullmatch(key)
            if owner and _read_start(int(owner[1])) != int(owner[2]):
                swept += self._control.delete_rule(raw)
        if swept:
            _log.info("audit: took away %d rules of an instance that is no more", swept)
        return swept

    def check(self) -> int:
        """Put back what somebody took away; how many rules that were. Raises SourceError."""
        if not self._rules:
            return 0
        there = set(self._control.list_rules())
        missing = [rule for rule in self._rules if rule not in there]
        for rule in missing:
            self._control.add_rule(rule)
        if missing:
            self.restored += len(missing)
            _log.warning("audit: somebody took away %d of our rules; they are back", len(missing))
        return len(missing)

    def remove(self) -> None:
        """Take ours away; may be called twice. Raises SourceError."""
        rules, self._rules = self._rules, []
        for rule in rules:
            self._control.delete_rule(rule)

    def find_obstacle(self) -> str | None:
        """A rule that keeps all others from working (`-a task,never`, which some distributions ship)."""
        for raw in self._control.list_rules():
            rule = parse_rule(raw)
            if rule.filter == FILTER_TASK and rule.action == ACTION_NEVER and not rule.fields:
                return "the rule '-a task,never' is loaded: no system call is logged"
        return None

    def others(self) -> set[bytes]:
        """The rules that are not ours."""
        return set(self._control.list_rules()).difference(self._rules)

    def _load(self, *, by_family: bool) -> None:
        self.unseen = []
        try:
            rules = connect_rules(platform.machine(), key=self.key, uid=self._uid, by_family=by_family)
        except DecodeError as error:
            raise SourceError(str(error), where="audit", fix="use another source") from error
        for rule in rules:
            raw = render_rule(rule)
            try:
                self._control.add_rule(raw)
            except RefusedError as error:
                if rule.filter != FILTER_URING_EXIT or error.code not in _UNKNOWN:
                    raise
                self.unseen = ["connects by io_uring (this kernel has no audit of it)"]
            else:
                self._rules.append(raw)


def _read_start(pid: int) -> int | None:
    """When a process was started, in ticks since the boot (proc_pid_stat(5), field 22); None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(text.rpartition(b")")[2].split()[19])
