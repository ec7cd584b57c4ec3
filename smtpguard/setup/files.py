"""Reads and writes the files of an installation below a root: whole or not at all, never through a link.

The manifest is written before the files it names: a setup that is cut short leaves nothing that removal would not know.
"""

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from smtpguard.errors import StateError
from smtpguard.setup.plan import BACKUP_SUFFIX, WRITES, Found, Manifest, Step

MAX_BYTES = 1 << 20
_MODE_OF_FOLDER = {"/var/lib/smtpguard": 0o700, "/var/log/smtpguard": 0o750}


class Tree:
    """The file system below a root.

    Args:
        root: `/`, or the root of an image.
        manifest: Where, below it, setup remembers what it wrote.
    """

    def __init__(self, root: Path, manifest: str) -> None:
        self.root = root.resolve()
        self._manifest = manifest

    def read(self, paths: Iterable[str]) -> dict[str, Found]:
        """What is at each path."""
        return {path: self._look(path) for path in paths}

    def read_manifest(self) -> Manifest:
        """What earlier setups wrote; empty if there was none.

        Raises:
            StateError: It is there and is not what setup writes.
        """
        found = self._look(self._manifest)
        where = str(self._place(self._manifest))
        if found.obstacle is not None:
            raise StateError(found.obstacle, where=where)
        if found.content is None:
            return Manifest()
        try:
            value = json.loads(found.content)
            manifest = Manifest(files=dict(value["files"]), folders=tuple(value["folders"]))
            if all(map(_is_plain, [*manifest.files, *manifest.folders])):
                return manifest
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise StateError("is not what setup wrote", where=where, fix="remove it; files of earlier setups stay then")

    def write_manifest(self, manifest: Manifest) -> None:
        """Remember what is ours."""
        value = {"version": 1, "files": dict(manifest.files), "folders": list(manifest.folders)}
        try:
            self._write(self._manifest, (json.dumps(value, indent=1) + "\n").encode(), 0o600)
        except OSError as error:
            raise StateError(f"can't be written: {error.strerror}", where=str(self._place(self._manifest))) from error

    def list_missing_folders(self, steps: Sequence[Step]) -> list[str]:
        """Folders that have to be made for the files of these steps and for the manifest, outer ones first."""
        paths = [step.path for step in steps if step.act in WRITES]
        folders = {str(folder) for path in [*paths, self._manifest] for folder in PurePosixPath(path).parents}
        return sorted(folder for folder in folders if not self._place(folder).exists())

    def forget(self, manifest: Manifest) -> None:
        """Remove the manifest and the folders it names, as far as they are empty."""
        with contextlib.suppress(FileNotFoundError):
            self._place(self._manifest).unlink()
        for folder in reversed(manifest.folders):
            with contextlib.suppress(OSError):
                self._place(folder).rmdir()

    def apply(self, steps: Sequence[Step]) -> None:
        """Carry the steps out.

        Raises:
            StateError: A file can't be written or removed; what came before it is done.
        """
        for step in steps:
            try:
                if step.act == "replace":
                    self._back_up(step.path)
                if step.act in WRITES and step.after is not None:
                    self._write(step.path, step.after, step.mode)
                elif step.act == "remove":
                    self._place(step.path).unlink(missing_ok=True)
            except OSError as error:
                raise StateError(f"can't be changed: {error.strerror}", where=str(self._place(step.path))) from error

    def _place(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _look(self, path: str) -> Found:
        place = self._place(path)
        if not place.parent.resolve().is_relative_to(self.root):
            return Found(obstacle=f"{place.parent} leads out of {self.root}")
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Found()
        except OSError as error:
            return Found(obstacle="is a symbolic link" if place.is_symlink() else f"can't be read: {error.strerror}")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return Found(obstacle="is no file")
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        return (
            Found(obstacle=f"is longer than {MAX_BYTES} bytes") if len(content) > MAX_BYTES else Found(content=content)
        )

    def _write(self, path: str, content: bytes, mode: int) -> None:
        """Write beside, then rename over: rename(2) is atomic, and never follows a link at its target."""
        place = self._place(path)
        self._make_folder(place.parent)
        descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.", suffix=BACKUP_SUFFIX)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, place)  # noqa: PTH105 - a string is what mkstemp gives
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108 - the same
            raise

    def _back_up(self, path: str) -> None:
        """Keep what is replaced beside it, whatever stood there under the backup's name."""
        place = self._place(path)
        copy = place.with_name(place.name + BACKUP_SUFFIX)
        with contextlib.suppress(FileNotFoundError):
            copy.unlink()
        shutil.copy2(place, copy, follow_symlinks=False)

    def _make_folder(self, folder: Path) -> None:
        missing = [folder, *folder.parents]
        for place in reversed(missing[: missing.index(self.root)]):
            with contextlib.suppress(FileExistsError):
                place.mkdir(mode=0o755)
                place.chmod(_MODE_OF_FOLDER.get("/" + str(place.relative_to(self.root)), 0o755))


def _is_plain(path: object) -> bool:
    """Whether a path of a manifest is absolute and leads nowhere but where it says."""
    return isinstance(path, str) and path.startswith("/") and os.path.normpath(path) == path
