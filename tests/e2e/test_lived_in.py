"""The guard as a whole lives through what every host does, and at the end everybody got what they ought to.

Five spammers, twenty innocents and an allowed newsletter connect all the time, six guests are blocked and
freed by hand, while every second something happens (tests/lived/). A model beside it says who may send, real connects
say whether it is so.

LIVED_SEED gives the order of an earlier run again, LIVED_ONLY names the happenings to choose from, LIVED_SECONDS says
how long.
"""

import contextlib
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpguard.logline import LogLine, parse_line
from tests.fakes.namespaces import enter_tmpfs, leave_tmpfs, run_forked
from tests.lived.accounts import EXEMPT_GROUP
from tests.lived.around import list_around
from tests.lived.jail import prepare
from tests.lived.measures import Metronome
from tests.lived.model import HEARING_S, Judge, Model, Person, Rule, WrongError, list_blocks
from tests.lived.schedule import live_through
from tests.lived.world import PLACES, RELAY_NAME, RELAY_PLACES, World
from tests.servers import require
from tests.support.bpf_links import list_links
from tests.support.crowd import Attempt, Crowd
from tests.support.fail2ban import Fail2ban, fail2ban_below
from tests.support.host import Host
from tests.support.standstill import Standstill

pytestmark = pytest.mark.kernel

LIMIT, WINDOW_S, BLOCK_S = 10, 2, 4
CREDITED = Rule(port=25, rate=20, limit=LIMIT, window_s=WINDOW_S, credited=True)
JUDGED = Rule(port=587, rate=20, limit=LIMIT, window_s=WINDOW_S, credited=False)
NEWS_RATE, INNOCENT_RATE = 10, 1
SPREAD = [f"198.18.{n >> 8}.{n & 255}" for n in range(256 * 20, 256 * 24)]
"""So many destinations that none comes twice in a window."""
PAUSE_S, PAUSE_OF_A_MINUTE_S = 1, 0.1
MAX_STALL_MS = 150
LONG_S = 600
MAX_GROWTH, MAX_GROWTH_OF_A_MINUTE = 0.02, 0.25
"""Of what is resident, from the second tenth of the time to the last; in a minute it is still growing up."""
_TMPFS = "64m"
_SUPPORT = Path(__file__).parents[1] / "support"


def make_people() -> list[Person]:
    spammers = [Person(f"spam{n}", 61200 + n, "spammer", CREDITED if n <= 3 else JUDGED) for n in range(1, 6)]
    innocents = [Person(f"site{n:02}", 61210 + n, "innocent") for n in range(1, 21)]
    guests = [Person(f"guest{n}", 61250 + n, "guest") for n in range(1, 7)]
    return [*spammers, *innocents, Person("newsletter", 61240, "newsletter"), *guests]


def make_rules() -> list[dict[str, object]]:
    held = {"limit": LIMIT, "window": f"{WINDOW_S}s", "action": "block", "block": f"{BLOCK_S}s"}
    return [
        {"name": "burst", "ports": [CREDITED.port], "count": "connections", **held},
        {"name": "fanout", "ports": [JUDGED.port], "count": "destinations", **held},
    ]


def read_log(directory: Path) -> list[LogLine]:
    """All lines of all files; each must parse."""
    lines = []
    for path in sorted(directory.glob("events.log*")):
        data = path.read_bytes()
        assert not data or data.endswith(b"\n"), f"{path} ends within a line"
        lines += [parse_line(line.decode("ascii")) for line in data.splitlines()]
    return lines


def list_left_behind(net: str, cgroup: str, cgroup_id: int, directory: Path) -> list[str]:
    """Processes in a namespace that ought to be gone, the cgroup, its links, files."""
    left = [path for path in (cgroup, str(directory)) if Path(path).exists()]
    left += [f"bpf link {number}" for number in list_links(cgroup_id)]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "ns/net").readlink()) == net:
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                parent = re.search(r"^PPid:\s*(\d+)", (process / "status").read_text(), re.MULTILINE)
                left.append(f"process {process.name} of {parent and parent[1]}: {words}")
    return left


def wait_for_none(look: Callable[[], list[str]], seconds: float = 5) -> list[str]:
    end = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= end
        found = look()
        if not found or is_last:
            return found
        time.sleep(0.05)


def lay_out(host: Host) -> None:
    """Files and servers that the happenings change."""
    lab = host.lab
    lab.lay_over("/etc/login.defs", "UID_MIN 1000\nUID_MAX 60000\n")
    lab.lay_over("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")
    zone = lab.directory / "zone.json"
    zone.write_text(json.dumps({RELAY_NAME: {"ttl": 1, "addresses": [RELAY_PLACES[0]]}}))
    server = [str(_SUPPORT / "dns_server.py"), "127.0.0.1", "53", str(zone), "/dev/null"]
    for words in (server, [str(_SUPPORT / "sink.py")]):
        child = lab.start([sys.executable, *words], net=lab.host)
        assert child.stdout is not None
        assert child.stdout.readline().startswith("ready")
    small = lab.directory / "small"
    small.mkdir(mode=0o700)
    enter_tmpfs(small, _TMPFS)
    host.configure(log={"path": f"{small}/events.log"}, state={"path": f"{small}/state.db"})


