"""A file that is read as a whole, by another program or a later run: renamed over, never half written.

The directory of one for another program may belong to a system account, as Debian's does above node_exporter's own
(prometheus): whoever that is may put links of their own there, and none of them is followed.
"""

import contextlib
import errno
import os
import stat

from smtpguard.errors import GuardError
from smtpguard.safe_files import open_directory

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class TextFileError(GuardError):
    """The file can't be written; it is tried again with the next figures."""


class TextFile:
    """The file.

    Args:
        path: Absolute.
        begin: How each content begins: a file that begins otherwise is somebody else's, and stays as it is.
    """

    def __init__(self, path: str, *, begin: bytes) -> None:
        self.path = path
        self._directory, self._name = os.path.split(path)
        self._begin = begin
        self._is_ours = False

    def write(self, content: bytes, *, mode: int, gid: int | None = None) -> None:
        """Put a content in its place, in one step.

        Args:
            content: All of it.
            mode: Permissions, whatever the umask.
            gid: Group; None for this process's.

        Raises:
            TextFileError: It can't be; what was there before is there still.
        """
        directory = open_directory(self._directory, error=TextFileError)
        try:
            if not self._is_ours:
                self._check_owner(directory)
            replace_file(self._name, content, directory=directory, mode=mode, gid=gid)
            self._is_ours = True
        except OSError as failure:
            raise TextFileError(
                f"can't be written: {failure.strerror}", where=self.path, fix=_FIXES.get(failure.errno or 0)
            ) from failure
        finally:
            os.close(directory)

    def remove(self) -> None:
        """Take it away, if this run has written it. Raises TextFileError."""
        if not self._is_ours:
            return
        directory = open_directory(self._directory, error=TextFileError)
        try:
            os.unlink(self._name, dir_fd=directory)
        except FileNotFoundError:
            pass
        except OSError as failure:
            raise TextFileError(f"can't be removed: {failure.strerror}", where=self.path) from failure
        finally:
            os.close(directory)
        self._is_ours = False

    def _check_owner(self, directory: int) -> None:
        """Raise where a file of another meaning stands in the place."""
        try:
            descriptor = os.open(self._name, _LOOK, dir_fd=directory)
        except OSError as failure:
            if failure.errno in (errno.ENOENT, errno.ELOOP):  # a link is replaced by the file
                return
            raise
        with os.fdopen(descriptor, "rb") as file:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            begun = file.read(len(self._begin)) if is_file else b"?"
        if begun and begun != self._begin:
            raise TextFileError(
                "is there already, and is no file of metrics", where=self.path, fix="name another file, or remove it"
            )


def replace_file(
    name: str, content: bytes, *, directory: int, mode: int, gid: int | None = None, is_durable: bool = False
) -> None:
    """Put a content in the place of a file, in one step: whoever reads it has the one or the other, whole.

    Args:
        name: Of the file.
        content: All of it.
        directory: Where it is: a descriptor.
        mode: Permissions, whatever the umask.
        gid: Group; None for this process's.
        is_durable: Whether it is on the disk before it takes the other's place.

    Raises:
        OSError: It can't be; what was there before is there still, and nothing else.
    """
    fresh = f".{name}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=directory)  # of a run that was killed; a link goes, not what it points to
        with os.fdopen(os.open(fresh, _NEW, 0o600, dir_fd=directory), "wb") as file:
            file.write(content)
            file.flush()
            if gid is not None:
                os.fchown(file.fileno(), -1, gid)
            os.fchmod(file.fileno(), mode)
            if is_durable:
                os.fsync(file.fileno())
        os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh, dir_fd=directory)
        raise


_FIXES = {
    errno.EACCES: "let the directory belong to root",
    errno.EPERM: "let the directory belong to root",
    errno.EROFS: "name a file on a file system that can be written",
}
