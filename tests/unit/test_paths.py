"""Directories that somebody else could swap are refused."""

import os
from pathlib import Path

import pytest

from smtpguard.errors import LogError, StateError
from smtpguard.safe_files import check_directory, make_directory


def test_makes_all_that_is_missing_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        make_directory(str(tmp_path / "a" / "b" / "c"), 0o750, error=LogError)
    finally:
        os.umask(old)
    assert [(tmp_path / p).stat().st_mode & 0o777 for p in ("a", "a/b", "a/b/c")] == [0o755, 0o755, 0o750]
    make_directory(str(tmp_path / "a" / "b" / "c"), 0o700, error=LogError)
    assert (tmp_path / "a/b/c").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("missing", ["/proc/nothing-here", "/proc/nothing-here/below"])
def test_where_no_directory_can_be_made_is_an_error(missing: str) -> None:
    with pytest.raises(LogError, match="can't be created"):
        make_directory(missing, 0o750, error=LogError)


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
def test_a_directory_that_others_write_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(LogError, match="everybody may write"):
        check_directory(str(directory), error=LogError)


def test_a_sticky_parent_is_fine_an_open_one_is_not(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "mine").mkdir(parents=True)
    parent.chmod(0o1777)
    check_directory(str(parent / "mine"), error=LogError)
    check_directory(str(parent), error=LogError, shared=True)
    parent.chmod(0o777)
    with pytest.raises(StateError, match="everybody may write") as caught:
        check_directory(str(parent / "mine"), error=StateError)
    assert caught.value.where == str(parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_owners_and_groups(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "mine").mkdir(parents=True)
    os.chown(parent, 0, 4)  # adm, as on Ubuntu's /var/log
    parent.chmod(0o775)
    check_directory(str(parent / "mine"), error=LogError)
    with pytest.raises(LogError, match="group 4 may write"):
        check_directory(str(parent), error=LogError)
    with pytest.raises(LogError, match=f"chmod g-w {parent}"):
        check_directory(str(parent), error=LogError)
    check_directory(str(parent), error=LogError, shared=True)
    os.chown(parent, 0, 61001)
    with pytest.raises(LogError, match="group 61001 may write"):
        check_directory(str(parent / "mine"), error=LogError)
    os.chown(parent, 61001, 0)
    parent.chmod(0o755)
    with pytest.raises(LogError, match="belongs to uid 61001"):
        check_directory(str(parent / "mine"), error=LogError)


def test_links_are_followed_and_their_way_is_checked(tmp_path: Path) -> None:
    (tmp_path / "real" / "log").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    check_directory(str(tmp_path / "link" / "log"), error=LogError)
    check_directory(str(tmp_path / "link" / ".." / "real"), error=LogError)
    (tmp_path / "real").chmod(0o777)
    with pytest.raises(LogError, match="everybody may write"):
        check_directory(str(tmp_path / "link" / "log"), error=LogError)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(LogError, match="too many symbolic links"):
        check_directory(str(tmp_path / "loop"), error=LogError)


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "missing"):
        with pytest.raises(LogError):
            check_directory(str(path), error=LogError)
    with pytest.raises(LogError, match="not absolute"):
        check_directory("log", error=LogError)
    with pytest.raises(LogError):
        make_directory(str(tmp_path / "file" / "x"), 0o750, error=LogError)
