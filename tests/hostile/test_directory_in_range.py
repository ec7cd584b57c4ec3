"""Attack 14: a directory account inside somebody's subordinate range counts for them, and is blocked with them."""

import json
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.enrich.accounts.inside_ranges import PER_OWNER_S
from smtpguard.enrich.accounts.name_service import NamedAccount, NameService
from smtpguard.errors import UnansweredError
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.policy.subuids import MAX_PIECES, Range, RangeMap
from smtpguard.settings import Settings
from tests.e2e.test_names import JOE, with_directory
from tests.support.host import OTHER, SPAMMER, Host, wait_for

USERS = "root:x:0:0::/:/bin/sh\nweb01:x:1001:1001::/:/bin/sh\nweb02:x:1002:1002::/:/bin/sh\n"
LDAP = {100_007: "joe", 200_007: "ann"}


class Service:
    """A directory that knows some, may be down, and remembers what it was asked."""

    def __init__(self) -> None:
        self.accounts = dict(LDAP)
        self.is_down = False
        self.asked: list[int | str] = []

    def __call__(self, key: int | str, /) -> NamedAccount | None:
        is_down = self.is_down
        self.asked.append(key)  # whoever sees it may have it up again at once
        if is_down:
            raise UnansweredError("the name service does not answer")
        name = self.accounts.get(key) if isinstance(key, int) else None
        return NamedAccount(uid=int(key), name=name) if name is not None else None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    for name, text in (
        ("passwd", USERS),
        ("group", ""),
        ("subuid", "web01:100000:65536\nroot:200000:65536\n"),
        ("login.defs", "UID_MIN 1000\n"),
    ):
        path = tmp_path / "etc" / name
        path.write_text(text)
        path.chmod(0o644)
    return tmp_path


def accounts_of(root: Path, service: Service) -> tuple[AccountDirectory, list[float]]:
    now = [100.0]
    return AccountDirectory(Settings(), root=root, names=NameService(service, lambda: now[0])), now


def settle(accounts: AccountDirectory, service: Service, questions: int) -> frozenset[int]:
    wait_for(lambda: len(service.asked) >= questions)
    changed: set[int] = set()

    def took() -> bool:
        changed.update(accounts.take_news())
        return bool(changed)

    wait_for(took)
    return frozenset(changed)


@pytest.mark.parametrize(("uid", "before"), [(100_007, 1001), (200_007, 0)])
def test_it_counts_for_itself(root: Path, uid: int, before: int) -> None:
    service = Service()
    accounts, _ = accounts_of(root, service)
    assert accounts.owner(uid) == before, "nobody has said yet"
    assert {uid, before} <= settle(accounts, service, 1)
    assert accounts.owner(uid) == uid
    assert accounts.owner(uid + 1) == before
    wait_for(lambda: accounts.account(uid).name or accounts.take_news())
    account = account_of(accounts, subject_of(accounts, uid))
    assert (account.name, account.standing) == (LDAP[uid], "tenant"), "and is no container, in a range of root's"
    assert not any(first <= uid < first + count for first, count, _ in accounts.ranges())
    assert not any(first <= uid < first + count for first, count in accounts.account(1001).ranges)
    assert not any(first <= uid <= last for first, last in accounts.told_uids())
    assert any(f"uid {uid} is an account of a directory" in problem for problem in accounts.problems)


def test_it_stays_so_when_the_files_are_read_again(root: Path) -> None:
    service = Service()
    accounts, _ = accounts_of(root, service)
    accounts.owner(100_007)
    settle(accounts, service, 1)
    renewal = accounts.renew(Settings())
    accounts.owner(200_007)

    def told() -> bool:
        accounts.take_news()  # of names too, in whatever order they come
        return accounts.owner(200_007) == 200_007

    wait_for(told)
    accounts.adopt(renewal)
    assert (accounts.owner(100_007), accounts.owner(200_007)) == (100_007, 200_007)
    assert not any(first <= 200_007 <= last for first, last in accounts.told_uids())


