"""Who is in our sets and in no list: adopted where a hand put them there, gone where an old ruleset brought them."""

import contextlib
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpguard.control.client import ask
from smtpguard.daemon.enforce.identity import FACT
from smtpguard.model import NS
from tests.support.host import INNOCENT, OTHER, POSTFIX, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

CALM = {"blocks": 100, "per": "10m"}


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(sources="none", breaker=CALM, attribution={"process": False}) as made:
        yield made


def list_blocks(host: Host) -> dict[int, dict[str, Any]]:
    rows = ask(f"{host.lab.directory}/control.sock", "blocks")["items"]
    return {row["uid"]: row for row in rows if row["kind"] != "allow"}


def is_refused(host: Host, user: tuple[str, int]) -> bool:
    return host.connect(user).refused == 1


def save(host: Host) -> Path:
    path = host.lab.directory / "saved.nft"
    path.write_text(host.nft("list", "ruleset"))
    return path


def add(host: Host, uids: str, name: str = "blocked") -> None:
    host.nft("add", "element", "inet", "smtpguard", name, f"{{ {uids} }}")


def nft_row(host: Host) -> dict[str, Any]:
    rows = ask(f"{host.lab.directory}/control.sock", "status")["status"]["enforcement"]
    return next(row for row in rows if row["name"] == "nft")


@pytest.mark.parametrize("dry_run", [False, True])
def test_put_in_by_hand_they_are_listed_told_and_can_be_undone(host: Host, dry_run: bool) -> None:
    host.configure(dry_run=dry_run)
    host.start()
    assert host.cli("block", OTHER[0], "--for", "1h").returncode == 0  # in dry run it brings the table
    add(host, f"{SPAMMER[1]} timeout 10m")
    add(host, f"{INNOCENT[1]}", "throttled")
    wait_for(lambda: list_blocks(host).keys() >= {SPAMMER[1], INNOCENT[1]})
    held = list_blocks(host)
    assert (held[SPAMMER[1]]["kind"], held[SPAMMER[1]]["by"], held[SPAMMER[1]]["mode"]) == ("block", "admin", "enforce")
    assert held[INNOCENT[1]]["kind"] == "throttle"
    left = float(str(held[SPAMMER[1]]["until"])) - float(str(held[SPAMMER[1]]["since"]))
    assert 590 < left < 601, "the kernel's own end"
    assert re.search(r"added to the nft set by nft \(pid \d+\)", str(held[SPAMMER[1]]["why"]))
    wait_for(lambda: {row["USER"] for row in host.events("BLOCK")} >= {SPAMMER[0], INNOCENT[0]})
    assert is_refused(host, SPAMMER)
    pid = ask(f"{host.lab.directory}/control.sock", "status")["status"]["pid"]
    assert "libnftables" not in Path(f"/proc/{pid}/maps").read_text(), (
        "it asks the name service, and reads everybody's sets"
    )
    row = nft_row(host)
    assert row["in_step"] is True
    assert "in sync with the list (checked 2" in str(row["state"])
    host.nft("flush", "ruleset")
    wait_for(lambda: is_refused(host, SPAMMER))
    for user in (SPAMMER, INNOCENT):
        assert host.cli("unblock", user[0]).returncode == 0
        assert not is_refused(host, user)
    assert is_refused(host, OTHER)


def test_who_cannot_be_blocked_is_taken_out(host: Host) -> None:
    host.start()
    add(host, f"{POSTFIX[1]}, 900000-999999")
    wait_for(lambda: "900000" not in (text := host.nft("list", "set", "inet", "smtpguard", "blocked")) and text)
    assert list_blocks(host) == {}
    assert "too many to be listed" in host.stderr()
    assert "can't be blocked (mta): taken out" in host.stderr()
    assert nft_row(host)["in_step"] is True


@pytest.mark.parametrize("flush", [True, False])
def test_a_ruleset_saved_while_somebody_was_blocked_refuses_nobody_later(host: Host, flush: bool) -> None:
    host.start()
    assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    saved = save(host)
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    assert host.cli("block", INNOCENT[0], "--for", "1h").returncode == 0
    if flush:
        saved.write_text("flush ruleset\n" + saved.read_text())
    host.nft("-f", str(saved))
    wait_for(lambda: not is_refused(host, SPAMMER))
    assert is_refused(host, INNOCENT), "blocks made since are put back"
    assert list_blocks(host).keys() == {INNOCENT[1]}
    assert nft_row(host)["in_step"] is True


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_ruleset_loaded_before_the_start_refuses_nobody(host: Host, dry_run: bool) -> None:
    """`nft list ruleset > /etc/nftables.conf`, then a reboot: the commonest case."""
    host.start()
    assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    saved = save(host)
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    host.stop()
    host.nft("delete", "table", "inet", "smtpguard")
    host.nft("-f", str(saved))
    assert is_refused(host, SPAMMER)
    host.configure(dry_run=dry_run)
    host.start()
    assert not is_refused(host, SPAMMER)
    assert list_blocks(host) == {}
    assert "loaded by somebody else" in host.stderr()


