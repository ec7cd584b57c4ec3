"""The lived-in host: laboratory, daemon, crowd, and what a happening needs to do something to them.

Everything is done by the one process of the test, which is single-threaded: what ought to happen at once is forked.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4, PEER6
from smtpguard.errors import GuardError
from smtpguard.model import NS
from tests.lived.forked import connect_as
from tests.lived.lists import Blocks, Difference, compare_lists, parse_listed, read_held
from tests.lived.measures import Measures
from tests.lived.model import REFUSED, Model, Outlook, Person, Span
from tests.support.fail2ban import Fail2ban
from tests.support.host import SMTPGUARD, Host, wait_for

PLACES = [PEER4, PEER6, *(f"198.18.0.{n}" for n in range(1, 9))]
RELAY_NAME = "relay.example.net"
RELAY_PLACES = ("198.18.9.1", "198.18.9.2")
OWN_PLACE = "198.18.7.7"
LOST_COUNTING_S = 1.0
"""A SIGKILL may lose so much counting."""
EXPECTED_ERRORS = (
    r"events\.log: can't be written: No space left on device",
    r"state\.db.*: database (is locked|or disk is full); kept in memory and tried again",
    r"^processes are not looked at any more: the fork-server has ended",
    r"source bpf has died: .*: the program was detached",
)
SETTLE_S = 1.0
"""Kernel and list follow the last change within a second."""
ACCOUNTS_S = 2.0
"""How often the daemon looks at the files of accounts."""
_PROJECT = Path(__file__).resolve().parents[2]
_FAKED = Path(__file__).with_name("faked")
ACCOUNTS_READ_S = 0.2
"""How long reading them, and telling the kernel, may take then."""
_CLOCK_SET = "the clock was set by"
LOOK_UP_S = 6.0
"""A refusal at an address that is new has its name asked for again; a resolver that hangs is given up before that."""
UNTIL_SLID_S = 2.3
"""After a time in which nobody was refused: until what came then has left the windows."""
PROBES, PROBES_S = 8, UNTIL_SLID_S
"""We open so many connections as one user in that time at most: their limit is 10 in 2 s."""
SAVED_S = 0.2
FAKED_STEP_S = 2 * 86_400
"""By so much the daemon's clock is stepped; a stamp tells by itself how many steps it is off."""


