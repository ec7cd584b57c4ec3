"""Accounts read again beside the loop: what is taken over is what reading them at once would have given."""

import select
from dataclasses import replace
from pathlib import Path

import pytest

from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.enrich.accounts.name_service import NamedAccount, NameService
from smtpguard.enrich.accounts.reader import AccountReader
from smtpguard.settings import Exempt, Settings
from tests.unit.test_accounts import ACCOUNTS, SETTINGS, SUBUID, put, root

__all__ = ["root"]


@pytest.fixture
def accounts(root: Path) -> AccountDirectory:
    accounts = AccountDirectory(SETTINGS, root=root)
    for uid in (0, 33, 1001, 1002, 1003):
        accounts.account(uid)
    accounts.passing_uids()
    accounts.told_uids()
    return accounts


def read(reader: AccountReader) -> frozenset[int]:
    reader.begin()
    assert select.select([reader.fileno()], [], [], 30)[0]
    return reader.take()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etc/passwd", ACCOUNTS.replace("web01", "shop7")),
        ("etc/passwd", ACCOUNTS.replace("news", "olds") + "news:x:1009:1009::/:/bin/false\n"),
        ("etc/group", "mailers:x:200:web01\n"),
        ("etc/subuid", SUBUID.replace("web01:100000", "web02:400000")),
        ("etc/login.defs", "UID_MIN 2000\n"),
        ("etc/postfix/main.cf", "mail_owner = web01\n"),
    ],
)
def test_it_is_the_same_as_reading_at_once(accounts: AccountDirectory, root: Path, name: str, text: str) -> None:
    reader = AccountReader(accounts)
    put(root, name, text)
    assert accounts.is_stale()
    before = accounts.account(1001)
    reader.begin()
    assert select.select([reader.fileno()], [], [], 30)[0]
    assert accounts.account(1001) == before, "until it is taken over the old ones hold"
    assert reader.take()
    fresh = AccountDirectory(SETTINGS, root=root)
    assert [accounts.account(uid) for uid in (0, 33, 1001, 1002, 1003, 1009)] == [
        fresh.account(uid) for uid in (0, 33, 1001, 1002, 1003, 1009)
    ]
    assert accounts.passing_uids() == fresh.passing_uids()
    assert accounts.told_uids() == fresh.told_uids()
    assert accounts.ranges() == fresh.ranges()
    for user in ("web01", "shop7", "news", "1001"):
        assert accounts.lookup.by_name(user) == fresh.lookup.by_name(user)
    assert accounts.mail_servers() == fresh.mail_servers()
    assert not accounts.is_stale()
    assert read(reader) == frozenset()
    reader.close()
    reader.close()


def test_an_account_that_nobody_asked_for_is_noticed_where_the_kernel_is_told_of_it(root: Path) -> None:
    shared = replace(SETTINGS, shared_users=frozenset({"www-data", "later"}))
    accounts = AccountDirectory(shared, root=root)
    reader = AccountReader(accounts)
    accounts.told_uids()
    put(root, "etc/passwd", ACCOUNTS + "later:x:1009:1009::/:/bin/false\n")
    assert read(reader) == {1009}
    assert (1009, 1009) in accounts.told_uids()
    reader.close()


def test_who_is_asked_for_while_it_reads_is_judged_anew(accounts: AccountDirectory, root: Path) -> None:
    put(root, "etc/passwd", ACCOUNTS.replace("a%41", "news2"))
    renewal = accounts.renew(SETTINGS)
    assert accounts.account(1004).name == "a%41"
    assert accounts.adopt(renewal) == {1004}
    assert accounts.account(1004).name == "news2"


def test_a_configuration_that_came_meanwhile_is_not_lost(accounts: AccountDirectory, root: Path) -> None:
    put(root, "etc/passwd", ACCOUNTS.replace("web02", "shop2"))
    renewal = accounts.renew(SETTINGS)
    accounts.reconfigure(Settings(exempt=Exempt(users=("web01",))))
    assert accounts.adopt(renewal) == frozenset()
    assert accounts.account(1001).standing == "exempt"
    assert accounts.is_stale(), "they are read once more"


def test_a_new_configuration_comes_with_the_accounts_by_it(accounts: AccountDirectory) -> None:
    new = Settings(exempt=Exempt(users=("web01",)))
    renewal = accounts.renew(new)
    assert accounts.account(1001).standing == "tenant"
    assert not accounts.fits(renewal, SETTINGS)
    assert accounts.adopt(renewal, replace(new, dry_run=False)) == {33, 1001, 1002, 1003}
    assert accounts.settings == replace(new, dry_run=False)
    assert accounts.account(1001).standing == "exempt"


def test_what_the_name_service_says_meanwhile_is_not_lost(root: Path) -> None:
    put(root, "etc/passwd", ACCOUNTS.replace("news", "olds"))
    names = NameService(ask=lambda key: NamedAccount(uid=70_000, name="news") if key in (70_000, "news") else None)
    accounts = AccountDirectory(SETTINGS, root=root, names=names)
    accounts.passing_uids()
    before = accounts.account(70_000)
    renewal = accounts.renew(SETTINGS)
    names.wait_for(70_000, 10)
    names.wait_for("news", 10)
    accounts.take_news()
    assert accounts.account(70_000).standing == "exempt" != before.standing
    accounts.adopt(renewal)
    assert accounts.account(70_000).standing == "exempt"
    assert (70_000, 70_000) in accounts.passing_uids()