def test_a_saved_ruleset_loaded_while_nothing_is_to_be_refused_goes(host: Host) -> None:
    host.configure(dry_run=True)
    host.start()
    assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    saved = save(host)
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    wait_for(lambda: host.nft("list", "ruleset") == "")
    host.nft("-f", str(saved))
    wait_for(lambda: host.nft("list", "ruleset") == "")
    assert not is_refused(host, SPAMMER)


@pytest.mark.parametrize("lost", [False, True])
def test_put_in_while_no_guard_runs_they_are_adopted(host: Host, lost: bool) -> None:
    host.start()
    ask(f"{host.lab.directory}/control.sock", "block", user=OTHER[0], for_ns=3600 * NS)
    host.stop()  # at once: which table is ours is kept by then
    add(host, f"{SPAMMER[1]} timeout 10m")
    if lost:
        for path in host.lab.directory.glob("state.db*"):
            path.unlink()
    host.start()
    assert is_refused(host, SPAMMER)
    held = list_blocks(host)
    assert held.keys() == {SPAMMER[1], OTHER[1]}
    assert held[SPAMMER[1]]["by"] == "admin"
    assert ("the state does not know the nft table" in host.stderr()) is lost


def test_unblock_takes_out_of_both_sets_whatever_the_list_says(host: Host) -> None:
    host.start()
    host.stop(signal.SIGKILL)
    add(host, f"{SPAMMER[1] - 1}-{SPAMMER[1]}")
    add(host, f"{SPAMMER[1]}-{INNOCENT[1]}", "throttled")
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    for name, left in (("blocked", SPAMMER[1] - 1), ("throttled", INNOCENT[1])):
        text = host.nft("list", "set", "inet", "smtpguard", name)
        assert re.search(rf"elements = {{ {left}\b", text), text
        assert str(SPAMMER[1]) not in text
    assert host.cli("unblock", "--all").returncode == 0
    assert "elements" not in host.nft("list", "set", "inet", "smtpguard", "throttled")


def test_a_list_of_thousands_put_in_is_told_and_not_made_blocks_one_by_one(host: Host) -> None:
    host.start()
    add(host, ", ".join(str(1_000_000 + 2 * number) for number in range(3_000)))
    wait_for(lambda: nft_row(host)["in_step"] is False)
    assert list_blocks(host) == {}
    shown = host.cli("status").stdout
    assert "OUT OF SYNC: 3000 users more blocked in the kernel than listed" in shown
    assert host.cli("unblock", "--all").returncode == 0
    assert "elements" not in host.nft("list", "set", "inet", "smtpguard", "blocked")
    wait_for(lambda: nft_row(host)["in_step"] is True)


def read_handle(host: Host) -> str:
    """The number that the kernel gave our table when it was made."""
    found = re.search(r"table inet smtpguard \{ # handle (\d+)", host.nft("-a", "list", "table", "inet", "smtpguard"))
    assert found is not None
    return found[1]


def read_kept_table(host: Host) -> str:
    """Which table the state's file says is ours."""
    with contextlib.closing(sqlite3.connect(f"file:{host.lab.directory}/state.db?mode=ro", uri=True)) as file:
        (value,) = file.execute("SELECT value FROM facts WHERE name = ?", (FACT,)).fetchone()
    return value.decode() if isinstance(value, bytes) else str(value)


def test_a_table_that_was_just_made_is_known_after_a_kill(host: Host) -> None:
    """Found by a guard that was killed soon after `on`: who was in its table, and in no state yet, was let go."""
    host.start()
    assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    time.sleep(1.2)  # the sets are looked at a second after the start, and after that every ten seconds
    assert host.cli("off").returncode == 0
    assert host.cli("on").returncode == 0
    wait_for(lambda: read_kept_table(host).endswith(f" {read_handle(host)}"))  # a thread writes it
    host.stop(signal.SIGKILL)
    add(host, f"{INNOCENT[1]} timeout 1h")
    host.start()
    assert list_blocks(host).keys() == {SPAMMER[1], INNOCENT[1]}
    assert "somebody else" not in host.stderr()
