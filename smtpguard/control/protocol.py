"""What goes over the control socket: one JSON object a line, both ways. Pure, and light to import: `status` uses it.

Request: {"verb": "block", ...}. Answer: {"ok": true, ...}, or {"ok": false, "error": {"what", "where", "fix", "code"}}.
A long answer has several lines: all but the last carry "more": true, and the lists named "items" belong together. A
stream begins with {"ok": true, "stream": true}; then every line is an item, or {"dropped": N} for N lost ones.
"""

import json
from typing import Any

from smtpguard.errors import (
    BusyError,
    ConfigError,
    DecodeError,
    EnforceError,
    GuardError,
    LogError,
    NoDaemonError,
    PrivilegeError,
    SourceError,
    StateError,
    UnansweredError,
)

MAX_REQUEST_BYTES = 65_536
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""What a client takes of one answer, all lines together."""

Json = dict[str, Any]

_CODES: dict[str, type[GuardError]] = {
    "failed": GuardError,
    "config": ConfigError,
    "request": DecodeError,
    "source": SourceError,
    "enforce": EnforceError,
    "state": StateError,
    "log": LogError,
    "privilege": PrivilegeError,
    "no-daemon": NoDaemonError,
    "busy": BusyError,
    "unanswered": UnansweredError,
}
_CLASSES = {error: code for code, error in _CODES.items()}


def render_line(value: Json) -> bytes:
    """One line; ASCII, so that a terminal that shows it is not driven by it."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def render_error(error: GuardError) -> Json:
    """The answer that tells of an error."""
    code = next(_CLASSES[cls] for cls in type(error).__mro__ if cls in _CLASSES)
    return {"ok": False, "error": {"what": error.what, "where": error.where, "fix": error.fix, "code": code}}


def parse_error(answer: Json) -> GuardError:
    """The error of an answer that is not ok, as the class its code stands for."""
    told = answer.get("error")
    if not isinstance(told, dict):
        return GuardError("the daemon failed without saying why")
    where, fix = told.get("where"), told.get("fix")
    return _CODES.get(str(told.get("code")), GuardError)(
        str(told.get("what")),
        where=None if where is None else str(where),
        fix=None if fix is None else str(fix),
    )


def parse_line(line: bytes) -> Json:
    """One object.

    Raises:
        DecodeError: It is not one.
    """
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DecodeError("not a line of JSON") from error
    if not isinstance(value, dict):
        raise DecodeError("not a JSON object")
    return value


def parse_request(line: bytes) -> tuple[str, Json]:
    """The verb and its arguments.

    Raises:
        DecodeError: It is no request.
    """
    args = parse_line(line)
    verb = args.pop("verb", None)
    if not isinstance(verb, str):
        raise DecodeError('a request without a "verb"')
    return verb, args


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
