"""The accounts of a host, on files of a root of our own."""

import os
import select
import time
from dataclasses import replace
from pathlib import Path

import pytest

from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.enrich.accounts.name_service import KEEP_S, NamedAccount, NameService
from smtpguard.policy.rules import matches
from smtpguard.settings import Exempt, Match, Override, Settings

ACCOUNTS = """\
root:x:0:0:root:/root:/bin/sh
mail:x:8:8:mail:/var/mail:/bin/false
www-data:x:33:33::/var/www:/bin/false
postfix:x:107:115::/var/spool/postfix:/bin/false
web01:x:1001:1001::/home/web01:/bin/false
web02:x:1002:1002::/home/web02:/bin/false
news:x:1003:100::/home/news:/bin/false
alias01:x:1001:1001::/home/web01:/bin/false
a%41:x:1004:1004::/:/bin/false
b c:x:1005:1005::/:/bin/false
"""
GROUP = "users:x:100:\nweb01:x:1001:\nmailers:x:200:web02,web09\n"
SUBUID = "web01:100000:65536\nweb02:165536:65536\nroot:300000:65536\n"
CONTAINERS = (300_000, 365_535)
"""Root's, who does not answer for them."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in (
        ("etc/passwd", ACCOUNTS),
        ("etc/group", GROUP),
        ("etc/subuid", SUBUID),
        ("etc/login.defs", "UID_MIN 1000\n"),
    ):
        put(tmp_path, name, text)
    return tmp_path


def put(root: Path, name: str, text: str) -> None:
    """Write as useradd does: a new file, renamed over the old one."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)


SETTINGS = Settings(shared_users=frozenset({"www-data"}), exempt=Exempt(users=("news",), groups=("mailers",)))


def standings(accounts: AccountDirectory, *uids: int) -> list[str]:
    return [accounts.account(uid).standing for uid in uids]


def test_who_is_who(root: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=root)
    assert standings(accounts, 0, 8, 33, 107, 1001, 1002, 1003, 5000, 70) == [
        "root",
        "mta",
        "shared",
        "mta",
        "tenant",
        "exempt",
        "exempt",
        "tenant",
        "shared",
    ]
    web01 = accounts.account(1001)
    assert (web01.name, web01.groups, web01.ranges) == ("web01", frozenset({"web01"}), ((100000, 65536),))
    assert accounts.account(1002).groups == frozenset({"mailers"})
    assert accounts.account(1003).groups == frozenset({"users"})
    assert accounts.account(5000).name is None
    assert accounts.problems == ()


def test_subordinate_uids_count_for_their_owner(root: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=root)
    assert [accounts.owner(uid) for uid in (1001, 100000, 165535, 165536, 231072, 300000)] == [
        1001,
        1001,
        1001,
        1002,
        231072,
        0,
    ]
    assert accounts.ranges() == ((100000, 65536, 1001), (165536, 65536, 1002))
    assert accounts.account(0).ranges == ()


def test_who_passes(root: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=root)
    assert accounts.passing_uids() == ((0, 0), (8, 8), (107, 107), (1002, 1003), (165536, 231071))


def test_who_is_only_told_of(root: Path) -> None:
    assert AccountDirectory(SETTINGS, root=root).told_uids() == ((1, 999), (65534, 65534), CONTAINERS)
    put(root, "etc/login.defs", "UID_MIN 1001\n")
    shared = replace(SETTINGS, shared_users=frozenset({"web01", "www-data"}), shared_block=frozenset({"www-data"}))
    accounts = AccountDirectory(shared, root=root)
    assert accounts.told_uids() == ((1, 32), (34, 1001), (65534, 65534), CONTAINERS)
    accounts.reconfigure(replace(shared, shared_block=frozenset()))
    assert accounts.told_uids() == ((1, 1001), (65534, 65534), CONTAINERS)


def test_exempt_uids_pass_with_their_ranges_named_or_not(root: Path) -> None:
    accounts = AccountDirectory(Settings(exempt=Exempt(uids=((1001, 1001), (5000, 5009)), users=("w*2",))), root=root)
    assert accounts.passing_uids() == (
        (0, 0),
        (8, 8),
        (107, 107),
        (1001, 1002),
        (5000, 5009),
        (100000, 231071),
    )


