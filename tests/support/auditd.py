"""A real auditd for tests: unpacked, with a configuration and a log of its own, in a mount namespace of its own."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from smtpguard.sources.audit.control import AuditControl
from tests.servers import require

CONF = """\
local_events = yes
write_logs = yes
log_file = {log}
log_group = root
log_format = {form}
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 50
num_logs = 5
max_log_file_action = ROTATE
name_format = {name}
space_left = 2
space_left_action = IGNORE
admin_space_left = 1
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
plugin_dir = {plugins}
"""


class Auditd:
    """One auditd; the switch of auditing is not touched by it.

    Args:
        folder: Where its configuration and its log go.
        form: RAW or ENRICHED.
        name: HOSTNAME puts node= before each record, NONE does not.
    """

    def __init__(self, folder: Path, *, form: str = "RAW", name: str = "NONE") -> None:
        tree = require("auditd")
        self.log = folder / "log" / "audit.log"
        plugins = folder / "plugins.d"
        for made in (self.log.parent, plugins):
            made.mkdir(parents=True, mode=0o700)
        conf = folder / "auditd.conf"
        conf.write_text(CONF.format(log=self.log, form=form, name=name, plugins=plugins))
        conf.chmod(0o600)
        # Its pid file is /run/auditd.pid, whatever its configuration says.
        script = 'mount -t tmpfs none /run && exec "$@"'
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            str(tree.path("sbin/auditd")),
            "-n",
            "-s",
            "nochange",
        ]
        self.process = subprocess.Popen(
            [*command, "-c", str(folder)], env=tree.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        control = AuditControl()
        deadline = time.monotonic() + 10
        while control.read_status().pid != self.process.pid:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                assert self.process.stderr is not None
                pytest.skip(f"lacks a working auditd: {self.process.stderr.read()[-300:]!r}")
            time.sleep(0.01)
        control.close()

    def rotate(self) -> None:
        """Have it rotate its log."""
        self.process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End it as nobody should."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        """End it; may be called twice."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        with AuditdGone():
            pass


class AuditdGone:
    """Sees to it that the kernel knows that there is no auditd any more: it forgets a dead one at the next record."""

    def __enter__(self) -> None:
        control = AuditControl()
        try:
            status = control.read_status()
            if status.pid and not Path(f"/proc/{status.pid}").exists():
                control.set_status(enabled=status.enabled)  # makes a record
        finally:
            control.close()

    def __exit__(self, *error: object) -> None:
        del error


def hostname() -> str:
    """What auditd calls this node."""
    return os.uname().nodename
