"""Whether the file of metrics can be written where the configuration wants it, and is read from there."""

import os
from collections.abc import Iterator
from pathlib import Path

from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.errors import ConfigError
from smtpguard.safe_files import open_directory


def check_metrics(host: ExaminedHost) -> Iterator[Finding]:
    """The directory of node_exporter's textfile collector."""
    name = "metrics"
    path = host.settings.metrics_textfile
    if path is None:
        yield Finding(name=name, level="ok", found="not wanted (metrics.textfile: null)")
        return
    trouble = find_textfile_trouble(path)
    if trouble is None:
        yield Finding(name=name, level="ok", found=path)
        return
    means = "Prometheus gets no figures; guarding goes on"
    yield Finding(name=name, level="bad", found=str(trouble), means=means, fix=trouble.fix or "")


def find_textfile_trouble(path: str) -> ConfigError | None:
    """Why the notifying process, which is root without its capabilities, can't put a file there; None if it can.

    Args:
        path: The file.
    """
    directory = str(Path(path).parent)
    try:
        descriptor = open_directory(directory, error=ConfigError)
    except ConfigError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return ConfigError(
                "not accessible: No such file or directory", where=directory, fix=f"install -d -m 0755 {directory}"
            )
        return error
    try:
        owner = os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
    if owner not in (0, os.geteuid()):
        return ConfigError(
            f"belongs to uid {owner}: root may not write there", where=directory, fix=f"chown root {directory}"
        )
    return None
