"""Files that only root or the caller can have written (THREATS 20), and where the shipped ones are."""

import os
from pathlib import Path

import pytest

from smtpguard.errors import ConfigError
from smtpguard.resources import read_resource, shipped
from smtpguard.safe_files import read_trusted
from tests.support.descriptors import list_descriptors, wait_until_closed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    path = directory / "f"
    path.write_bytes(b"content")
    path.chmod(0o644)
    return path


def test_reads(file: Path) -> None:
    assert read_trusted(file, max_bytes=7) == b"content"


def test_reads_a_relative_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert read_trusted("f", max_bytes=7) == b"content"


def test_sticky_directory_is_fine(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert read_trusted(file, max_bytes=7) == b"content"


def test_directory_by_symbolic_link(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file.parent)
    assert read_trusted(tmp_path / "link" / "f", max_bytes=7) == b"content"


@pytest.mark.parametrize("name", ["none", "f/none", "none/f"])
def test_missing(file: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_trusted(file.parent / name, max_bytes=7)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_file_others_may_write(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigError, match=rf"f: can be written by others \(mode {mode:04o}\).*chmod go-w"):
        read_trusted(file, max_bytes=7)


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_directory_others_may_write(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    with pytest.raises(ConfigError, match="etc: this directory can be written by others"):
        read_trusted(file, max_bytes=7)


def test_directory_further_up_that_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_text("x")
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(ConfigError, match="a: this directory can be written by others"):
        read_trusted(tmp_path / "a" / "b" / "f", max_bytes=7)


@pytest.mark.skipif(os.geteuid() != 0, reason="lacks root (CAP_CHOWN)")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_other_owner(file: Path, what: str) -> None:
    os.chown(file if what == "file" else file.parent, 61001, 61001)
    with pytest.raises(ConfigError, match="belongs to uid 61001"):
        read_trusted(file, max_bytes=7)


def test_symbolic_link(file: Path) -> None:
    (file.parent / "link").symlink_to(file)
    with pytest.raises(ConfigError, match="symbolic link"):
        read_trusted(file.parent / "link", max_bytes=7)


def test_fifo_does_not_wait(file: Path) -> None:
    os.mkfifo(file.parent / "fifo", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_trusted(file.parent / "fifo", max_bytes=7)


def test_directory_as_file(file: Path) -> None:
    with pytest.raises(ConfigError, match="not a regular file"):
        read_trusted(file.parent, max_bytes=7)


def test_too_long(file: Path) -> None:
    with pytest.raises(ConfigError, match="longer than 6 bytes"):
        read_trusted(file, max_bytes=6)


def test_nul_byte_in_the_name() -> None:
    with pytest.raises(ConfigError, match="NUL"):
        read_trusted("/etc/a\0b", max_bytes=7)


def test_leaves_no_descriptor_open(file: Path) -> None:
    before = list_descriptors()
    read_trusted(file, max_bytes=7)
    file.chmod(0o666)
    with pytest.raises(ConfigError):
        read_trusted(file, max_bytes=7)
    with pytest.raises(FileNotFoundError):
        read_trusted(file.parent / "none", max_bytes=7)
    wait_until_closed(before)


def test_shipped_in_a_checkout() -> None:
    assert (shipped("config") / "setup.sh").is_file()


def test_shipped_in_a_wheel(tmp_path: Path) -> None:
    data = tmp_path / "smtpguard" / "_data" / "nft"
    data.mkdir(parents=True)
    assert shipped("nft", package=tmp_path / "smtpguard") == data


def test_a_directory_of_that_name_elsewhere_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "nft").mkdir()
    with pytest.raises(ConfigError, match="shipped nft are missing"):
        shipped("nft", package=tmp_path / "smtpguard")


def test_an_administrators_file_wins(tmp_path: Path) -> None:
    package = tmp_path / "smtpguard"
    (package / "_data" / "nft").mkdir(parents=True)
    (package / "_data" / "nft" / "a.nft").write_text("shipped")
    etc = tmp_path / "etc"
    assert read_resource("nft", "a.nft", administrator=etc, package=package) == "shipped"
    (etc / "nft").mkdir(parents=True)
    (etc / "nft" / "a.nft").write_text("own")
    assert read_resource("nft", "a.nft", administrator=etc, package=package) == "own"
    (etc / "nft" / "a.nft").chmod(0o666)
    with pytest.raises(ConfigError, match="written by others"):
        read_resource("nft", "a.nft", administrator=etc, package=package)


def test_a_resource_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="install smtpguard again"):
        read_resource("config", "none", administrator=tmp_path)
