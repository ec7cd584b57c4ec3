"""Elements and transactions by nfnetlink do just what libnftables does, or nothing."""

import os
import random
from collections.abc import Iterator

import pytest

from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.actions.nft.render import TableSpec
from smtpguard.decode.netlink.nft_numbers import Kind, render_names
from smtpguard.errors import EnforceError
from smtpguard.kernel.nft.access import read_set
from smtpguard.kernel.nft.socket import NftError, NftSocket
from smtpguard.kernel.nft.wire import NewElement, render_add, render_create, render_delete, render_flush
from tests.support.netlab import NetnsNft, inside, run

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    name = f"sgf-{os.urandom(3).hex()}"
    run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        run("ip", "netns", "delete", name)


@pytest.fixture
def nft(netns: str) -> Iterator[NetnsNft]:
    nft = NetnsNft(netns)
    enforcer = NftEnforcer(TableSpec(size=64), nft=nft)
    enforcer.ensure()
    yield nft
    enforcer.remove()


def listing(nft: NetnsNft, name: str) -> str:
    text = nft.run(f"list set inet smtpguard {name}")
    return " ".join(text.partition("elements = ")[2].partition("\n\t}")[0].split())


SAME: list[tuple[list[NewElement], str]] = [
    ([(1001, 1001, None, "")], "1001"),
    ([(1001, 1001, None, "uid 1001; guard")], '1001 comment "uid 1001; guard"'),
    ([(1001, 1001, None, ""), (100000, 165535, None, "")], "1001, 100000-165535"),
    ([(5, 5, None, ""), (6, 6, None, ""), (7, 9, None, "")], "5, 6, 7-9"),
    ([(1, 4294967295, None, "")], "1-4294967295"),
    ([(4294967294, 4294967294, None, "c" * 120)], f'4294967294 comment "{"c" * 120}"'),
]


@pytest.mark.parametrize(("elements", "text"), SAME)
def test_the_same_elements_come_out_as_by_libnftables(nft: NetnsNft, elements: list[NewElement], text: str) -> None:
    nft.transact(render_create("smtpguard", "blocked", elements))
    nft.run(f"add element inet smtpguard throttled {{ {text} }}")
    assert listing(nft, "blocked") == listing(nft, "throttled") == f"{{ {text} }}"
    assert read_set(nft, "smtpguard", "blocked") == read_set(nft, "smtpguard", "throttled") == elements
    nft.transact(render_delete("smtpguard", "throttled", [(first, last) for first, last, *_ in elements]))
    nft.run(f"delete element inet smtpguard blocked {{ {text.partition(' comment')[0]} }}")
    assert listing(nft, "blocked") == listing(nft, "throttled") == ""


def test_a_timeout_is_one(nft: NetnsNft) -> None:
    nft.transact(render_create("smtpguard", "blocked", [(1001, 1001, 650_500, "")]))
    assert "1001 timeout 10m50s500ms expires 10m" in listing(nft, "blocked")
    [(first, last, left_ms, comment)] = read_set(nft, "smtpguard", "blocked")
    assert (first, last, comment) == (1001, 1001, "")
    assert left_ms is not None
    assert 600_000 < left_ms <= 650_500


@pytest.mark.parametrize(
    ("table", "name", "elements", "what"),
    [
        ("smtpguard", "blocked", [(20, 20, None, "")], "present"),
        ("smtpguard", "blocked", [(5, 5, None, ""), (20, 20, None, "")], "present"),
        ("smtpguard", "blocked", [(25, 25, None, "")], "present"),
        ("smtpguard", "blocked", [(22, 40, None, "")], "present"),
        ("smtpguard", "blocked", [(1, 100, None, "")], "present"),
        ("smtpguard", "nothing", [(5, 5, None, "")], "missing"),
        ("nothing", "blocked", [(5, 5, None, "")], "missing"),
        ("smtpguard", "blocked", [(2 * i, 2 * i, None, "") for i in range(100, 1000)], "full"),
    ],
)
def test_what_is_refused_changes_nothing(
    nft: NetnsNft, table: str, name: str, elements: list[NewElement], what: str
) -> None:
    nft.run("add element inet smtpguard blocked { 20, 22-30 }")
    with pytest.raises(NftError) as caught:
        nft.transact([*render_add("smtpguard", "blocked", [(3, 3, None, "")]), *render_create(table, name, elements)])
    assert getattr(caught.value, what)
    assert caught.value.index == 1
    assert listing(nft, "blocked") == "{ 20, 22-30 }"
    nft.transact(render_create("smtpguard", "blocked", [(7, 7, None, "")]))
    assert listing(nft, "blocked") == "{ 7, 20, 22-30 }", "the next one is not confused"


def test_adding_what_is_there_leaves_it(nft: NetnsNft) -> None:
    for _ in range(2):
        nft.transact(render_add("smtpguard", "blocked", [(7, 7, None, "first")]))
    assert listing(nft, "blocked") == '{ 7 comment "first" }'


def test_deleting_what_is_not_there_is_missing_and_a_flush_never_is(nft: NetnsNft) -> None:
    with pytest.raises(NftError) as caught:
        nft.transact(render_delete("smtpguard", "blocked", [(7, 7)]))
    assert caught.value.missing
    nft.transact(render_flush("smtpguard", "blocked"))


def test_a_full_set_takes_no_more(nft: NetnsNft) -> None:
    taken = 0
    with pytest.raises(NftError) as caught:  # noqa: PT012 - how many fit is the kernel's business
        for index in range(1, 200):
            nft.transact(render_create("smtpguard", "blocked", [(2 * index, 2 * index, None, "")]))
            taken += 1
    assert caught.value.full
    assert 32 <= taken <= 128


def test_more_elements_than_one_message_holds_go_in_one_transaction(netns: str) -> None:
    nft = NetnsNft(netns)
    enforcer = NftEnforcer(TableSpec(), nft=nft)
    enforcer.ensure()
    try:
        uids = sorted(random.sample(range(1000, 2**32 - 10, 3), 12_000))
        elements: list[NewElement] = [(uid, uid + uid % 2, None, f"uid {uid}; guard") for uid in uids]
        changes = render_create("smtpguard", "blocked", elements)
        assert len(changes) > 10
        nft.transact(changes)
        assert read_set(nft, "smtpguard", "blocked") == elements
        with pytest.raises(NftError):
            nft.transact(render_delete("smtpguard", "blocked", [*((a, b) for a, b, *_ in elements), (3, 3)]))
        assert len(read_set(nft, "smtpguard", "blocked")) == len(elements)
        nft.transact(render_delete("smtpguard", "blocked", [(a, b) for a, b, *_ in elements]))
        assert read_set(nft, "smtpguard", "blocked") == []
    finally:
        enforcer.remove()


def test_a_closed_socket_is_no_success(netns: str) -> None:
    with inside(netns):
        way = NftSocket()
    way.close()
    with pytest.raises(EnforceError):
        way.transact(render_create("smtpguard", "blocked", [(7, 7, None, "")]))
    with pytest.raises(EnforceError):
        way.get(Kind.GETTABLE, render_names("smtpguard"), dump=False)