def live(seconds: float, seed: int, keep: Path, fail2ban: Fail2ban, faketime: Path) -> None:
    model = Model(make_people())
    calm = {"escalation": {"factor": 1, "still_trying": "end"}, "breaker": {"blocks": 10_000, "per": "10m"}}
    exempt = {"groups": [EXEMPT_GROUP], "destinations": [RELAY_NAME]}
    uids = {person.name: person.uid for person in model.people.values()}
    attempts = {}
    with Host(uids, rules=make_rules(), exempt=exempt, **calm) as host:
        lay_out(host)
        prepare(fail2ban, keep / "bin", host, host.lab.directory / "small/events.log")
        world = World(host, model, fail2ban, faketime, seed, hurried=seconds < LONG_S)
        net = str(Path(host.lab.host).readlink())
        held = os.open(host.lab.host, os.O_RDONLY)  # nobody else's namespace gets its number
        metronome, standstill = Metronome(keep / "metronome"), Standstill()
        try:
            world.start()
            world.model.places.add(RELAY_PLACES[0])
            world.ask("allow", user="newsletter", for_ns=10 * 3600 * 10**9)
            with fail2ban, metronome, standstill, Crowd(host.lab, keep) as crowd:
                for person in model.people.values():
                    if person.rule is not None:
                        crowd.add(
                            person.uid, person.rule.rate, PLACES if person.rule.credited else SPREAD, person.rule.port
                        )
                    elif person.kind != "guest":
                        crowd.add(person.uid, NEWS_RATE if person.kind == "newsletter" else INNOCENT_RATE, PLACES)
                only = os.environ.get("LIVED_ONLY", "").split()
                pause_s = PAUSE_S if seconds >= LONG_S else PAUSE_OF_A_MINUTE_S
                begun = time.monotonic()
                steps = live_through(world, seed, seconds, only=only, pause_s=pause_s)
                took_s = time.monotonic() - begun
                time.sleep(BLOCK_S + 1)
                world.check_all()
                found = wait_for_none(lambda: world.measures.compare_files(world.pid), 15)
                assert not found, f"other descriptors are open than at first: {found}"
                crowd.stop()
                attempts = {
                    person.uid: crowd.read(person.uid) for person in model.people.values() if person.kind != "guest"
                }
            assert host.stop() == 0
            assert list_links(world.cgroup_id) == []
        finally:
            if host.daemon is not None and host.daemon.poll() is None:
                host.stop()
            world.save(keep)
            leave_tmpfs(world.small)
    left = wait_for_none(lambda: list_left_behind(net, world.cgroup, world.cgroup_id, host.lab.directory))
    os.close(held)
    assert left == [], "something is left after the laboratory was closed"
    print(f"{steps} happenings in {took_s:.1f} s; {world.measures.report()}; {metronome.report()}", flush=True)
    # One processor may be taken away, and with it the daemon, while the metronome ticks on the other.
    worst_ms = max(metronome.worst_ms(), standstill.worst_s() * 1000)
    credited_s = HEARING_S + worst_ms / 1000
    # What the daemon judges itself it hears of after the turn that its loop is in.
    judged_s = max(credited_s, world.measures.worst_stall_ms() / 1000)
    try:
        # First: else a stall of any length would excuse what it let through.
        assert world.measures.worst_stall_ms() < MAX_STALL_MS + worst_ms
        judge(world, read_log(keep), attempts, seconds, credited_s=credited_s, judged_s=judged_s)
        growth = world.measures.tenth(9) / world.measures.tenth(1) - 1
        most = MAX_GROWTH if seconds >= LONG_S else MAX_GROWTH_OF_A_MINUTE
        assert not growth > most, f"memory grew by {growth:.1%}"  # not a number where nobody lived long enough
    except AssertionError:
        print(f"--- seed {seed}: the daemon said ---\n{(keep / 'stderr').read_text('utf-8', 'replace')}", flush=True)
        raise


def judge(
    world: World,
    lines: list[LogLine],
    attempts: dict[int, list[Attempt]],
    seconds: float,
    *,
    credited_s: float,
    judged_s: float,
) -> None:
    people = world.model.people.values()
    told = {line.user for line in lines if line.event in {"EXCEEDED", "BLOCK"}}
    for person in people:
        if person.kind == "guest":
            continue
        late_s = credited_s if person.rule is not None and person.rule.credited else judged_s
        one = Judge(person, attempts[person.uid], world.model.spans, late_s=late_s)
        if person.rule is None:
            one.check_innocent()
            assert person.name not in told
            continue
        blocks = list_blocks(lines, person.name, world.to_real)
        assert len(blocks) >= seconds / 20, f"{person.name} was hardly ever blocked"
        try:
            one.check_limit()
            one.check_blocks(blocks)
        except WrongError as error:
            about = list_around(
                error.at_ns,
                person,
                lines=lines,
                attempts=attempts[person.uid],
                spans=world.model.spans,
                to_real=world.to_real,
            )
            raise AssertionError("\n".join([str(error), *about])) from error
        passed = sum(a.passed for a in attempts[person.uid])
        print(f"{person.name}: {len(blocks)} blocks, {passed} of {len(attempts[person.uid])} came through", flush=True)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(35, id="minute", marks=pytest.mark.timeout(600)),  # at least: everything happens once
        pytest.param(3600, id="hour", marks=[pytest.mark.long, pytest.mark.timeout(6000)]),
    ],
)
def test_lived_in_host(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("LIVED_SEED") or random.SystemRandom().randrange(1 << 32))
    seconds = float(os.environ.get("LIVED_SECONDS") or seconds)
    print(f"seed {seed}: LIVED_SEED={seed} has the same order again", flush=True)
    tmp_path.chmod(0o700)
    (faketime,) = require("faketime").root.glob("usr/lib/*/faketime/libfaketime.so.1")
    fail2ban = fail2ban_below(tmp_path / "fail2ban")
    programs = tmp_path / "bin"
    fail2ban.write_client(programs)
    monkeypatch.setenv("PATH", f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin")
    run_forked(lambda: live(seconds, seed, tmp_path, fail2ban, faketime))
    print(capfd.readouterr().out[-900:])
