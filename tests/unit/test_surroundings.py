"""What changes around a guard is told until somebody has taken it."""

import time
from dataclasses import replace
from unittest.mock import Mock, patch

import pytest

from smtpguard.daemon.host_watch import HostWatch
from smtpguard.enrich import own_addresses
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.enrich.accounts.name_service import NamedAccount, NameService
from smtpguard.enrich.accounts.never_refused import subtract_uids
from smtpguard.errors import SourceError
from smtpguard.model import NS
from smtpguard.settings import Settings


def test_a_change_that_nobody_could_take_is_told_again_and_nothing_of_it_is_lost() -> None:
    around = HostWatch(Settings(), lambda: NS)
    told: list[bool] = []
    broken = True

    def take(*, accounts: bool) -> None:
        if broken:
            raise TypeError("no such keyword")
        told.append(accounts)

    around.on_change = take
    for accounts in (True, False):
        with pytest.raises(TypeError):
            around._tell(accounts=accounts)
    broken = False
    around.on_time(NS)
    around.on_time(NS)
    assert told == [True]
    around.close()


def test_own_addresses_that_can_not_be_read_are_a_trouble_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(groups: int) -> None:
        assert groups
        raise OSError(24, "Too many open files")

    around = HostWatch(Settings(), lambda: NS)
    with monkeypatch.context() as broken:
        broken.setattr(own_addresses, "_open_netlink", fail)
        around.open()
        told = "rtnetlink: own addresses can't be read: [Errno 24] Too many open files: connections to own"
        assert [text for text in around.troubles() if text.startswith(told)]
        around.on_time(around.next_deadline())
        assert around.troubles()
    around.on_time(around.next_deadline())
    assert around.troubles() == []
    assert around._own.fileno() >= 0, "it listens"
    around.close()


def test_what_is_left_out_of_account_files_stands_in_status() -> None:
    around = HostWatch(Settings(), lambda: NS)
    around._problems = tuple(f"/etc/passwd:{line}: left out" for line in range(5))
    assert around.parts()["accounts"].endswith("/etc/passwd:2: left out; and 2 more, see the log")
    around.close()


def test_addresses_that_can_not_be_read_any_more_are_held_and_read_anew() -> None:
    around = HostWatch(Settings(), lambda: NS)
    around.open()
    with patch.object(around._own, "read", side_effect=SourceError("overrun", where="rtnetlink")):
        around.on_ready(around._own.fileno())
    assert around.troubles() == ["rtnetlink: overrun: the last known ones hold"]
    around.on_ready(around._own.fileno())
    assert around.troubles() == []
    around.close()


def test_accounts_that_a_reload_brings_are_judged_here_where_they_no_longer_fit() -> None:
    around = HostWatch(Settings(), lambda: NS)
    settings = replace(Settings(), uid_min=5000)
    stale = around.accounts.renew(Settings())
    around.reconfigure(settings, stale)
    assert not around.accounts.fits(stale, settings)
    assert around.accounts.fits(around.accounts.renew(settings), settings)
    around.close()


def test_what_is_left_out_of_account_files_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    around = HostWatch(Settings(), lambda: NS)
    with patch.object(type(around.accounts), "problems", ("/etc/subuid: not a regular file",)):
        for _ in range(2):
            around._tell_problems()
    assert caplog.messages == ["accounts: /etc/subuid: not a regular file"]
    around.close()


def test_ranges_without_some_uids_keep_root() -> None:
    assert subtract_uids([(0, 10), (20, 20)], [5, 20, 0]) == ((0, 4), (6, 10))
    assert subtract_uids([(0, 10)], [10, 30]) == ((0, 9),)


def test_accounts_are_read_beside_the_loop_and_taken_over_when_they_are_there() -> None:
    around = HostWatch(Settings(), lambda: NS)
    told = around.on_change = Mock()
    around._reader = Mock(fileno=Mock(return_value=70), take=Mock(return_value=frozenset({1001})))
    with patch.object(around.accounts, "is_stale", return_value=True):
        around.on_time(around.next_deadline())
    around._reader.begin.assert_called_once()
    around.on_ready(70)
    told.assert_called_once_with(accounts=True)
    around.close()


def test_whom_a_command_has_just_made_known_is_told_at_once() -> None:
    around = HostWatch(Settings(), lambda: NS)
    around.on_time(around.next_deadline())
    news = NamedAccount(uid=4_000_000_001, name="news@corp.example")
    around.accounts = AccountDirectory(
        Settings(),
        patience_s=5,
        names=NameService(ask=lambda key: news if key in (news.uid, news.name) else None),
    )
    told: list[bool] = []

    def take(*, accounts: bool) -> None:
        told.append(accounts)

    around.on_change = take
    due_ns = around.next_deadline()
    assert due_ns > NS
    assert around.accounts.lookup.find_uid(news.name) == news.uid
    assert around.next_deadline() <= NS, "now, not with the next look"
    around.on_time(NS)
    assert told == [True]
    assert around.next_deadline() == due_ns, "once"
    around.close()


def test_whom_configured_names_mean_is_known_before_anybody_is_refused() -> None:
    settings = replace(Settings(), exempt=replace(Settings().exempt, users=("CORP\\joe",)))
    joe = NamedAccount(uid=4_000_000_002, name="joe@corp.example")

    def ask(key: int | str) -> NamedAccount | None:
        time.sleep(0.05)  # a directory is elsewhere
        return joe if key in (joe.uid, "CORP\\joe") else None

    around = HostWatch(settings, lambda: NS)
    around.accounts = AccountDirectory(settings, patience_s=0, names=NameService(ask=ask))
    sound, patience_s = around.accounts.wait_for_spellings, list[float]()

    def wait(seconds: float) -> None:
        patience_s.append(seconds)
        sound(10)  # the machine may stand still, too

    with patch.object(around.accounts, "wait_for_spellings", wait):
        around.open()
    assert patience_s == [0.3], "as long as a directory elsewhere may take"
    assert around.accounts.account(joe.uid).standing == "exempt"
    assert (joe.uid, joe.uid) in around.accounts.passing_uids()
    around.close()