def test_names_people_write(root: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=root)

    def uid(text: str) -> int | None:
        account = accounts.lookup.by_name(text)
        return account.uid if account else None

    assert uid("web01") == 1001
    assert uid("alias01") == 1001
    assert uid("1001") == 1001
    assert uid("uid:1001") == 1001
    assert uid("uid:0001001") == 1001
    assert uid("000000000000000001001") == 1001
    assert uid("0") == 0
    assert uid("5000") == 5000
    assert uid("100005") == 1001
    assert uid("300005") == 300005
    assert uid("4294967294") == 4294967294
    assert uid("b%20c") == 1005
    assert uid("a%41") == 1004
    for text in ("", "nobody-here", "uid:", "uid:x", "uid:-1", "-1", "4294967295", "9" * 5000, "\u0661", "a\0b", "%00"):
        assert uid(text) is None, text


DIGITS = ACCOUNTS + "61002:x:1010:1010::/:/x\n0:x:1011:1011::/:/x\n2000:x:2000:2000::/:/x\n"


def test_a_name_of_digits_is_a_name_where_a_name_is_meant(root: Path) -> None:
    put(root, "etc/passwd", DIGITS)
    accounts = AccountDirectory(Settings(exempt=Exempt(users=("61002",), uids=((2000, 2999),))), root=root)
    assert standings(accounts, 1010, 61002, 2000, 1011) == ["exempt", "tenant", "exempt", "tenant"]

    def uid(text: str) -> int | None:
        account = accounts.lookup.by_login(text)
        return account.uid if account else None

    assert [uid(text) for text in ("61002", "0", "2000", "1010", "uid:61002", "uid:0", "b%20c", "web01")] == [
        *(1010, 1011, 2000, None, 61002, 0, 1005, 1001)
    ]
    # What the log writes as a%2541 is called a%41, whoever else is called a%2541.
    put(root, "etc/passwd", DIGITS + "a%2541:x:1012:1012::/:/x\n")
    accounts.refresh()
    assert uid("a%2541") == 1004
    assert uid("a%252541") == 1012


def test_digits_that_a_person_types_are_a_uid_and_who_is_called_so_is_told(root: Path) -> None:
    put(root, "etc/passwd", DIGITS)
    accounts = AccountDirectory(SETTINGS, root=root)
    by_hand = accounts.lookup.by_name("61002")
    assert by_hand is not None
    assert by_hand.uid == 61002
    assert [accounts.lookup.find_namesake(text) for text in ("61002", "0", "2000", "61003", "web01", "uid:61002")] == [
        *(1010, 1011, None, None, None, None)
    ]


def test_all_names_of_a_uid_count(root: Path) -> None:
    many = "".join(f"ftp{number}:x:1001:1001::/:/x\n" for number in range(200))
    put(root, "etc/passwd", ACCOUNTS + many)
    account = AccountDirectory(SETTINGS, root=root).account(1001)
    assert (account.name, account.names[:3], len(account.names)) == ("web01", ("web01", "alias01", "ftp0"), 202)
    assert matches(Match(users=("ftp199",)), account)
    settings = replace(SETTINGS, shared_users=frozenset({"ftp7"}), shared_block=frozenset({"ftp8"}))
    assert (1001, 1001) not in AccountDirectory(settings, root=root).told_uids()
    told = AccountDirectory(replace(settings, shared_block=frozenset()), root=root).told_uids()
    assert told == ((1, 999), (1001, 1001), (65534, 65534), CONTAINERS)


def test_a_number_given_to_another_name_is_another_account(root: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=root)
    accounts.account(1001)
    accounts.account(1002)
    assert accounts.refresh() == frozenset()
    put(root, "etc/passwd", ACCOUNTS.replace("web01", "shop7"))
    put(root, "etc/subuid", SUBUID.replace("web01", "shop7"))
    assert accounts.refresh() == {1001}
    assert accounts.account(1001).name == "shop7"
    assert accounts.refresh() == frozenset()


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("etc/group", GROUP.replace("web02", "web01"), {1001, 1002}),
        ("etc/subuid", "", {0, 1001, 1002}),
        ("etc/login.defs", "UID_MIN 2000\n", {1001}),
        ("etc/postfix/main.cf", "mail_owner = web01\n", {1001}),
        ("usr/lib/systemd/system/haraka.service", "[Service]\nUser=web01\n", {1001}),
        ("etc/systemd/system/haraka.service.d/user.conf", "[Service]\nUser=web01\n", {1001}),
    ],
)
def test_every_file_is_noticed(root: Path, name: str, text: str, changed: set[int]) -> None:
    accounts = AccountDirectory(SETTINGS, root=root)
    standings(accounts, 0, 8, 1001, 1002, 1003)
    put(root, name, text)
    assert accounts.refresh() == changed


