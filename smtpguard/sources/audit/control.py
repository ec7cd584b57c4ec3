"""Asks the kernel's audit and tells it: status, rules. Thin: bytes are rendered and parsed in decode/netlink/audit.py.

Requests are answered at once by the kernel itself, in the caller's time; a second without an answer is an error.
"""

import errno
import os
import socket

from smtpguard.decode.netlink.audit import (
    AUDIT_ADD_RULE,
    AUDIT_DEL_RULE,
    AUDIT_GET,
    AUDIT_LIST_RULES,
    AUDIT_SET,
    AuditStatus,
    describe_refusal,
    parse_error,
    parse_status,
    render_request,
    render_status,
)
from smtpguard.decode.netlink.messages import NLMSG_DONE, NLMSG_ERROR, split_messages
from smtpguard.errors import DecodeError, PrivilegeError, SourceError

NETLINK_AUDIT = 9
_TIMEOUT_S = 2.0
_MAX_ANSWER = 1 << 16
_MAX_RULES = 100_000


class RefusedError(SourceError):
    """The kernel said no.

    Attributes:
        code: Its errno.
    """

    def __init__(self, what: str, *, code: int, fix: str | None = None) -> None:
        super().__init__(what, where="audit", fix=fix)
        self.code = code


class AuditControl:
    """A conversation with the kernel's audit. Raises SourceError where there is none to be had.

    Args:
        stand_in: What to talk to instead of the kernel.
    """

    def __init__(self, stand_in: socket.socket | None = None) -> None:
        self._sequence = 0
        try:
            self._socket = stand_in or socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_AUDIT
            )
        except OSError as error:
            raise SourceError(
                f"no audit in this kernel: {error.strerror}", where="audit", fix="use another source"
            ) from error
        self._socket.settimeout(_TIMEOUT_S)

    def close(self) -> None:
        """End it; may be called twice."""
        self._socket.close()

    def read_status(self) -> AuditStatus:
        """What state audit is in."""
        answers = self._ask(AUDIT_GET)
        if not answers:
            raise SourceError("audit did not tell its status", where="audit")
        try:
            return parse_status(answers[0])
        except DecodeError as error:
            raise SourceError(f"audit's status can't be read: {error}", where="audit") from error

    def set_status(
        self, *, enabled: int | None = None, backlog_limit: int | None = None, backlog_wait_time: int | None = None
    ) -> None:
        """Change what is not None."""
        payload = render_status(enabled=enabled, backlog_limit=backlog_limit, backlog_wait_time=backlog_wait_time)
        self._ask(AUDIT_SET, payload)

    def list_rules(self) -> list[bytes]:
        """All rules, as the bytes that would delete them."""
        return self._ask(AUDIT_LIST_RULES)

    def add_rule(self, rule: bytes) -> bool:
        """Load a rule; False if it was there already."""
        try:
            self._ask(AUDIT_ADD_RULE, rule)
        except RefusedError as error:
            if error.code == errno.EEXIST:
                return False
            raise
        return True

    def delete_rule(self, rule: bytes) -> bool:
        """Take a rule away; False if it was not there."""
        try:
            self._ask(AUDIT_DEL_RULE, rule)
        except RefusedError as error:
            if error.code == errno.ENOENT:
                return False
            raise
        return True

    def _ask(self, kind: int, payload: bytes = b"") -> list[bytes]:
        """Send a request; the payloads that answer it."""
        self._sequence += 1
        answers: list[bytes] = []
        acknowledged = False
        try:
            self._socket.send(render_request(kind, self._sequence, payload))
            # A list ends with NLMSG_DONE and may come before or after the acknowledgement; the rest end with it.
            while True:
                for message in split_messages(self._socket.recv(_MAX_ANSWER)):
                    if message.sequence != self._sequence:
                        continue  # an answer to a request that was given up
                    if message.type == NLMSG_ERROR:
                        self._check(kind, parse_error(message.body))
                        acknowledged = True
                    elif message.type == NLMSG_DONE:
                        return answers
                    elif len(answers) < _MAX_RULES:
                        answers.append(bytes(message.body))
                if acknowledged and kind != AUDIT_LIST_RULES and (answers or kind != AUDIT_GET):
                    return answers
        except TimeoutError:
            raise SourceError("audit does not answer", where="audit") from None
        except DecodeError as error:
            raise SourceError(f"audit's answer can't be read: {error}", where="audit") from error
        except OSError as error:
            self._check(kind, error.errno or errno.EIO)
            raise

    @staticmethod
    def _check(kind: int, code: int) -> None:
        if code == 0:
            return
        what, fix = describe_refusal(kind, code)
        if code == errno.EPERM and os.geteuid() != 0:
            raise PrivilegeError(what, where="audit", fix="CAP_AUDIT_CONTROL")
        raise RefusedError(what, code=code, fix=fix)
