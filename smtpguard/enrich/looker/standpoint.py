"""Where a process tells its paths from: a tenant can lay files over anybody's in a mount namespace of their own.

Such a path is marked (`foreign-mntns:/home/web02/x.php`) unless the host has the very same file there, by device and
inode. A mount namespace that root made (CageFS, systemd's PrivateTmp, runc) is not foreign: its owner is our own user
namespace, and nobody else could lay anything over anything (user_namespaces(7), ioctl_nsfs(2)). Below a root of its own
(chroot(2)) a path is marked if the host has another file there. A script that only the process itself names, and that
is another user's file, is marked with whose it is. Only workers call this.
"""

import fcntl
import functools
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from smtpguard.enrich.looker.evidence import Evidence, NamedFile
from smtpguard.enrich.looker.procfs import Process
from smtpguard.enrich.looker.protocol import Attribution
from smtpguard.enrich.looker.rooted_files import is_path, open_in_root

FOREIGN_MOUNTS, OWN_ROOT = b"foreign-mntns:", b"own-root:"
_NS_GET_USERNS = 0xB701
_LINE = re.compile(rb":\d+\Z")
_DELETED = b" (deleted)"
File = tuple[int, int]


def is_foreign(process: Process) -> bool:
    """Whether somebody else than our own root made the mount namespace or the root of a process. Can't hang."""
    own, mounts = _read_own(os.getpid())
    if own is None:
        return False
    if process.link(b"ns/mnt") != mounts and _read_owner(process) not in (None, own):
        return True
    # chroot(2) needs no mount namespace, only a user namespace in which one is root.
    return process.link(b"ns/user") not in (None, own) and process.link(b"root") not in (None, b"/")


@functools.cache
def _read_own(pid: int) -> tuple[bytes | None, bytes | None]:
    """Our own user and mount namespace, in which we stay; asked for each ancestor of each process."""
    with Process(pid) as we:
        return we.link(b"ns/user"), we.link(b"ns/mnt")


def _ourselves() -> Process:
    """The host as the guard sees it."""
    return Process(os.getpid())


def _read_owner(process: Process) -> bytes | None:
    """The user namespace that owns a process's mount namespace; None if it is not below ours, or nobody can say."""
    try:
        mounts = process.open(b"ns/mnt")
        try:
            owner = fcntl.ioctl(mounts, _NS_GET_USERNS)
        finally:
            os.close(mounts)
    except OSError:
        return None
    try:
        return b"user:[%d]" % os.fstat(owner).st_ino
    finally:
        os.close(owner)


@dataclass(slots=True)
class Marks:
    """What is put before paths that are not what they seem.

    Attributes:
        foreign: Whether no path holds on the host unless it was compared.
        foreign_parents: Pids of ancestors of which the same is true.
    """

    foreign: bool = False
    foreign_parents: set[int] = field(default_factory=set)
    _compared: dict[bytes, bytes] = field(default_factory=dict)

    def look(self, process: Process) -> None:
        """Where the process stands. Can't hang."""
        self.foreign = self.foreign or is_foreign(process)

    def compare(self, process: Process, found: Attribution, uids: Collection[int]) -> None:
        """Compare what the process tells with what the host has there. Can hang for ever.

        Args:
            process: It.
            found: What it told.
            uids: Whose scripts it may name.
        """
        self.look(process)  # it may have gone there meanwhile, and there is no way back
        for name, path in ((b"exe", found.exe), (b"cwd", found.cwd)):
            if path is not None and self.foreign:
                self._judge(path, _identify(process.file(name)))
        if found.script is None:
            return
        path = _LINE.sub(b"", found.script)
        if self.foreign or process.link(b"root") not in (None, b"/"):
            self._judge(path, find_file(process, path))
        if not self._compared.get(path) and (found.attr == "guess" or not found.stack):
            owner = _find_owner(process, path)
            if owner is not None and owner not in (0, *uids) and 0 not in uids:
                self._compared[path] = b"of-uid-%d:" % owner

    def compare_files(self, process: Process, files: Collection[NamedFile], root: bytes | None) -> None:
        """The same for files that were looked at. Can hang for ever."""
        if self.foreign:
            for path in (*(file.path for file in files), *([root] if root is not None else [])):
                if path not in self._compared:
                    self._judge(path, find_file(process, path))

    def _judge(self, path: bytes, theirs: File | None) -> None:
        path = path.removesuffix(_DELETED)
        with _ourselves() as we:
            ours = find_file(we, path)
        if self.foreign:
            self._compared[path] = b"" if theirs is not None and theirs == ours else FOREIGN_MOUNTS
        elif ours is not None and ours != theirs:
            self._compared[path] = OWN_ROOT

    def on(self, path: bytes | None) -> bytes | None:
        """A path with its mark."""
        if path is None:
            return None
        mark = self._compared.get(_LINE.sub(b"", path).removesuffix(_DELETED))
        return (FOREIGN_MOUNTS if self.foreign else b"") + path if mark is None else mark + path

    def on_attribution(self, found: Attribution) -> Attribution:
        """An answer with its marks."""
        return replace(
            found,
            exe=self.on(found.exe),
            cwd=self.on(found.cwd),
            script=self.on(found.script),
            chain=tuple(
                replace(a, exe=FOREIGN_MOUNTS + a.exe) if a.exe is not None and a.pid in self.foreign_parents else a
                for a in found.chain
            ),
        )

    def on_evidence(self, evidence: Evidence) -> Evidence:
        """A bundle with its marks."""
        return replace(
            evidence,
            found=self.on_attribution(evidence.found),
            files=tuple(replace(file, path=self.on(file.path) or b"") for file in evidence.files),
            newest=tuple(replace(file, path=self.on(file.path) or b"") for file in evidence.newest),
            root=self.on(evidence.root),
        )


def find_file(process: Process, path: bytes) -> File | None:
    """Device and inode of what a path names in a process's root; None if there is nothing. Can hang for ever."""
    found = _stat_in_root(process, path)
    return None if found is None else _identify(found)


def _find_owner(process: Process, path: bytes) -> int | None:
    found = _stat_in_root(process, path)
    return None if found is None or not stat.S_ISREG(found.st_mode) else found.st_uid


def _stat_in_root(process: Process, path: bytes) -> os.stat_result | None:
    if not is_path(path) and path != b"/":
        return None
    try:
        fd = open_in_root(process, path)
    except OSError:
        return None
    try:
        return os.fstat(fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def _identify(found: os.stat_result | None) -> File | None:
    return None if found is None else (found.st_dev, found.st_ino)