def test_what_the_kernel_is_told_is_noticed_before_the_account_was_seen(root: Path) -> None:
    accounts = AccountDirectory(Settings(exempt=Exempt(users=("later",))), root=root)
    put(root, "etc/passwd", ACCOUNTS + "later:x:1009:1009::/:/bin/false\n")
    assert accounts.refresh() == {1009}
    assert (1009, 1009) in accounts.passing_uids()
    put(root, "etc/passwd", ACCOUNTS + "later:x:1009:1009::/:/bin/false\nsub:x:1010:1010::/:/bin/false\n")
    put(root, "etc/subuid", SUBUID + "sub:400000:5\n")
    assert accounts.refresh() == {1010}
    put(root, "etc/passwd", ACCOUNTS + "later:x:1009:1009::/:/bin/false\nsub:x:1010:1010::/:/x\nnobody:x:1011:1::/:\n")
    assert accounts.refresh() == frozenset()


def test_a_change_in_place_is_noticed_at_the_same_size(root: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=root)
    accounts.account(1001)
    path = root / "etc" / "passwd"
    path.write_text(ACCOUNTS.replace("web01", "web03"))
    os.utime(path, ns=(0, time.time_ns() + 10**9))
    assert accounts.refresh() == {1001}


def test_a_half_written_passwd_is_not_believed(root: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=root)
    assert accounts.account(1003).standing == "exempt"
    (root / "etc" / "passwd").write_text("")
    assert accounts.refresh() == frozenset()
    assert accounts.account(1003).standing == "exempt"
    assert "no root" in accounts.problems[0]
    (root / "etc" / "passwd").write_text(ACCOUNTS.replace("news", "olds"))
    assert accounts.refresh() == {1003}
    assert accounts.problems == ()


def test_a_new_configuration(root: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=root)
    standings(accounts, 0, 33, 1001, 1002, 1003)
    assert accounts.reconfigure(Settings(exempt=Exempt(users=("web01",)))) == {33, 1001, 1002, 1003}
    assert standings(accounts, 1001, 1003) == ["exempt", "tenant"]


def test_many_sites_under_one_uid(root: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=root, document_roots=lambda uid: 3 if uid == 1001 else 2)
    assert standings(accounts, 1001, 5000) == ["shared", "tenant"]


def test_mail_servers_users_come_from_what_root_owns(root: Path) -> None:
    put(root, "etc/postfix/main.cf", "mail_owner = web01\n")
    accounts = AccountDirectory(Settings(), root=root)
    assert accounts.account(1001).reason == "mail_owner in /etc/postfix/main.cf"
    (root / "etc" / "postfix" / "main.cf").chmod(0o666)
    accounts.refresh()
    assert accounts.account(1001).standing == "tenant"
    assert "can be written by others" in accounts.problems[0]


def test_an_untrusted_subuid_or_login_defs_is_not_used_and_told(root: Path) -> None:
    for name in ("subuid", "login.defs"):
        (root / "etc" / name).chmod(0o666)
    accounts = AccountDirectory(SETTINGS, root=root)
    assert accounts.owner(100000) == 100000
    assert len(accounts.problems) == 2


def test_passwd_and_group_are_taken_as_the_system_takes_them(root: Path) -> None:
    """Who can write them is root already; without them nobody would be exempt."""
    for name in ("passwd", "group"):
        (root / "etc" / name).chmod(0o666)
    accounts = AccountDirectory(SETTINGS, root=root)
    assert standings(accounts, 1002, 1003) == ["exempt", "exempt"]
    assert len(accounts.problems) == 2


def test_links_to_the_files_are_followed(root: Path) -> None:
    """Whole distributions keep /etc as links into a store of root's."""
    (root / "etc" / "login.defs").rename(root / "stored")
    (root / "etc" / "login.defs").symlink_to(root / "stored")
    put(root, "stored", "UID_MIN 1002\n")
    assert AccountDirectory(SETTINGS, root=root).facts.uid_min == 1002


def test_masked_units_and_aliases_name_nobody(root: Path) -> None:
    units = root / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    put(root, "else.service", "[Service]\nUser=web01\n")
    (units / "exim4.service").symlink_to("/dev/null")
    (units / "postfix.service").symlink_to(root / "else.service")
    put(root, "etc/systemd/system/tenants-own.service", "[Service]\nUser=web02\n")
    accounts = AccountDirectory(Settings(), root=root)
    assert standings(accounts, 1001, 1002) == ["tenant", "tenant"]


