"""Tells fail2ban that a person let a user go: `fail2ban-client set JAIL unbanip USER`, see fail2ban-client(1).

Without it fail2ban would go on listing the user as banned, and the next verdict would not ban them again. fail2ban then
runs its action, `smtpguard unblock --source fail2ban:JAIL`, which ends only that source's block and never comes back
here: no loop. Never on the verdict path and never waited for: one client at a time, as a part of the daemon's loop,
because the action asks this same daemon and must be answered meanwhile.
"""

import logging
import os
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smtpguard.errors import EnforceError
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.text import render_escaped

if TYPE_CHECKING:
    import subprocess

log = logging.getLogger(__name__)

PROGRAM = "fail2ban-client"
TIMEOUT_NS = 20 * NS
"""fail2ban runs its actions before it answers; one of ours takes about 0.2 s, but a busy server has others to run."""
_RECENT_NS = 15 * 60 * NS
MAX_WAITING = 1000
"""How many unbans may wait: an `unblock --all` of a bad day, in about 4 minutes."""
_MAX_OUTPUT = 4096
_REAP_NS = NS // 50
_SOURCE = re.compile(r"fail2ban:([A-Za-z0-9_.-]{1,64})")
# A failure id: a name as `smtpguard.text.render_user` writes it, or what a person typed after `banip`. It can't be an
# option, nor a network that contains others.
_USER = re.compile(r"uid:\d{1,10}|[A-Za-z0-9_.%][A-Za-z0-9_.@+%\\-]{0,254}")
# fail2ban up to 0.11 fails when there is nothing to unban.
_NOT_BANNED = b"is not banned"


def parse_jail(source: str) -> str | None:
    """The jail of a block's source `fail2ban:JAIL`; None for any other source."""
    found = _SOURCE.fullmatch(source)
    return found[1] if found else None


def build_argv(jail: str, user: str, *, program: str = PROGRAM) -> list[str]:
    """The command that unbans a user in one jail.

    Args:
        jail: Name of the jail.
        user: What the jail calls the user, the failure id: a name as in the event log, `uid:N`, or what a person typed.
        program: fail2ban-client, or where it is.

    Raises:
        EnforceError: Either is not what it has to be.
    """
    if parse_jail(f"fail2ban:{jail}") is None or not _USER.fullmatch(user):
        raise EnforceError(f"can't be unbanned: {render_escaped(user.encode(errors='replace'))}", where="fail2ban")
    return [program, "set", jail, "unbanip", user]


