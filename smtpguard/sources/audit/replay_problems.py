"""What of a file was not read by replay, and what to use in its place."""

import os
import re
from dataclasses import dataclass

from smtpguard.decode.audit.forms import INTERPRETED, JOURNAL_TEXT, MIXED, REPORT, WIDE
from smtpguard.errors import SourceError

USE_RAW = "ausearch --raw where auditd runs, else journalctl _TRANSPORT=audit -o json"
UNREADABLE_FORMS = {
    INTERPRETED: ("is interpreted (ausearch -i), which can't be joined", USE_RAW),
    JOURNAL_TEXT: ("is journald's text, which can't be joined", USE_RAW),
    REPORT: ("is a report (ausearch --format csv or text), which can't be joined", USE_RAW),
    MIXED: ("changes its form: some lines were not read", "name the files that were put together, each by itself"),
    WIDE: ("is UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | smtpguard replay -"),
}
NO_ADDRESS = "holds SYSCALL records of connect() without the SOCKADDR records that say where to"
NO_RECORD = "holds no audit record"
CUT = "ends within a record, whose connection may be missing"
_WHOLE = re.compile(
    rb"type=SYSCALL .* key=|type=SOCKADDR .*saddr=(?:0200[0-9A-F]{28}|0A00[0-9A-F]{52}|(?!0200|0A00)[0-9A-F]+)"
)
"""As much of a record as replay needs: SYSCALL ends with its key, addresses have the length of their family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayProblem:
    """What of a file was not read.

    Attributes:
        file: Its name; `-` for standard input.
        problem: What is wrong with it.
        use: What to use instead; None if nothing is known.
    """

    file: str
    problem: str
    use: str | None


_FIXES: dict[type[OSError], str] = {
    IsADirectoryError: "name files, not directories",
    PermissionError: "run as root",
}
"""What to do where a file can't be opened."""


def is_cut(line: bytes) -> bool:
    """Whether a line without its end is a record of which something is missing."""
    return (b"type=SYSCALL " in line or b"type=SOCKADDR " in line) and not _WHOLE.search(line)


def unreadable_error(path: str, error: Exception) -> SourceError:
    """What to say of a file that can't be read."""
    if isinstance(error, OSError) and error.errno is not None:
        fix = next((text for kind, text in _FIXES.items() if isinstance(error, kind)), None)
        if isinstance(error, FileNotFoundError) and path.startswith("/var/log/audit/"):
            fix = "without auditd: journalctl _TRANSPORT=audit -o json | smtpguard replay -"
        return SourceError(f"can't be read: {os.strerror(error.errno)}", where=path, fix=fix)
    return SourceError(f"is damaged or cut short: {error}", where=path, fix="unpack what can be saved and replay that")