@pytest.mark.skipif(os.geteuid() != 0, reason="lacks root (CAP_CHOWN)")
def test_owner_of_exims_spool(root: Path) -> None:
    spool = root / "var" / "spool" / "exim4"
    spool.mkdir(parents=True)
    os.chown(spool, 1001, 1001)
    accounts = AccountDirectory(Settings(), root=root)
    assert accounts.account(1001).reason == "owner of /var/spool/exim4"
    # Who could have made the directory proves nothing by owning it.
    (root / "var" / "spool").chmod(0o1777)
    accounts.refresh(force=True)
    assert accounts.account(1001).standing == "tenant"


def test_host_without_any_file(tmp_path: Path) -> None:
    accounts = AccountDirectory(SETTINGS, root=tmp_path)
    assert standings(accounts, 0, 999, 1000) == ["root", "shared", "tenant"]
    assert accounts.passing_uids() == ((0, 0),)
    assert "UID_MIN is taken to be 1000" in accounts.problems[0]


# Accounts that /etc/passwd does not hold

PATIENCE_S = 10
"""For a thread of our own, which answers at once."""
LDAP = NamedAccount(uid=70_000, name="news", groups=frozenset({"mailers"}))


def service() -> NameService:
    return NameService(ask=lambda key: LDAP if key in (70_000, "news") else None)


def test_a_name_from_elsewhere_comes_later(root: Path) -> None:
    put(root, "etc/passwd", ACCOUNTS.replace("news", "olds"))
    names = service()
    accounts = AccountDirectory(SETTINGS, root=root, names=names)
    assert accounts.account(70_000).name is None
    names.wait_for(70_000, 10)
    assert accounts.refresh() == {70_000}
    account = accounts.account(70_000)
    assert (account.name, account.standing, account.groups) == ("news", "exempt", frozenset({"mailers"}))
    assert (70_000, 70_000) in accounts.passing_uids()


def test_an_exempt_name_from_elsewhere_passes_before_it_was_seen(root: Path) -> None:
    put(root, "etc/passwd", ACCOUNTS.replace("news", "olds"))
    names = service()
    accounts = AccountDirectory(SETTINGS, root=root, names=names)
    accounts.passing_uids()
    names.wait_for("news", 10)
    assert accounts.refresh() == {70_000}
    names.wait_for(70_000, 10)
    accounts.refresh()
    assert (70_000, 70_000) in accounts.passing_uids()


def test_a_person_may_name_such_an_account(root: Path) -> None:
    put(root, "etc/passwd", ACCOUNTS.replace("news", "olds"))
    accounts = AccountDirectory(SETTINGS, root=root, names=service(), patience_s=PATIENCE_S)
    account = accounts.lookup.by_name("news")
    assert account is not None
    assert (account.uid, account.name, account.standing) == (70_000, "news", "exempt")
    assert accounts.lookup.by_name("eve") is None


def test_the_file_wins_over_the_directory_server(root: Path) -> None:
    """Who can write to LDAP must not rename the accounts of this host."""
    evil = NamedAccount(uid=1001, name="news", groups=frozenset({"mailers"}))
    accounts = AccountDirectory(SETTINGS, root=root, names=NameService(ask=lambda _: evil), patience_s=PATIENCE_S)
    assert accounts.account(1001).standing == "tenant"
    by_name = accounts.lookup.by_name("somebody")
    assert by_name is not None
    assert (by_name.name, by_name.standing) == ("web01", "tenant")


def test_subordinate_uids_are_never_asked_for(root: Path) -> None:
    asked: list[int | str] = []
    accounts = AccountDirectory(SETTINGS, root=root, names=NameService(ask=asked.append))
    accounts.account(300_005)
    accounts.account(100_005)
    assert accounts.names is not None
    accounts.names.wait_for("end", 10)
    assert asked == ["end"]


def test_an_answer_about_somebody_else_is_no_answer(root: Path) -> None:
    names = NameService(ask=lambda _: NamedAccount(uid=1001, name="news", groups=frozenset({"mailers"})))
    accounts = AccountDirectory(SETTINGS, root=root, names=names)
    accounts.account(70_000)
    names.wait_for(70_000, 10)
    accounts.refresh()
    assert (accounts.account(70_000).name, accounts.account(70_000).standing) == (None, "tenant")


JOE = NamedAccount(uid=70_001, name="joe@corp.example", groups=frozenset({"domain users@corp.example"}))


