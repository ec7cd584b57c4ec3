"""The panels that are known: what shows that one is there, and whose its files are. What reads them is elsewhere."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel.

    Attributes:
        name: For people; customer_reader.py has what reads it.
        watched: Paths whose change may have changed an account; the first of them shows that the panel is there.
        owner: The system account that its files may belong to, beside root; "" for none.
        has_command: Whether it is asked by its own command, which reads for itself.
    """

    name: str
    watched: tuple[str, ...]
    owner: str = ""
    has_command: bool = False

    @property
    def needs_reading(self) -> bool:
        """Whether it reads files that are not root's: those of its own account, and of how to get into a database."""
        return self.owner != "" or self.has_command


PANELS = (
    Panel("cPanel", ("var/cpanel/users", "etc/userdomains")),
    Panel("Plesk", ("usr/sbin/plesk",), has_command=True),
    Panel(
        "DirectAdmin",
        ("usr/local/directadmin/data/users", "usr/local/directadmin/data/admin/reseller.list"),
        owner="diradmin",
    ),
    Panel("HestiaCP", ("usr/local/hestia/data/users",)),
    Panel("Virtualmin", ("etc/webmin/virtual-server/domains", "etc/webmin/virtual-server/plans")),
)
Signature = tuple[tuple[int, ...] | None, ...]


def find_panel(root: Path = Path("/")) -> Panel | None:
    """The panel of this host; None if there is none that is known. Five calls of stat(2)."""
    return next((panel for panel in PANELS if _read_signature(_join(root, panel.watched[0])) is not None), None)


def read_signature(panel: Panel, root: Path = Path("/")) -> Signature:
    """What changes when accounts come and go, and with some panels whenever they change."""
    return tuple(_read_signature(_join(root, path)) for path in panel.watched)


def _join(root: Path, path: str) -> str:
    # Not by pathlib: it interns each part for as long as a path lives, so that, some thousand looks later, the
    # interpreter's table of such names is made anew at twice its size: half a megabyte.
    return os.path.join(root, path)  # noqa: PTH118


def _read_signature(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - every two seconds
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