def test_one_that_is_deleted_is_a_subordinate_uid_again(root: Path) -> None:
    service = Service()
    accounts, now = accounts_of(root, service)
    accounts.owner(100_007)
    settle(accounts, service, 1)
    wait_for(lambda: accounts.account(100_007).name or accounts.take_news())
    service.accounts.clear()
    now[0] += 1000
    accounts.take_news()
    wait_for(lambda: accounts.take_news() >= {100_007, 1001})
    assert accounts.owner(100_007) == 1001


def test_a_service_that_is_down_leaves_the_range_to_its_owner(root: Path) -> None:
    service = Service()
    service.is_down = True
    accounts, now = accounts_of(root, service)
    assert accounts.owner(100_007) == 1001
    wait_for(lambda: service.asked)
    assert accounts.owner(100_007) == 1001
    service.is_down = False

    def asked_again() -> bool:
        now[0] += 60
        accounts.owner(100_007)
        return len(service.asked) > 1

    wait_for(asked_again)
    settle(accounts, service, 2)
    assert accounts.owner(100_007) == 100_007


def test_who_shows_all_uids_of_a_range_asks_little_and_leaves_the_others_their_questions(root: Path) -> None:
    service = Service()
    accounts, _ = accounts_of(root, service)
    for uid in range(110_000, 160_000):
        assert accounts.owner(uid) == 1001
    accounts.owner(200_007)
    settle(accounts, service, PER_OWNER_S + 1)
    assert len(service.asked) == PER_OWNER_S + 1
    assert accounts.owner(200_007) == 200_007
    assert accounts.inside is not None
    assert accounts.inside.not_asked == 50_000 - PER_OWNER_S


@given(st.sets(st.integers(90, 130)), st.sets(st.integers(90, 130)))
def test_without_is_what_it_says(first: set[int], second: set[int]) -> None:
    ranges = RangeMap(
        [
            Range(first=95, count=10, owner=1),
            Range(first=105, count=3, owner=2),
            *(Range(first=110 + 2 * i, count=1, owner=3) for i in range(5)),
        ]
    )
    cut = ranges.without(first).without(second)
    for uid in range(85, 135):
        assert cut.owner(uid) == (uid if uid in first | second else ranges.owner(uid))
    assert cut.ranges == tuple(sorted(cut.ranges))
    assert all(a.last < b.first for a, b in pairwise(cut.ranges))
    assert {r.owner: cut.of(r.owner) for r in cut.ranges} == {
        r.owner: tuple((o.first, o.count) for o in cut.ranges if o.owner == r.owner) for r in cut.ranges
    }


def test_it_stays_within_the_pieces_that_a_set_takes() -> None:
    cut = RangeMap([Range(first=1000, count=1000, owner=1)]).without(range(1001, 1990, 2))
    assert 1 <= len(cut.of(1)) <= MAX_PIECES
    assert all(cut.owner(uid) == uid for uid in range(1001, 1990, 2))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Host]:
    tmp_path.chmod(0o755)
    with with_directory(tmp_path, monkeypatch) as (host, _):
        host.lab.lay_over("/etc/subuid", f"{SPAMMER[0]}:70000:1000\n")
        yield host


def list_blocked(host: Host) -> set[int]:
    return {row["uid"] for row in json.loads(host.cli("blocks", "--json").stdout)}


@pytest.mark.kernel
def test_the_guard_tells_them_apart(host: Host) -> None:
    host.start()
    assert host.connect(JOE).ok == 1
    wait_for(lambda: f"uid {JOE[1]} is an account of a directory" in host.stderr())
    assert host.connect(("subuid", 70_500), 8).refused > 0, "the range is stopped"
    wait_for(lambda: list_blocked(host) == {SPAMMER[1]})
    done = host.connect(JOE, 7)
    assert (done.ok, done.refused) == (5, 2), "and joe has all that is theirs"
    assert host.connect(OTHER, 3).ok == 3
    wait_for(lambda: list_blocked(host) == {SPAMMER[1], JOE[1]})
    host.cli("unblock", SPAMMER[0])
    assert host.connect(("subuid", 70_500)).ok == 1
    assert host.connect(JOE).refused == 1, "nor do they help each other"