class World:
    """A host and what is known of it.

    Args:
        host: The laboratory with its configuration, not started.
        model: Who may send.
        fail2ban: Beside it, not started.
        faketime: The library that fakes a process's clock.
        seed: What all that is random comes from.
        hurried: Three of four changes of accounts are told by a reload, which reads them again at once; the daemon
            notices the others by itself. Else it notices all by itself.
    """

    def __init__(
        self, host: Host, model: Model, fail2ban: Fail2ban, faketime: Path, seed: int, *, hurried: bool = False
    ) -> None:
        self.host = host
        self._hurried = hurried
        host.expect_errors(*EXPECTED_ERRORS)
        self.model = model
        self.fail2ban = fail2ban
        self.random = random.Random(seed)
        self.small = host.lab.directory / "small"
        self.zone = host.lab.directory / "zone.json"
        assert host.lab.cgroup is not None
        self.cgroup = host.lab.cgroup
        self.cgroup_id = Path(host.lab.cgroup).stat().st_ino
        self.measures = Measures()
        self.turns: dict[str, int] = {}
        self.probed: dict[int, deque[float]] = {}
        self._faketime = faketime
        self._clock = host.lab.directory / "faketime"
        self._clock.write_text("+0\n")
        self._faked = False
        self.relay, self._resolves = RELAY_PLACES[0], True
        self._settings: dict[str, Any] = yaml.safe_load(Path(host.config).read_text())
        self._begun_ns = time.time_ns()
        self._unsaved_ns: int | None = None
        self._may_be_saved = False

    # -- the daemon --------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self.host.daemon is not None
        return self.host.daemon.pid

    @property
    def rules(self) -> list[object]:
        """The rules of the configuration."""
        found = self._settings["rules"]
        assert isinstance(found, list)
        return found

    @property
    def control(self) -> str:
        return str(self.host.lab.directory / "control.sock")

    def start(self, *, faked: bool = False) -> None:
        """Start the daemon and wait until it guards; `faked`: its clock can be stepped."""
        command = [*SMTPGUARD, "run"]
        if faked:
            # The file is read again once a second: that is a step, seen by all of its threads.
            env = {
                "LD_PRELOAD": str(self._faketime),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # the fix has threads that wait for Python's lock spin
                "PYTHONPATH": os.pathsep.join([str(_FAKED), str(_PROJECT)]),
            }
            command = ["env", *(f"{name}={value}" for name, value in env.items()), *command]
            self.measures.disturb()  # libfaketime has locks and reads of its own
        self._faked = faked
        self.host.start(ready=False, command=command)
        wait_for(self.is_ready, 20)
        self.measures.look(self.pid, self.ask("status")["status"])

    def kill(self, number: int = signal.SIGKILL, *, faked: bool = False, dead_s: float = 0) -> None:
        """End the daemon in an instant, and start it again."""
        self._look_whether_saved()
        self.measures.life_ends()
        unsaved_s = 0.0 if self._unsaved_ns is None else (time.time_ns() - self._unsaved_ns) / NS
        with self.model.span("lost", before_s=LOST_COUNTING_S + unsaved_s), self.model.span("dead", after_s=0.1):
            self.host.stop(number)
            if self._unsaved_ns is not None:
                self.model.spans.append(Span("unsaved", self._unsaved_ns, time.time_ns()))
            self._clean_shared_memory()
            time.sleep(dead_s)
            self.start(faked=faked)
        if not self._resolves:
            self.model.places.difference_update(RELAY_PLACES)  # what was known of the name went with the process
        if self._unsaved_ns is not None:
            self.settle_unsaved()

    def _clean_shared_memory(self) -> None:
        """A process that was killed leaves what libfaketime had made."""
        for path in Path("/dev/shm").glob(f"*faketime*_{self.pid}"):
            path.unlink()

    def be_faked(self) -> None:
        """Make sure that the daemon's clock can be stepped."""
        if not self._faked:
            self.kill(faked=True)

    def step_clock(self, steps: int) -> None:
        """Set the daemon's wall clock so many steps off ours, and let it notice."""
        told = self.host.stderr().count(_CLOCK_SET)
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(f"{steps * FAKED_STEP_S:+d}\n")
        fresh.rename(self._clock)
        wait_for(lambda: self.host.stderr().count(_CLOCK_SET) > told)

    def to_real(self, wall_ns: int) -> int:
        """A wall time of the daemon's by our clock."""
        off = round((wall_ns - self._begun_ns) / (FAKED_STEP_S * NS))
        return wall_ns - off * FAKED_STEP_S * NS

    def is_ready(self) -> bool:
        self.check_alive()
        try:
            return bool(self.ask("status")["status"]["ready"])
        except GuardError:
            return False

    def check_alive(self) -> None:
        assert self.host.daemon is not None
        code = self.host.daemon.poll()
        assert code is None, f"the daemon ended by itself, with {code}"

    def ask(self, verb: str, **args: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        return ask(self.control, verb, timeout_s=10, **args)

    def unsaved(self) -> None:
        """From here on nothing gets into the state, until `saved`."""
        self._may_be_saved = False
        if self._unsaved_ns is None:
            self._unsaved_ns = time.time_ns()

    def saved(self) -> None:
        """It can again; the guard tries now and then."""
        self._may_be_saved = True

    def _look_whether_saved(self) -> None:
        """What was ordered last is in the file within milliseconds, if anything can be written at all."""
        time.sleep(SAVED_S)
        troubles = self.ask("status")["status"]["troubles"]
        if self._may_be_saved and not any("the state can't be" in trouble for trouble in troubles):
            self._unsaved_ns = None

    def settle_unsaved(self) -> None:
        """What was said while nothing could be saved is lost: say again what is wanted."""
        for person in self.model.of_kind("guest"):
            self.unblock(person)
        (reader,) = self.model.of_kind("newsletter")
        self.ask("allow", user=reader.name, for_ns=3600 * NS, everything=True)

    # -- what people say ---------------------------------------------------------------------------------------------

    def block(self, person: Person, seconds: float, **args: Any) -> None:  # noqa: ANN401 - JSON
        """A person blocks somebody; their later word holds."""
        answer = self.ask("block", user=person.name, for_ns=round(seconds * NS), **args)
        if not person.exempt or args.get("force"):
            person.blocks["admin"] = self.to_real(round(answer["until"] * NS))

    def unblock(self, person: Person) -> None:
        self.ask("unblock", user=person.name)
        person.free()

    def guest(self, *, blocked: bool | None = None) -> Person:
        """A guest; `blocked`: one who is, for seconds to come, or is not."""
        guests = [guest for guest in self.model.of_kind("guest") if not guest.exempt]
        person = self.random.choice(guests)
        if blocked:
            self.block(person, 30)
        elif blocked is False:
            self.unblock(person)
        return person

    def reload(self, **changes: Any) -> str:  # noqa: ANN401 - YAML values
        """Have another configuration read, which is the host's with some keys changed; without any, the host's own.

        Returns:
            What the guard said; a GuardError where it does not take it.
        """
        values = {key: _merge(self._settings.get(key), value) for key, value in changes.items()}
        Path(self.host.config).write_text(yaml.safe_dump(self._settings | values))
        return str(self.ask("reload")["text"])

    @contextlib.contextmanager
    def reloaded(self, **changes: Any) -> Iterator[str]:  # noqa: ANN401 - YAML values
        """Have another configuration in force for a while; gives what `reload` said."""
        said = self.reload(**changes)
        try:
            yield said
        finally:
            self.reload()

    def turn(self, what: str, of: int) -> int:
        """Which of several variants comes now: each in its turn, the first at random."""
        number = self.turns.get(what, self.random.randrange(of))
        self.turns[what] = number + 1
        return number % of

    # -- real connects -----------------------------------------------------------------------------------------------

    def probe(self, uid: int, place: str, port: int = 25) -> int:
        """Open one connection as a user; its errno, 0 if it came through; not so fast that it exceeds a limit."""
        times = self.probed.setdefault(uid, deque(maxlen=PROBES))
        if len(times) == PROBES:
            time.sleep(max(0.0, times[0] + PROBES_S - time.monotonic()))
        times.append(time.monotonic())
        return connect_as(uid, place, port, net=self.host.lab.host, cgroup=self.cgroup)

    def check(self, person: Person, place: str = PEER4, *, within_s: float = SETTLE_S, port: int = 25) -> None:
        """The model's word on somebody is what a real connection finds."""
        end = time.monotonic() + within_s
        while True:
            is_last = time.monotonic() >= end  # the last look begins then: who stood still has looked too early
            outlook = self.model.outlook(person, place)
            if outlook is Outlook.OPEN:
                return
            error = self.probe(person.uid, place, port)
            if (error == 0) == (outlook is Outlook.PASSES) and (error == 0 or error in REFUSED):
                return
            if is_last:
                break
            time.sleep(0.2)  # so that who passes stays below their limit
        if self.model.outlook(person, place) is outlook:
            text = os.strerror(error) if error else "it came through"
            raise AssertionError(f"a connection of {person.name} (uid {person.uid}) to {place} {outlook.value}: {text}")

    def check_all(self) -> None:
        """Everybody gets what the model says; the list is what the kernel holds."""
        self.check_alive()
        for person in self.model.of_kind("guest"):
            self.check(person)
        self.check(self.model.of_kind("newsletter")[0])
        self.check(self.random.choice(self.model.of_kind("innocent")), self.random.choice(PLACES))
        self.check_lists()

    def check_lists(self) -> None:
        """The guard's list and the sets in the kernel say the same, a second after whatever was done."""
        if self.model.calm:
            return
        found = self.compare_lists()
        end = time.monotonic() + SETTLE_S
        while found:  # what begins after the first look has its own second: somebody is blocked all the time
            time.sleep(0.1)
            is_last = time.monotonic() >= end
            found = {key: text for key, text in self.compare_lists().items() if key in found}
            assert not (found and is_last), f"list and kernel differ: {sorted(found.values())}"

    def compare_lists(self) -> dict[Difference, str]:
        """How they differ now."""
        return compare_lists(self.read_listed(), read_held(self.host.lab.host), self.read_listed())

    def read_listed(self) -> Blocks:
        """What the guard lists now."""
        return parse_listed(self.ask("blocks")["items"], self.to_real)

    # -- files -------------------------------------------------------------------------------------------------------

    def read(self, target: str) -> str:
        """One of the host's files, as programs inside see it."""
        return self.host.lab.read(target)

    def write(self, target: str, text: str) -> None:
        self.host.lab.lay_over(target, text)

    @contextlib.contextmanager
    def edited(self, target: str, old: str, new: str) -> Iterator[None]:
        """One of the host's files with an edit (a regular expression) for a while, noticed by the daemon."""
        before = self.read(target)
        after = re.sub(old, new, before, flags=re.MULTILINE) if old else before + new
        assert after != before, f"{old} is not in {target}"
        self.write(target, after)
        self.let_accounts_be_read()
        try:
            yield
        finally:
            self.write(target, before)
            self.let_accounts_be_read()

    def let_accounts_be_read(self) -> None:
        """Until the daemon has looked: it does so at whole multiples of the pause, or when it is told to reload."""
        if self._hurried and self.random.random() < 0.75:
            self.ask("reload")
            return
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        time.sleep(ACCOUNTS_S - now_s % ACCOUNTS_S + ACCOUNTS_READ_S)

    def answer(self, address: str, *, how: Literal["well", "fails", "hangs"] = "well") -> None:
        """What the host's resolver says of the exempt relay from now on."""
        self.relay, self._resolves = address, how == "well"
        known = {"ttl": 1, "addresses": [address], "dumb": how == "hangs"}
        fresh = self.zone.with_suffix(".new")
        fresh.write_text(json.dumps({} if how == "fails" else {RELAY_NAME: known}))
        fresh.rename(self.zone)
        if self._resolves:
            self.model.places.difference_update(RELAY_PLACES)
            self.model.places.add(address)

    def check_relay(self, person: Person) -> None:
        """The relay passes for somebody, if its name could be looked up in this life."""
        if self.relay in self.model.places:
            self.check(person, self.relay, within_s=LOOK_UP_S)

    # -- others ------------------------------------------------------------------------------------------------------

    def connect_control(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(5)
        connection.connect(self.control)
        return connection

    def save(self, keep: Path) -> None:
        """Copy what the judgement and a failure's report need; the daemon has ended."""
        self._clean_shared_memory()
        for path in [*self.small.glob("events.log*"), self.host.lab.directory / "stderr"]:
            shutil.copy(path, keep)


def _merge(old: object, new: object) -> object:
    """A value of the configuration; of a section given in part the rest stays."""
    return {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new
