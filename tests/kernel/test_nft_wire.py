"""The fast way into a set does just what libnftables does, or nothing."""

import os
from collections.abc import Iterator

import pytest

from smtpguard.actions.nft.apply import NftEnforcer
from smtpguard.actions.nft.render import TableSpec
from smtpguard.kernel.nft_wire import ElementWriter, NewElement
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
def guard(netns: str) -> Iterator[NftEnforcer]:
    enforcer = NftEnforcer(TableSpec(size=64), nft=NetnsNft(netns))
    enforcer.ensure()
    yield enforcer
    enforcer.remove()


@pytest.fixture
def writer(netns: str) -> Iterator[ElementWriter]:
    with inside(netns):
        writer = ElementWriter()
    yield writer
    writer.close()


def listing(guard: NftEnforcer, name: str) -> str:
    text = guard._nft.run(f"list set inet smtpguard {name}")
    return text.partition("elements = ")[2].partition("\n\t}")[0]


@pytest.mark.parametrize(
    ("elements", "text"),
    [
        ([(1001, 1001, None, "")], "1001"),
        ([(1001, 1001, None, "uid 1001; guard")], '1001 comment "uid 1001; guard"'),
        ([(1001, 1001, None, ""), (100000, 165535, None, "")], "1001, 100000-165535"),
        ([(5, 5, None, ""), (6, 6, None, ""), (7, 9, None, "")], "5, 6, 7-9"),
        ([(1, 4294967295, None, "")], "1-4294967295"),
        ([(4294967294, 4294967294, None, "c" * 120)], f'4294967294 comment "{"c" * 120}"'),
    ],
)
def test_the_same_elements_come_out_as_by_libnftables(
    guard: NftEnforcer, writer: ElementWriter, elements: list[NewElement], text: str
) -> None:
    assert writer.create("smtpguard", "blocked", elements)
    guard._nft.run(f"add element inet smtpguard throttled {{ {text} }}")
    assert listing(guard, "blocked") == listing(guard, "throttled") == f"{{ {text} }}"
    guard._nft.run(f"delete element inet smtpguard blocked {{ {text.partition(' comment')[0]} }}")
    assert listing(guard, "blocked") == ""


def test_a_timeout_is_one(guard: NftEnforcer, writer: ElementWriter) -> None:
    assert writer.create("smtpguard", "blocked", [(1001, 1001, 600_500, "")])
    assert "1001 timeout 10m500ms expires 10m" in listing(guard, "blocked")


@pytest.mark.parametrize(
    ("table", "name", "elements"),
    [
        ("smtpguard", "blocked", [(20, 20, None, "")]),
        ("smtpguard", "blocked", [(5, 5, None, ""), (20, 20, None, "")]),
        ("smtpguard", "blocked", [(25, 25, None, "")]),
        ("smtpguard", "blocked", [(22, 40, None, "")]),
        ("smtpguard", "blocked", [(1, 100, None, "")]),
        ("smtpguard", "nothing", [(5, 5, None, "")]),
        ("nothing", "blocked", [(5, 5, None, "")]),
        ("smtpguard", "blocked", []),
        ("smtpguard", "blocked", [(2 * i, 2 * i, None, "") for i in range(100, 1000)]),
    ],
)
def test_what_is_not_plain_changes_nothing(
    guard: NftEnforcer, writer: ElementWriter, table: str, name: str, elements: list[NewElement]
) -> None:
    guard._nft.run("add element inet smtpguard blocked { 20, 22-30 }")
    assert not writer.create(table, name, elements)
    assert listing(guard, "blocked") == "{ 20, 22-30 }"
    assert writer.create("smtpguard", "blocked", [(7, 7, None, "")]), "the next one is not confused"


@pytest.mark.usefixtures("guard")
def test_a_full_set_takes_no_more(writer: ElementWriter) -> None:
    taken = [writer.create("smtpguard", "blocked", [(2 * i, 2 * i, None, "")]) for i in range(1, 200)]
    assert taken[0]
    assert not taken[-1]
    assert 32 <= sum(taken) <= 128


def test_a_closed_socket_is_no_success(guard: NftEnforcer, writer: ElementWriter) -> None:
    writer.close()
    assert not writer.create("smtpguard", "blocked", [(7, 7, None, "")])
    assert listing(guard, "blocked") == ""
