"""Who holds a socket, in a /proc of files."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from smtpguard.enrich.looker.socket_owner import LIMIT_S, MAX_FILES, SocketOwnerFinder

TENANT, OTHER = 61001, 61002


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., Path]:
    def add(pid: int, uids: Sequence[int], *inodes: int) -> Path:
        folder = tmp_path / str(pid)
        (folder / "fd").mkdir(parents=True)
        real, effective, saved, fs = uids
        (folder / "status").write_text(f"Name:\tx\nUid:\t{real}\t{effective}\t{saved}\t{fs}\nGid:\t0\t0\t0\t0\n")
        (folder / "fd" / "0").symlink_to("/dev/null")
        for number, inode in enumerate(inodes, 3):
            (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        return folder

    (tmp_path / "self").mkdir()
    (tmp_path / "uptime").write_text("1 1")
    return add


def same(uid: int) -> tuple[int, int, int, int]:
    return uid, uid, uid, uid


@pytest.mark.skipif(os.geteuid() != 0, reason="the files must look like root's: PHP-FPM's workers are not dumpable")
class TestHolderFinder:
    def test_finds_the_one_process(self, tmp_path: Path, add: Callable[..., Path]) -> None:
        add(10, same(TENANT), 111)
        add(11, same(TENANT), 222, 333)
        finder = SocketOwnerFinder(proc=tmp_path)
        assert finder.find(333, (TENANT,)) == 11
        assert finder.find(111, (TENANT,)) == 10
        assert finder.find(33, (TENANT,)) is None, "a whole number, not its beginning"

    def test_a_shared_socket_is_nobodys(self, tmp_path: Path, add: Callable[..., Path]) -> None:
        add(10, same(TENANT), 111)
        add(11, same(TENANT), 111)
        finder = SocketOwnerFinder(proc=tmp_path)
        assert finder.find(111, (TENANT,)) is None
        finder._remember(TENANT, 10)
        assert finder.find(111, (TENANT,)) is None, "also when one of them was a holder before"

    def test_another_users_process_is_not_looked_at(self, tmp_path: Path, add: Callable[..., Path]) -> None:
        add(10, same(OTHER), 111)
        add(11, same(0), 111)
        assert SocketOwnerFinder(proc=tmp_path).find(111, (TENANT,)) is None

    def test_any_of_its_uids_will_do(self, tmp_path: Path, add: Callable[..., Path]) -> None:
        add(10, (TENANT, 0, 0, 0), 111)
        assert SocketOwnerFinder(proc=tmp_path).find(111, (TENANT,)) == 10

    def test_a_process_of_another_owner_is_not_even_opened(self, tmp_path: Path, add: Callable[..., Path]) -> None:
        folder = add(10, same(TENANT), 111)
        os.chown(folder, OTHER, OTHER)
        assert SocketOwnerFinder(proc=tmp_path).find(111, (TENANT,)) is None
        os.chown(folder, TENANT, TENANT)
        assert SocketOwnerFinder(proc=tmp_path).find(111, (TENANT,)) == 10

    def test_a_search_that_takes_too_long_finds_nobody(self, tmp_path: Path, add: Callable[..., Path]) -> None:
        for pid in range(10, 20):
            add(pid, same(TENANT), 1000 + pid)
        times = iter([0.0, *[0.0] * 3, *[LIMIT_S + 1] * 20])
        assert SocketOwnerFinder(proc=tmp_path, clock=lambda: next(times)).find(1010, (TENANT,)) is None

    def test_files_are_bounded(self, tmp_path: Path, add: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("smtpguard.enrich.looker.socket_owner.MAX_FILES", 2)
        add(10, same(TENANT), 1, 2, 3, 4, 5, 6)
        finder = SocketOwnerFinder(proc=tmp_path)
        assert sum(finder.find(inode, (TENANT,)) is not None for inode in range(1, 7)) <= 2
        assert MAX_FILES == 4096

    def test_what_goes_away_meanwhile_is_passed_over(self, tmp_path: Path, add: Callable[..., Path]) -> None:
        finder = SocketOwnerFinder(proc=tmp_path)
        for pid in (10, 11):
            finder._remember(TENANT, pid)
        folder = add(12, same(TENANT), 111)
        (add(13, same(TENANT), 111) / "status").write_text("")
        assert finder.find(111, (TENANT,)) == 12
        (folder / "fd" / "3").unlink()
        assert finder.find(111, (TENANT,)) is None

    def test_what_is_remembered_is_bounded(self, tmp_path: Path) -> None:
        finder = SocketOwnerFinder(proc=tmp_path)
        for uid in range(1000):
            for pid in range(20):
                finder._remember(uid, pid)
        assert len(finder._recent) == 256
        assert {len(pids) for pids in finder._recent.values()} == {8}
