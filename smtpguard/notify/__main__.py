"""`python -P -m smtpguard.notify FD`: the notifying process, started by the daemon (daemon/outlet/helper_process.py).

It stays uid 0, as the secrets and its file are root's, but without one capability: that is a uid like any other.
"""

import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path

_CAPABILITIES = frozenset({"CHOWN"})
"""Giving the file of figures to its group; the daemon has it only where it is wanted, and nothing more is gained."""
_MAX_FILES = 256
_MAX_DATA = 512 << 20
_STEADY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


def apply_rights() -> None:
    """Give up what the daemon has and this process does not need: capabilities, its place before others."""
    from smtpguard.kernel.capabilities import apply_capabilities

    apply_capabilities(_CAPABILITIES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_DATA, _MAX_DATA))
    files = min(_MAX_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("0", "ascii")
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("sg-notify", "ascii")


def main() -> None:
    """Serve until the daemon closes its end."""
    for number in _STEADY:  # a terminal's ^C and systemd's SIGTERM reach the whole group; the daemon decides
        signal.signal(number, signal.SIG_IGN)
    apply_rights()
    from smtpguard.notify.duties import make_duties
    from smtpguard.notify.helper import NotifyHelper
    from smtpguard.text import render_escaped, to_bytes

    class OneLine(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            text = super().format(record).replace("\n", " ")
            return " ".join(render_escaped(to_bytes(word), max_bytes=4096) for word in text.split(" "))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    code = 1
    try:
        NotifyHelper(socket.socket(fileno=int(sys.argv[1])), make=make_duties).run()
        code = 0
    finally:
        os._exit(code)  # threads that wait for somebody far away are waited for by nobody


main()
