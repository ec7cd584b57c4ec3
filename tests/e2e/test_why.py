"""A hacked PHP site in a real FPM pool floods: what `why` says of it, held against the event log, counted by itself."""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4, PEER6
from smtpguard.errors import PrivilegeError
from tests.fakes.namespaces import run_forked
from tests.php import Fpm, running_fpm
from tests.support.host import INNOCENT, OTHER, SHARED, SPAMMER, Host, wait_for
from tests.support.pseudo_terminal import run_in_terminal

pytestmark = pytest.mark.kernel

RULE = {
    "name": "mx-burst", "ports": [25], "count": "connections", "limit": 12, "window": "10m", "action": "block",
    "block": "30m",
}  # fmt: skip
COUNT = 60
PLUGIN = "public_html/wp-content/plugins/x/send.php"
SLOW = 13
"""Attempts up to the verdict: so slowly that each can be looked at."""
FLOOD = """
function attempt($to, $pause) {
    $s = @stream_socket_client("tcp://$to:25", $code, $text, 5); usleep($pause); if ($s) fclose($s);
    return $s ? "ok" : "refused";
}
function flood($peers, $count, $slow) {
    $done = ["ok" => 0, "refused" => 0];
    for ($i = 0; $i < $count; $i++) $done[attempt($peers[$i % count($peers)], $i < $slow ? 100000 : 4000)]++;
    return $done;
}
"""
CALL = 'include "%s"; echo "<", json_encode(flood(["%s", "[%s]"], %d, %d)), ">";'
STACK = ["send.php:4", "send.php:9", "index.php:2"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sg-why-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def flood(fpm: Fpm) -> dict[str, int]:
    """The hacked site floods; what its script saw."""
    plugin = fpm.write(PLUGIN, FLOOD)
    index = fpm.write("public_html/index.php", CALL % (plugin, PEER4, PEER6, COUNT, SLOW))
    fpm.give_to_pool()
    found = re.search(rb"<({.*})>", fpm.run(index, REQUEST_URI="/?x=1", REMOTE_ADDR="192.0.2.77"))
    assert found is not None
    done: dict[str, int] = json.loads(found[1])
    return done


def count_log(host: Host) -> Counter[tuple[str, str]]:
    rows = host.events("CONNECT")
    return Counter((row["DST"], row["RESULT"]) for row in rows if row["UID"] == str(SPAMMER[1]))


def ask_why(host: Host, *words: str) -> dict[str, Any]:
    done = host.cli("why", SPAMMER[0], "--json", *words)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def show(host: Host, *words: str) -> str:
    done = host.cli("why", SPAMMER[0], *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_why_tells_of_a_hacked_site_what_the_log_tells(folder: Path) -> None:
    """In a real pool, after SIGKILL and a restart, and after `unblock`; to the customer without any of it."""
    with (
        Host(rules=[RULE]) as host,
        running_fpm(folder, SPAMMER[1], lab=host.lab) as fpm,
    ):
        admit(host, "why", "events", "report", "incidents")
        host.start()
        seen = flood(fpm)
        assert host.connect(INNOCENT, 3).ok == 3
        assert seen["ok"] == RULE["limit"], "exact, and the page went on"
        wait_for(lambda: count_log(host).total() == COUNT)

        def is_whole() -> bool:
            """What became of the last one is summed up each second, and written within the next."""
            found = ask_why(host)
            connected = sum(place["connected"] or 0 for place in found["destinations"])
            return found["attempts"]["hour"] == COUNT and connected == seen["ok"] and bool(found["files"])

        wait_for(is_whole)
        why = ask_why(host)
        check(host, why, seen)
        card = show(host)
        check_card(card, why, fpm)
        check_width(host)
        check_unknown(host)
        ticket = show(host, "--ticket")
        assert f"{fpm.www / PLUGIN}:" in ticket
        customer = show(host, "--customer")
        assert "has been stopped on our server" in customer
        assert not re.search(r"/|php|mx-|uid|web02", customer)
        ask_as_member(host, why, sees_memory=False)
        host.stop(signal.SIGKILL)
        admit(host, "why", "events", "report", "incidents", "evidence")
        host.start()
        ask_as_member(host, why, sees_memory=True)
        after = ask_why(host)
        check(host, after, seen, is_restarted=True)
        kept = ("user", "uid", "scripts", "destinations", "files", "attempts", "refused", "verdict", "commands")
        assert {key: after[key] for key in kept} == {key: why[key] for key in kept}
        assert host.cli("unblock", SPAMMER[0]).returncode == 0
        freed, then = ask_why(host), ask_why(host, "--at", why["time"][:19] + why["time"][-6:])
        assert (then["verdict"], then["blocks"][0]["rule"]) == (why["verdict"], RULE["name"]), "as it was before"
        assert (then["standing"], then["user"]) == ("tenant", SPAMMER[0])
        assert host.cli("why", SHARED[0], "--customer").returncode == 1, "many sites' account"
        assert freed["blocks"] == []
        assert (freed["changes"][0]["kind"], freed["changes"][0]["who"]) == ("unblock", "root")
        assert re.search(r"unblock at .* by root", show(host))
        assert freed["verdict"].startswith(f"US: {seen['refused']} attempts refused here in the last hour; nothing is")


def check_width(host: Host) -> None:
    """Of a hacked site with long paths, nothing is wider than a terminal; in a pipe all of it is there."""
    for command in ("status", "blocks", "events", "incidents"):
        argv = [sys.executable, "-m", "smtpguard", command, "--socket", f"{host.lab.directory}/control.sock"]
        lines = run_in_terminal(argv, 80)
        assert max(map(len, lines)) <= 80, lines
        piped = host.cli(command).stdout
        assert command == "status" or SPAMMER[0] in "".join(lines)
        assert max(map(len, piped.splitlines())) > 80, "as it is, for scripts"


def check_unknown(host: Host) -> None:
    for words in (("events", "--user"), ("events", "--json", "--user"), ("incidents", "--user"), ("why",)):
        done = host.cli(*words, "wbe01")
        assert (done.returncode, done.stdout) == (1, ""), words
        assert 'No account "wbe01" on this host, and none in the history' in done.stderr
    assert host.cli("events", "--user", OTHER[0]).stdout == "Nothing of that kind has happened.\n", "an account"


def admit(host: Host, *verbs: str) -> None:
    """Let a group use the control socket for some verbs, from the next start on."""
    host.lab.directory.chmod(0o755)
    socket = f"{host.lab.directory}/control.sock"
    host.configure(control={"socket": socket, "group": "mailers", "verbs": [*verbs]})


def ask_as_member(host: Host, why: dict[str, Any], *, sees_memory: bool) -> None:
    """What a member of that group is shown by the commands, and what they are not."""
    group = next(row for row in host.lab.read("/etc/group").splitlines() if row.startswith("mailers:"))

    def run_command(*words: str) -> str:
        done = CliRunner().invoke(main, [*words, "--socket", f"{host.lab.directory}/control.sock"])
        assert done.exit_code == 0, done.output
        return done.stdout

    asked = (("why", SPAMMER[0]), ("events", "--user", SPAMMER[0]), ("events", "--json"), ("incidents",), ("report",))
    if not sees_memory:  # the first time: the checkout, and their modules, may lie where only root may enter
        for words in asked:
            run_command(*words)

    def look() -> None:
        seen = json.loads(run_command("why", SPAMMER[0], "--json"))
        stacks = [script["stack"] for script in why["scripts"]]
        drivers = [script["drivers"] for script in why["scripts"]]
        assert any(stacks)
        assert any(drivers)
        nothing: list[list[str]] = [[] for _ in stacks]
        assert [script["stack"] for script in seen["scripts"]] == (stacks if sees_memory else nothing)
        assert [script["drivers"] for script in seen["scripts"]] == (drivers if sees_memory else nothing)
        assert (seen["attempts"], seen["blocks"][0]["rule"]) == (why["attempts"], RULE["name"])
        texts = [run_command(*words) for words in asked]
        assert all(SPAMMER[0] in text for text in texts)
        memory = [re.search(r"192\.0\.2\.77|index\.php:2", text) for text in texts]
        assert any(memory) == sees_memory

    def member() -> None:
        os.setgroups([int(group.split(":")[2])])
        os.setresgid(OTHER[1], OTHER[1], OTHER[1])
        os.setresuid(OTHER[1], OTHER[1], OTHER[1])
        look()
        for verb in ("status", "block", "close", "nft"):
            with pytest.raises(PrivilegeError):
                ask(f"{host.lab.directory}/control.sock", verb)

    run_forked(member)


def check(host: Host, why: dict[str, Any], seen: dict[str, int], *, is_restarted: bool = False) -> None:
    """What `why --json` says, held against the log and what the script saw."""
    logged = count_log(host)
    refused = sum(count for (_, result), count in logged.items() if result == "refused")
    assert (logged.total(), refused) == (COUNT, seen["refused"])
    assert (why["user"], why["uid"], why["verdict_for_customer"]) == (*SPAMMER, "us")
    assert (why["attempts"], why["refused"]) == ({"hour": COUNT, "day": COUNT}, {"hour": refused, "day": refused})
    (block,) = why["blocks"]
    (line,) = host.events("BLOCK")
    assert (block["rule"], block["ports"], block["kind"]) == (line["RULE"], [25], line["KIND"])
    assert block["until"][:19] == line["UNTIL"][:19]
    assert block["by"] == line["BY"]
    counted = (block["refused"], why["incident"]["refused"], json.loads(host.cli("status", "--json").stdout)["refused"])
    assert is_restarted or set(counted) == {refused}, "the attempt over the limit is one of them, everywhere"
    assert {(row["address"], row["count"]) for row in block["refused_to"]} == {
        (address, count) for (address, result), count in logged.items() if result == "refused"
    }
    for place in why["destinations"]:
        passed, denied = logged[place["address"], "allowed"], logged[place["address"], "refused"]
        assert (place["count"], place["refused"], place["connected"]) == (passed + denied, denied, passed)
    assert sum(place["count"] for place in why["destinations"]) == COUNT
    (rule,) = why["rules"]
    assert (rule["name"], rule["limit"], rule["action"]) == ("mx-burst", RULE["limit"], "block")
    named = Counter(row["SCRIPT"] for row in host.events("CONNECT") if row["UID"] == str(SPAMMER[1]))
    told = {}
    for row in why["scripts"]:
        place = "" if row["line"] is None else f":{row['line']}"  # only the request's page was known
        told["-" if row["script"] is None else row["script"] + place] = row["count"]
    assert told == named, "of all connects"
    assert why["incident"]["verdicts"] == len(host.events("EXCEEDED"))
    assert f"smtpguard unblock {SPAMMER[0]}" in why["commands"]


def check_card(card: str, why: dict[str, Any], fpm: Fpm) -> None:
    lines = card.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert lines[0] == why["verdict"]
    script = next(row for row in why["scripts"] if row["script"])
    assert script["script"] == str(fpm.www / PLUGIN)
    assert script["line"] == 4
    assert script["owner"] == SPAMMER[1]
    assert re.fullmatch("[0-9a-f]{64}", script["sha256"])
    assert [frame.rpartition("/")[2] for frame in script["stack"]] == STACK
    assert script["drivers"] == [{"address": "192.0.2.77", "count": 1}]
    assert str(fpm.www / PLUGIN) in [file["path"] for file in why["files"]]
    block = why["blocks"][0]
    for wanted in (
        *(SPAMMER[0], str(SPAMMER[1]), "mx-burst", f"0 of {RULE['limit']} connections in 10 min", "x/send.php:4"),
        *(f"{COUNT} attempts in 1 h", f"refused {why['refused']['hour']}", block["until"][11:16], PEER4, PEER6),
        *(script["sha256"][:16], "index.php:2", *why["commands"]),
    ):
        assert wanted in card, wanted
