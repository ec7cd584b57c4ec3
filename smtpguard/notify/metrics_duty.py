"""The file of figures for node_exporter: renewed with each snapshot of the daemon, removed at the end.

prometheus-client is loaded where such a file is wanted, and in this process alone: it costs some 10 MB.
"""

import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Any, Protocol

from smtpguard.control.listener import read_gid
from smtpguard.daemon.outlet.frames import HelperSettings
from smtpguard.errors import GuardError
from smtpguard.notify.metric_families import PREFIX
from smtpguard.notify.text_file import TextFile
from smtpguard.text import render_count

log = logging.getLogger(__name__)

OPEN_MODE, GROUP_MODE = 0o644, 0o640
"""Without and with figures of users: every tenant could read their neighbours' else."""


class Outbox(Protocol):
    """What this process has sent, and has still to send."""

    @property
    def totals(self) -> Mapping[tuple[str, str, str], int]:
        """Notifications by kind, channel and result."""
        ...

    def count_waiting(self) -> int:
        """Messages that wait to be sent."""
        ...


class BlockLists(Protocol):
    """Knows where this host is listed."""

    def list_series(self) -> tuple[list[list[Any]], list[list[Any]]]:
        """List, address and whether it is listed; list and whether it could be asked."""
        ...


class MetricsDuty:
    """Writes it.

    Args:
        outbox: What else is shown; None where nothing is sent.
        lists: Where this host is listed; None where nobody asks.
    """

    name = "metrics"

    def __init__(self, outbox: Outbox | None = None, lists: BlockLists | None = None) -> None:
        self._outbox = outbox
        self._lists = lists
        self._file: TextFile | None = None
        self._group: str | None = None
        self._shows_users = False
        self._written = 0
        self._taken = 0
        self._trouble: str | None = None

    def configure(self, settings: HelperSettings) -> None:
        """Take settings: another path begins another file."""
        values = settings.values
        path = values.get("metrics_textfile")
        if self._file is not None and self._file.path != path:
            self.close()
        if path is not None and self._file is None:
            self._file = TextFile(path, begin=f"# HELP {PREFIX}".encode("ascii"))
        self._shows_users = bool(values.get("metrics_users"))
        self._group = values.get("metrics_group")

    def take(self, kind: str, content: Any) -> None:  # noqa: ANN401 - JSON values
        """Write a snapshot down."""
        if kind != "snapshot" or self._file is None:
            return
        from smtpguard.notify.metrics_text import render_metrics

        self._taken += 1
        outbox = self._outbox
        sent = {} if outbox is None else outbox.totals
        spools = {"notifications": 0 if outbox is None else outbox.count_waiting()}
        try:
            mode, gid = OPEN_MODE, None
            if self._shows_users:
                mode, gid = GROUP_MODE, read_gid(self._group or "root", "metrics.group")
            listed = ([], []) if self._lists is None else self._lists.list_series()
            self._file.write(render_metrics(content, sent=sent, spools=spools, listed=listed), mode=mode, gid=gid)
        except GuardError as error:
            if str(error) != self._trouble:
                log.error("the file of metrics is not written: %s", error)  # noqa: TRY400 - one line for people
            self._trouble = str(error)
        else:
            self._written += 1
            self._trouble = None

    def next_due_s(self) -> float | None:
        """Never: it works when a snapshot comes."""
        return None

    def on_time(self, now_s: float) -> None:
        """Nothing is due."""

    def report(self) -> Mapping[str, Any]:
        """How it fares, with this process's memory."""
        if self._file is None:
            return {}
        text = f"{self._file.path} written {render_count(self._written, 'time')}, {_read_memory_mb():.1f} MB"
        troubles = [] if self._trouble is None else [f"the file of metrics: {self._trouble}"]
        return {"text": text, "troubles": troubles, "written": self._written, "taken": self._taken}

    def close(self) -> None:
        """The file goes: figures of a guard that is no more look like those of one that stands still."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(GuardError):
                file.remove()


def _read_memory_mb() -> float:
    """What this process has resident, see proc(5)."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - short
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