def apply_unban(jail: str, user: str, *, program: str = PROGRAM, timeout_s: float = TIMEOUT_NS / NS) -> None:
    """Unban a user in one jail and wait for it; for commands that work without the daemon.

    Raises:
        EnforceError: fail2ban is not there, does not run, or refused; it goes on listing the user.
    """
    import subprocess  # with the first one to tell: it brings 0.5 MB that few guards need

    argv = build_argv(jail, user, program=program)
    try:
        done = subprocess.run(
            argv,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _failure(jail, user, f"no answer within {timeout_s:.0f} s") from None
    except OSError as error:
        raise _failure(jail, user, str(error.strerror)) from error
    if (complaint := _complaint(done.returncode, done.stdout[-_MAX_OUTPUT:])) is not None:
        raise _failure(jail, user, complaint)


@dataclass(slots=True, kw_only=True)
class _Running:
    """The client at work."""

    jail: str
    user: str
    process: "subprocess.Popen[bytes]"
    deadline_ns: int
    output: bytes = b""
    ended: bool = False


class Unbanner:
    """Unbans users one after another, as a part of the daemon's loop.

    Args:
        now: CLOCK_BOOTTIME in nanoseconds.
        program: fail2ban-client, or where it is.
        timeout_ns: How long one client may take before it is ended.
        max_waiting: How many may wait; further ones are dropped, counted and logged.
    """

    def __init__(
        self,
        now: ClockNs,
        *,
        program: str = PROGRAM,
        timeout_ns: int = TIMEOUT_NS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._now = now
        self._program = program
        self._timeout_ns = timeout_ns
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[str, str]] = deque()
        self._running: _Running | None = None
        self._counts = {"told": 0, "failed": 0, "dropped": 0}
        self._untold: dict[tuple[str, str], tuple[int, str]] = {}

    def tell(self, sources: Sequence[str], user: str) -> int:
        """Unban a user in the jails among the sources whose blocks a person has just ended.

        Args:
            sources: Sources of those blocks; only `fail2ban:JAIL` are meant.
            user: The user as the event log writes them.

        Returns:
            In how many jails the user will be unbanned.
        """
        accepted = 0
        for jail in dict.fromkeys(filter(None, map(parse_jail, sources))):
            if (jail, user) in self._waiting:
                continue
            if len(self._waiting) >= self._max_waiting:
                self._fail(jail, user, "too many are waiting", count="dropped")
                continue
            self._waiting.append((jail, user))
            accepted += 1
        self._start_next()
        return accepted

    def stats(self) -> dict[str, int]:
        """Figures for `status`: told, failed and dropped since the start, and waiting now."""
        return self._counts | {"waiting": len(self._waiting) + (self._running is not None)}

    def trouble(self) -> str | None:
        """Who is listed as banned still though a person has freed them, of late; None for nobody."""
        since_ns = self._now() - _RECENT_NS
        late = [what for at_ns, what in self._untold.values() if at_ns > since_ns]
        more = f", and {len(late) - 1} more" if len(late) > 1 else ""
        return f"{late[-1]}{more}" if late else None

    def filenos(self) -> Sequence[int]:
        """The client's output."""
        running = self._running
        if running is None or running.ended or running.process.stdout is None:
            return ()
        return (running.process.stdout.fileno(),)

    def on_ready(self, fileno: int) -> None:
        """Read what the client says; an end of output is the end of the client."""
        running = self._running
        if running is None:
            return
        piece = os.read(fileno, _MAX_OUTPUT)
        running.output = (running.output + piece)[-_MAX_OUTPUT:]
        if not piece:
            running.ended = True
            self._finish()

    def next_deadline(self) -> int | None:
        """When the client has taken too long, or can be reaped."""
        running = self._running
        if running is None:
            return None
        return min(running.deadline_ns, self._now() + _REAP_NS) if running.ended else running.deadline_ns

    def on_time(self, now_ns: int) -> None:
        """Take the result of a client that has ended, end one that takes too long."""
        if self._running is not None and self._running.ended:
            self._finish()
        if self._running is not None and now_ns >= self._running.deadline_ns:
            self._abandon(f"no answer within {self._timeout_ns / NS:.0f} s")
            self._start_next()

    def close(self) -> None:
        """End the client at work and forget who waits: those stay listed in fail2ban."""
        if self._waiting:
            log.warning("fail2ban: %d users stay listed as banned, the guard stops", len(self._waiting))
        self._counts["dropped"] += len(self._waiting)
        self._waiting.clear()
        if self._running is not None:
            self._abandon("the guard stops")

    def _start_next(self) -> None:
        if self._running is not None or not self._waiting:
            return
        import subprocess

        while self._running is None and self._waiting:
            jail, user = self._waiting.popleft()
            try:
                process = subprocess.Popen(
                    build_argv(jail, user, program=self._program),
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                self._fail(jail, user, str(error.strerror))
                continue
            except EnforceError as error:
                self._fail(jail, user, error.what)
                continue
            self._running = _Running(jail=jail, user=user, process=process, deadline_ns=self._now() + self._timeout_ns)

    def _finish(self) -> None:
        """Take the result of a client that closed its output, once the kernel has it."""
        running = self._running
        if running is None or (code := running.process.poll()) is None:
            return
        self._release(running)
        if (complaint := _complaint(code, running.output)) is not None:
            self._fail(running.jail, running.user, complaint)
        else:
            self._counts["told"] += 1
            self._untold.pop((running.jail, running.user), None)
            log.info("fail2ban: %s unbanned in %s", running.user, running.jail)
        self._start_next()

    def _abandon(self, why: str) -> None:
        running = self._running
        if running is None:
            return
        running.process.kill()
        running.process.wait()
        self._release(running)
        self._fail(running.jail, running.user, why)

    def _release(self, running: _Running) -> None:
        if running.process.stdout is not None:
            running.process.stdout.close()
        self._running = None

    def _fail(self, jail: str, user: str, why: str, *, count: str = "failed") -> None:
        self._counts[count] += 1
        failure = str(_failure(jail, user, why))
        if len(self._untold) >= MAX_WAITING:
            self._untold.clear()
        self._untold[jail, user] = self._now(), failure
        log.warning("%s", failure)


def is_installed(program: str = PROGRAM) -> bool:
    """Whether there is a fail2ban to tell."""
    import shutil

    return shutil.which(program) is not None


def _complaint(code: int, output: bytes) -> str | None:
    """Why a client failed, escaped; None if the user is not banned any more."""
    if code == 0 or _NOT_BANNED in output:
        return None
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else b"exit code %d" % code
    return " ".join(render_escaped(word, max_bytes=80) for word in last.split()[:30])


def _failure(jail: str, user: str, why: str) -> EnforceError:
    shown = render_escaped(user.encode(errors="replace"))
    return EnforceError(
        f"still lists {shown} as banned in {render_escaped(jail.encode(errors='replace'))}: {why}",
        where="fail2ban",
        fix=f"fail2ban-client set {jail} unbanip {shown}",
    )


def _environment() -> dict[str, str]:
    """Only what a client needs to find its interpreter."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
