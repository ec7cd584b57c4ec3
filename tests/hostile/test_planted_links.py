"""Attack: links, pipes and files planted where root writes: `watch -f FILE` in a folder that a tenant can write."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard.cli import main

TENANT = 61_850


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    place.chmod(0o1777)
    return place


def plant(kind: str, path: Path, secret: Path) -> None:
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "hard link":
        path.hardlink_to(secret)
    elif kind in {"pipe", "pipe with a reader"}:
        os.mkfifo(path)
    else:
        path.touch()
        os.chown(path, TENANT, TENANT)


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "pipe with a reader", "file of the tenant's"])
def test_watch_writes_into_none_of_them(folder: Path, kind: str) -> None:
    secret = folder.parent / "secret"
    secret.write_text("root's\n")
    path = folder / "watch.log"
    plant(kind, path, secret)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if kind == "pipe with a reader" else None
    try:
        done = CliRunner().invoke(main, ["watch", "-f", str(path)])
    finally:
        if reader is not None:
            os.close(reader)
    assert done.exit_code == 1, done.output
    assert str(path) in done.output
    assert secret.read_text() == "root's\n"
