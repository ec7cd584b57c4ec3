"""The file of metrics: whole at any time, its mode as said, and safe in a directory of somebody else's."""

import contextlib
import os
import stat
import threading
from pathlib import Path

import pytest

from smtpguard.notify.text_file import TextFile, TextFileError

BEGIN = b"# HELP smtpguard_"
TEXT = BEGIN + b"guarding x\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of others are made")


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def file_in(folder: Path) -> TextFile:
    return TextFile(str(folder / "smtpguard.prom"), begin=BEGIN)


def test_modes_do_not_depend_on_the_umask_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    before = os.umask(0o077)
    try:
        for mode in (0o644, 0o640, 0o644):
            file.write(TEXT, mode=mode)
            about = (tmp_path / "smtpguard.prom").stat()
            assert stat.S_IMODE(about.st_mode) == mode
    finally:
        os.umask(before)
    assert names_in(tmp_path) == ["smtpguard.prom"]
    file.remove()
    assert names_in(tmp_path) == []
    file.remove()  # twice is once


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    file, path, seen, ended = file_in(tmp_path), tmp_path / "smtpguard.prom", set[int](), threading.Event()
    file.write(TEXT + b"x" * 300_000, mode=0o644)

    def read() -> None:
        while True:
            seen.add(len(path.read_bytes()))
            if ended.is_set():
                break

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(100):
        file.write(TEXT + b"x" * 300_000, mode=0o644)
    ended.set()
    thread.join()
    assert seen == {len(TEXT) + 300_000}


def test_planted_links_and_rests_of_a_killed_run_are_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    folder = tmp_path / "textfiles"
    folder.mkdir()
    for name in ("smtpguard.prom", ".smtpguard.prom.new"):
        (folder / name).symlink_to(victim)
    file = file_in(folder)
    file.write(TEXT, mode=0o644)
    assert victim.read_text() == "kept"
    assert (folder / "smtpguard.prom").read_bytes() == TEXT
    assert not (folder / "smtpguard.prom").is_symlink()
    (folder / ".smtpguard.prom.new").write_text("half of")
    file.write(TEXT, mode=0o644)
    assert names_in(folder) == ["smtpguard.prom"]


def test_a_link_that_is_planted_at_the_last_moment_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    folder = tmp_path / "textfiles"
    folder.mkdir()

    real = os.unlink

    def unlink(name: str, *, dir_fd: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            real(name, dir_fd=dir_fd)
        (folder / name).symlink_to(victim)

    monkeypatch.setattr("os.unlink", unlink)
    with pytest.raises(TextFileError, match="can't be written: File exists"):
        file_in(folder).write(TEXT, mode=0o644)
    assert victim.read_text() == "kept"


def test_a_file_that_is_none_of_metrics_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "smtpguard.prom"
    path.write_text("root:x:0:0\n")
    file = file_in(tmp_path)
    with pytest.raises(TextFileError, match="is there already, and is no file of metrics"):
        file.write(TEXT, mode=0o644)
    file.remove()
    assert path.read_text() == "root:x:0:0\n"
    path.write_text("")  # nothing to lose
    file.write(TEXT, mode=0o644)


def test_a_directory_that_is_missing_or_everybodys_is_named(tmp_path: Path) -> None:
    with pytest.raises(TextFileError, match="not accessible: No such file or directory"):
        file_in(tmp_path / "none").write(TEXT, mode=0o644)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    with pytest.raises(TextFileError, match="everybody may write to this directory"):
        file_in(tmp_path / "open").write(TEXT, mode=0o644)
    assert names_in(tmp_path / "open") == []


@needs_root
def test_debians_directories_are_fine_and_a_tenants_are_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    above = tmp_path / "prometheus"
    (above / "node-exporter").mkdir(parents=True)
    os.chown(above, 110, 110)  # as the package does: /var/lib/prometheus belongs to the user prometheus
    file_in(above / "node-exporter").write(TEXT, mode=0o644)
    (above / "link").symlink_to(tmp_path)
    os.chown(above / "link", 110, 110, follow_symlinks=False)
    with pytest.raises(TextFileError, match="belongs to uid 110, who could swap"):
        file_in(above / "link").write(TEXT, mode=0o644)
    os.chown(above, 5000, 5000)
    with pytest.raises(TextFileError, match="belongs to uid 5000, who could swap"):
        file_in(above / "node-exporter").write(TEXT, mode=0o644)