def directory(*known: str) -> NameService:
    """A directory that knows one user under several spellings, and calls the account by one of them."""
    return NameService(ask=lambda key: JOE if key in {JOE.uid, JOE.name, *known} else None)


def learn(accounts: AccountDirectory, names: NameService, *keys: int | str) -> None:
    for key in keys:
        names.wait_for(key, 10)
    accounts.refresh()


@pytest.mark.parametrize("spelling", ["CORP\\joe", "Joe", "joe", "JOE@CORP.EXAMPLE", "Joe Public"])
def test_a_spelling_that_the_directory_maps_to_a_user_holds_for_the_uid(root: Path, spelling: str) -> None:
    names = directory(spelling)
    override = Override(match=Match(users=(spelling,)), rules={})
    settings = Settings(exempt=Exempt(users=(spelling,)), overrides=(override,))
    accounts = AccountDirectory(settings, root=root, names=names)
    learn(accounts, names, spelling, JOE.uid)
    account = accounts.account(JOE.uid)
    assert (account.name, account.aliases) == (JOE.name, (spelling,))
    assert (account.standing, account.reason) == ("exempt", f"exempt.users: {spelling}")
    assert matches(override.match, account)
    assert (JOE.uid, JOE.uid) in accounts.passing_uids()
    assert accounts.reconfigure(Settings()) == {JOE.uid}
    assert accounts.account(JOE.uid).standing == "tenant"


def test_a_spelling_holds_before_the_uid_was_asked_for(root: Path) -> None:
    names = directory("CORP\\joe")
    accounts = AccountDirectory(Settings(exempt=Exempt(users=("CORP\\joe",))), root=root, names=names)
    names.wait_for("CORP\\joe", 10)
    assert accounts.refresh() == {JOE.uid}
    assert (accounts.account(JOE.uid).name, accounts.account(JOE.uid).standing) == (None, "exempt")


def test_groups_of_a_directory_have_blanks_and_at_signs(root: Path) -> None:
    names = directory()
    accounts = AccountDirectory(Settings(exempt=Exempt(groups=("domain users@corp.example",))), root=root, names=names)
    accounts.account(JOE.uid)
    learn(accounts, names, JOE.uid)
    assert accounts.account(JOE.uid).standing == "exempt"


def test_who_has_left_an_exempt_group_of_a_directory_is_refused_again(root: Path) -> None:
    now, groups = [0.0], [frozenset({"mailers"})]
    names = NameService(ask=lambda _: replace(JOE, groups=groups[0]), clock=lambda: now[0])
    accounts = AccountDirectory(Settings(exempt=Exempt(groups=("mailers",))), root=root, names=names)
    accounts.account(JOE.uid)
    learn(accounts, names, JOE.uid)
    assert (JOE.uid, JOE.uid) in accounts.passing_uids()
    now[0], groups[0] = KEEP_S + 1, frozenset()
    fileno = names.news_fileno()
    accounts.refresh()
    assert select.select([fileno], [], [], 10)[0]
    assert accounts.refresh() == {JOE.uid}
    assert (JOE.uid, JOE.uid) not in accounts.passing_uids()


def test_whom_a_person_asked_for_first_is_news_too(root: Path) -> None:
    accounts = AccountDirectory(Settings(), root=root, names=directory("ann"), patience_s=PATIENCE_S)
    accounts.account(JOE.uid)
    assert accounts.lookup.by_name(JOE.name) is not None
    assert accounts.refresh() == {JOE.uid}
    assert accounts.refresh() == frozenset()


def test_a_directorys_accounts_have_their_own_limits_in_the_kernel_too(root: Path) -> None:
    names = directory()
    shared = Settings(shared_users=frozenset({JOE.name}))
    accounts = AccountDirectory(shared, root=root, names=names)
    accounts.account(JOE.uid)
    learn(accounts, names, JOE.uid)
    assert JOE.uid in accounts.known_uids()
    assert (JOE.uid, JOE.uid) in accounts.told_uids()


def test_a_directory_can_not_say_that_an_account_of_this_host_is_an_exempt_one(root: Path) -> None:
    evil = NamedAccount(uid=1001, name="corp-news")
    names = NameService(ask=lambda _: evil)
    accounts = AccountDirectory(Settings(exempt=Exempt(users=("corp-news",))), root=root, names=names)
    learn(accounts, names, "corp-news")
    assert accounts.account(1001).standing == "tenant"
    assert (1001, 1001) not in accounts.passing_uids()
