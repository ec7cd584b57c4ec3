"""The errors smtpguard raises on purpose: each says what failed, where, and what to do about it.

Everything else that escapes is a bug. Exit codes are the command line's business (cli/), one per class.
"""

UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What is raised where values from outside (rows of a file, an answer) are of another kind; and by mistakes of ours."""


class GuardError(Exception):
    """Base of all errors that a person may meet.

    Args:
        what: What is wrong, in one sentence, without the place.
        where: File and line, device, table or command it concerns; None if there is no such place.
        fix: What the reader can do; None if nothing is known to help.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" ({self.fix})" if self.fix else ""
        return f"{place}{self.what}{advice}"


class ConfigError(GuardError):
    """The configuration is wrong: exit 78. Nothing was started."""


class DecodeError(GuardError):
    """Bytes that are not what the format says. Decoders let no other error out."""


class SourceError(GuardError):
    """A sensor can't be opened or has died; the next one may be tried."""


class EnforceError(GuardError):
    """The kernel refused a change that was to stop or free somebody."""


class StateError(GuardError):
    """The state file can't be used; the guard goes on without it."""


class LogError(GuardError):
    """The event log can't be opened or written; the guard goes on and counts what it could not write."""


class PolicyError(GuardError):
    """What was asked for would hit whom nothing may hit: root, or an exempt account without force."""


class PrivilegeError(GuardError):
    """A capability is lacking: exit 4. `fix` names it."""


class ThreadError(GuardError):
    """The system gives no thread now; it may in the next moment."""


class UnansweredError(GuardError):
    """A name could not be looked up: nobody has said yet, or can say, whether there is such a user or group.

    Args:
        what, where, fix: As GuardError.
        is_pending: Whether the answer may still come: it was asked for and nobody waited any longer.
    """

    def __init__(
        self, what: str, *, where: str | None = None, fix: str | None = None, is_pending: bool = False
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.is_pending = is_pending


class AmbiguousUserError(GuardError):
    """What was meant for one user names two. Nothing was done."""


class NoDaemonError(GuardError):
    """Nobody answers at the control socket: exit 3."""


class BusyError(GuardError):
    """Another instance already guards this table in this network namespace."""
