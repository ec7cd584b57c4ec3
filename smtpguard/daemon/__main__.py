"""`python -m smtpguard.daemon FD`: the daemon itself, started by `smtpguard run` (see startup/handoff.py)."""

import faulthandler
import logging
import sys

from smtpguard.daemon.startup.late_modules import load_late

load_late()  # before anything imports dataclasses

from smtpguard.text import render_escaped, to_bytes  # noqa: E402

_INTERRUPTED = 130


class Escaped(logging.Formatter):
    """Diagnostics carry tenants' text too: one line each, nothing that drives a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, each word escaped."""
        lines = super().format(record).splitlines()
        return "\n".join(" ".join(render_escaped(to_bytes(w), max_bytes=4096) for w in x.split(" ")) for x in lines)


def main() -> int:
    """Run until a signal; the exit code of CONTRACT."""
    try:
        return _run()
    except KeyboardInterrupt:  # Ctrl-C before the guard listens to signals: it has done nothing yet
        return _INTERRUPTED


def _run() -> int:
    # Here and not above: reading these takes most of the time in which Ctrl-C would end in a traceback.
    from smtpguard.daemon.service import serve
    from smtpguard.daemon.startup.handoff import receive
    from smtpguard.errors import GuardError, PrivilegeError

    settings, start = receive(int(sys.argv[1]))
    # A hang that the service manager's watchdog ends (SIGABRT), or a crash, says where it happened.
    faulthandler.enable()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Escaped("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if start.verbose else logging.INFO, handlers=[handler])
    try:
        serve(settings, start)
    except GuardError as error:
        sys.stderr.write(f"smtpguard: {error}\n")
        return 4 if isinstance(error, PrivilegeError) else 1
    return 0


sys.exit(main())
