"""The real daemon, in which a test can break parts: `python broken_daemon.py DIRECTORY --config F`.

While DIRECTORY/NAME exists, the part of that name raises; `ensure`, `remove` and `release` as the kernel would refuse
them; `threads` are all that would be started. The supervision loses its patience sooner.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

from smtpguard.actions.logfile import LogFile
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.daemon import supervision
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.serve.handlers import Handlers
from smtpguard.errors import EnforceError
from smtpguard.policy.engine import Engine
from tests.support.own_daemon import run_daemon


def make_breakable(kind: type, method: str, path: Path, error: type[Exception] = RuntimeError) -> None:
    """Have a method raise while a file is there."""
    sound = getattr(kind, method)

    def call(self: object, *words: Any, **more: Any) -> object:  # noqa: ANN401 - whatever it takes
        if path.exists():
            raise error(f"{path.name} is broken")
        return sound(self, *words, **more)

    setattr(kind, method, call)


def break_a_thread(path: Path) -> None:
    """A thread of the daemon's that ends when a file comes."""
    while not path.exists():
        time.sleep(0.05)
    raise RuntimeError(f"{path.name} is broken")


def main() -> int:
    """Run until a signal."""
    directory, _, config = sys.argv[1:4]
    for name, kind, method in (
        ("journal", Journal, "on_time"),
        ("feed", Engine, "feed"),
        ("tick", Engine, "tick"),
        ("enforcement", Enforcement, "on_time"),
        ("blocks", Handlers, "_blocks"),
        ("write", LogFile, "write"),
    ):
        make_breakable(kind, method, Path(directory) / name)
    for name, method in (
        ("ensure", "ensure"),
        ("remove", "remove"),
        ("release", "apply_release"),
        ("passes", "apply_exemptions"),
        ("beat", "beat"),
        ("clear", "clear_everywhere"),
        ("clear", "clear_all"),
    ):
        make_breakable(NftEnforcer, method, Path(directory) / name, EnforceError)
    make_breakable(threading.Thread, "start", Path(directory) / "threads")
    supervision.WELL_NS //= 10
    supervision.LAST_NS //= 30
    errand = threading.Thread(target=break_a_thread, args=[Path(directory) / "errand"], name="errand", daemon=True)
    return run_daemon(config, errand.start)


if __name__ == "__main__":
    sys.exit(main())
