"""Attack: a directory (LDAP, NIS) in which tenants choose names: that of an exempt account of the host, or worse."""

from pathlib import Path

import pytest

from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.enrich.accounts.name_service import NamedAccount, NameService
from smtpguard.policy.standing import MTA_NAMES
from smtpguard.settings import Exempt, Settings
from smtpguard.text import render_user
from tests.support.host import wait_for

USERS = "root:x:0:0::/:/bin/sh\nnews:x:1003:1003::/:/bin/sh\nweb01:x:1001:1001::/:/bin/sh\n"
SETTINGS = Settings(
    exempt=Exempt(users=("news",), groups=("mailers",)),
    shared_users=frozenset({"webfarm", "vmail"}),
    shared_shipped=frozenset({"vmail"}),
)
UID = 70_001


class Directory:
    """Says what it is told to say."""

    def __init__(self, **answers: NamedAccount | None) -> None:
        self.answers = answers

    def __call__(self, key: int | str, /) -> NamedAccount | None:
        return self.answers.get(str(key) if isinstance(key, str) else f"uid{key}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    for name, text in (("passwd", USERS), ("group", "mailers:x:200:news\n"), ("login.defs", "UID_MIN 1000\n")):
        path = tmp_path / "etc" / name
        path.write_text(text)
        path.chmod(0o644)
    return tmp_path


def known(root: Path, name: str, *, uid: int = UID, groups: frozenset[str] = frozenset()) -> AccountDirectory:
    accounts = AccountDirectory(
        SETTINGS, root=root, names=NameService(Directory(uid70001=NamedAccount(uid=uid, name=name, groups=groups)))
    )
    accounts.account(UID)
    names = accounts.names
    assert names is not None
    wait_for(lambda: names.find(UID) is not None)
    accounts.take_news()
    return accounts


@pytest.mark.parametrize("groups", [frozenset(), frozenset({"mailers"})])
def test_a_name_of_the_hosts_own_is_not_theirs(root: Path, groups: frozenset[str]) -> None:
    accounts = known(root, "news", groups=groups)
    account = accounts.account(UID)
    assert (account.standing, account.name) == ("tenant", None), "nor are the groups, which the C library finds by name"
    assert accounts.account(1003).standing == "exempt"
    found = accounts.lookup.by_name("news")
    assert found is not None
    assert found.uid == 1003
    assert not any(first <= UID <= last for first, last in accounts.passing_uids())


@pytest.mark.parametrize("name", ["vmail", *sorted(MTA_NAMES)])
def test_a_name_of_the_shipped_lists_is_no_standing(root: Path, name: str) -> None:
    assert known(root, name).account(UID).standing == "tenant"


def test_a_name_that_the_operator_wrote_is(root: Path) -> None:
    assert known(root, "webfarm").account(UID).standing == "shared"


def test_an_answer_about_somebody_else_is_none(root: Path) -> None:
    assert known(root, "joe", uid=1003).account(UID).name is None
    assert known(root, "joe", uid=0).account(UID).standing == "tenant"


@pytest.mark.parametrize(
    "name", ["", "a b", "x\nUSER=web01 UID=1001 EVENT=EXCEEDED", "\x1b[2J", "a" * 100_000, "%s:/../"]
)
def test_an_odd_name_is_one_word_in_the_log(root: Path, name: str) -> None:
    account = known(root, name).account(UID)
    field = render_user(UID, account.name)
    assert field
    assert field.isascii()
    assert field.isprintable()
    assert not set(' "\\\n') & set(field)
    assert len(field) < 1000
