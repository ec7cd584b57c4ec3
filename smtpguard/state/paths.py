"""Where a configuration says things are, as the parts want to be told."""

from pathlib import Path

from smtpguard.settings import Settings
from smtpguard.state.file_recovery import Paths


def state_paths(settings: Settings) -> Paths:
    """Where the state is and how large it may grow, for this boot."""
    return Paths(
        path=settings.state_path,
        keep_ns=settings.state_keep_ns,
        max_bytes=settings.state_max_bytes,
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(),
    )
