"""The screen of `watch` as people have it: in a terminal, with a real daemon and real connections."""

import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.host import INNOCENT, SMTPGUARD, SPAMMER, Host, wait_for
from tests.support.terminal import Terminal

pytestmark = pytest.mark.kernel


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(attribution={"rdns": False}, rules=[], breaker={"blocks": 100, "per": "10m"}) as made:
        yield made


def watch(host: Host, *words: str, size: tuple[int, int] = (80, 24)) -> Terminal:
    argv = host.lab.argv([*SMTPGUARD, "watch", "--config", host.config, *words])
    return Terminal(host.lab.directory, argv, size)


def seen(screen: list[str]) -> int:
    found = re.search(r" (\d+) seen", screen[1])
    return int(found[1]) if found else -1


def test_an_administrator_blocks_a_user_from_the_screen(host: Host) -> None:
    host.start()
    with watch(host) as screen:
        begun = time.monotonic()
        screen.wait("LIVE", "enforcing (bpf)", "0 seen")
        assert time.monotonic() - begun < 6, "attached within 2 s"
        assert host.connect(SPAMMER, 30).ok == 30
        host.connect(INNOCENT, 3, port=587)
        screen.wait(" 33 seen", "SUBMISSION")
        # What is seen may be drawn in part: each line is waited for.
        wait_for(lambda: sum("web02" in line and " 587 " in line for line in screen.lines()) == 3)
        screen.press("2")
        screen.wait("LAST MINUTE", "web01")
        wait_for(lambda: [line.split()[1:2] for line in screen.lines() if line.startswith("web01")] == [["30"]])
        screen.press("/", "w", "e", "b", "0", "1", "Enter")
        screen.wait("filter 'web01': 1 found")
        screen.press("Enter")
        screen.wait("-- why web01", "30 attempts in the last hour, none refused here", "smtpguard block web01 --for 1h")
        screen.press("Escape")  # with the next key at once it would be Alt and that key
        wait_for(lambda: "Esc closes" not in "".join(screen.lines()))
        screen.press("B")
        screen.wait("BLOCK web01 (uid 61101)", "for 1 h, until ")
        screen.press("-")
        screen.wait("for 10 min, until ")
        assert host.connect(SPAMMER, 1).ok == 1, "a question does nothing"
        screen.press("y")
        screen.wait("BLOCKED ")
        done = host.connect(SPAMMER, 20)
        assert (done.ok, done.refused) == (0, 20), "the kernel refuses them"
        assert host.connect(INNOCENT, 2).ok == 2, "and nobody else"
        (block,) = wait_for(lambda: host.events("BLOCK"))
        assert (block["USER"], block["BY"]) == ("web01", "admin")
        screen.press("1", "i")
        screen.wait("result refused", "x ")
        screen.press("i", "5")
        screen.wait("WHAT", "BLOCKED")
        screen.press("u")
        screen.wait("UNBLOCK web01 (uid 61101)")
        screen.press("Y")
        wait_for(lambda: host.connect(SPAMMER, 1).ok == 1)
        screen.press("q")
        wait_for(lambda: not screen.is_open())


def test_without_a_daemon_with_one_and_with_its_successor(host: Host) -> None:
    with watch(host) as screen:
        screen.wait("NO DAEMON: own source")
        wait_for(lambda: host.connect(INNOCENT, 1).ok and seen(screen.lines()) > 0)
        screen.press("b", "y")
        screen.wait("no daemon answers")
        host.start()
        screen.wait("enforcing (bpf)")
        screen.press("c")
        screen.wait(" 0 seen")
        host.connect(SPAMMER, 5)
        screen.wait(" 5 seen")
        host.stop(signal.SIGKILL)
        screen.wait("BLIND: ")
        host.start()
        screen.wait("enforcing (bpf)")
        wait_for(lambda: seen(screen.lines()) >= 5)
        before = seen(screen.lines())
        host.connect(SPAMMER, 4)
        screen.wait(f" {before + 4} seen")


@pytest.mark.long
def test_no_colour_where_none_is_wanted_and_the_terminals_own_else(host: Host) -> None:
    host.configure(dry_run=True)
    host.start()
    argv = host.lab.argv([*SMTPGUARD, "watch", "--config", host.config])
    for env in ({}, {"NO_COLOR": "1"}):
        with Terminal(host.lab.directory, argv, env=env) as screen:
            screen.wait("DRY RUN: nobody is refused")
            host.connect(SPAMMER, 1)
            screen.wait(" 1 seen")
            codes = set(re.findall(r"\x1b\[([\d;]*)m", screen.raw()))
            numbers = {int(code) for text in codes for code in text.split(";") if code}
            colours = numbers & {*range(30, 38), *range(90, 98)}
            assert bool(colours) is not bool(env), codes
            assert not numbers & {38, 48, *range(40, 48)}, "no background but the terminal's, no colour but its own"
            screen.press("C-c")
            wait_for(lambda: not screen.is_open())
