"""The kernel refuses whom `blocks` lists and nobody else, whatever people, firewalls and restarts do: by connects."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from smtpguard.interpreter import module_environment
from smtpguard.model import NS
from tests.support.host import PATIENCE, Host, wait_for

pytestmark = pytest.mark.kernel

HIGHEST = 4_294_967_293
ACCOUNTS = {
    "0": 61_201,
    "2000": 61_202,
    "61203": 61_204,
    "61204": 61_203,
    "two words": 61_205,
    "näïve": 61_206,
    "twin-a": 61_207,
    "twin-b": 61_207,
    "4294967293": 61_208,
    "highest": HIGHEST,
}
UIDS = [0, 2000, *range(61_201, 61_212), 700_000, 700_001, 765_535, 765_536, HIGHEST - 1, HIGHEST]
"""Root, an exempt uid, accounts whose names are others' numbers, uids without an account, subordinate uids."""
EXEMPT = 2000
PORTS = (25, 587)
"""Those that are tried; 465 and 2525 are guarded as well."""
TRIED = [(uid, port) for uid in UIDS for port in PORTS]
JAILS = ("fail2ban:smtpguard", "fail2ban:other")
OWNER, SUBORDINATE = 61_101, range(700_000, 765_536)


class World:
    """A guarded host, and what happens to it."""

    def __init__(self, host: Host, seed: int, *, by: str) -> None:
        self.host = host
        self.by = by
        self.random = random.Random(seed)
        self.saved: str | None = None
        self.done: list[str] = []
        self._trier: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        script = Path(__file__).parent.parent / "support" / "try_connects.py"
        argv = self.host.lab.argv([sys.executable, str(script), PEER4], inside=True)
        self._trier = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=module_environment(), cwd="/"
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._trier is not None and self._trier.stdin is not None:
            self._trier.stdin.close()
            self._trier.wait(10)

    # -- what is compared --------------------------------------------------------------------------------------------

    def list_refused(self) -> dict[tuple[int, int], str]:
        """Whom the kernel refuses which port, and by what."""
        trier = self._trier
        assert trier is not None
        assert trier.stdin is not None
        assert trier.stdout is not None
        trier.stdin.write(json.dumps(TRIED) + "\n")
        trier.stdin.flush()
        return {tried: by for tried, by in zip(TRIED, json.loads(trier.stdout.readline()), strict=True) if by}

    def list_listed(self) -> dict[tuple[int, int], str]:
        """Whom `blocks` lists for which port; with BPF it is BPF that refuses, as it comes first."""
        rows = ask(self.socket, "blocks")["items"]
        held = {
            (row["uid"], port)
            for row in rows
            if row["kind"] in ("block", "throttle") and row["mode"] == "enforce"
            for port in row["ports"] or PORTS
        }
        held |= {(uid, port) for owner, port in held if owner == OWNER for uid in SUBORDINATE if uid in UIDS}
        return {tried: self.by for tried in TRIED if tried in held}

    def check(self) -> None:
        """Soon both are the same, and `status` says so."""
        deadline = time.monotonic() + 10 * PATIENCE
        while True:
            is_last = time.monotonic() >= deadline
            refused, listed = self.list_refused(), self.list_listed()
            nft = self.find_nft() if refused == listed else {}  # not asked before: that may put the sets right
            if nft.get("in_step") is True:
                break
            assert not is_last, (
                f"refused {sorted(refused.items() - listed.items())} and not listed, "
                f"listed {sorted(listed.items() - refused.items())} and not refused, {nft}, after {self.done[-12:]}"
            )
            time.sleep(0.02)
        assert {uid for uid, _ in refused}.isdisjoint({0, EXEMPT})

    def find_nft(self) -> dict[str, Any]:
        """What `status` says of nftables."""
        status = ask(self.socket, "status")["status"]
        row: dict[str, Any] = next(row for row in status["enforcement"] if row["name"] == "nft")
        return row

    def is_kept(self) -> bool:
        """Whether the file has all that the state was given."""
        return ", 0 waiting, " in ask(self.socket, "status")["status"]["parts"]["state"]

    @property
    def socket(self) -> str:
        return f"{self.host.lab.directory}/control.sock"

    # -- what happens ------------------------------------------------------------------------------------------------

    def pick(self) -> int:
        uid: int = self.random.choice([uid for uid in UIDS if uid not in (0, EXEMPT)])
        return uid

    def step(self) -> None:
        happens = self.random.choice(
            [self.block] * 4
            + [self.jail] * 2
            + [self.unblock] * 3
            + [self.unjail, self.rename]
            + [self.add_by_hand] * 4
            + [self.delete_by_hand] * 2
            + [self.save, self.load, self.load, self.load_over, self.flush, self.delete_table, self.flush_set]
            + [self.damage, self.ensure, self.reload, self.restart, self.unblock_all]
        )
        self.done.append(happens.__name__)
        happens()

    def block(self) -> None:
        ports = self.random.choice([None, None, [25], [587], [25, 587, 2525]])
        span_ns = self.random.choice([60, 600, 86_400]) * NS
        ask(self.socket, "block", user=f"uid:{self.pick()}", for_ns=span_ns, ports=ports)

    def jail(self) -> None:
        jail, uid = self.random.choice(JAILS), self.pick()
        ask(self.socket, "block", source=jail, user="", uid=uid, at=time.time(), for_ns=600 * NS)

    def unjail(self) -> None:
        ask(self.socket, "unblock", source=self.random.choice(JAILS), user="", uid=self.pick())

    def rename(self) -> None:
        """A panel gives an account another name, or back its own: the blocks of the name before are over."""
        name, uid = self.random.choice(list(ACCOUNTS.items()))
        lines = self.host.lab.read("/etc/passwd").splitlines(keepends=True)
        names = {line.split(":")[0] for line in lines}
        old, new = (name, f"{name}-new") if name in names else (f"{name}-new", name)
        self.done[-1] += f" {old} {uid} to {new}"
        text = "".join(line.replace(f"{old}:x:{uid}:", f"{new}:x:{uid}:") for line in lines)
        self.host.lab.lay_over("/etc/passwd", text)

    def unblock(self) -> None:
        ask(self.socket, "unblock", user=f"uid:{self.pick()}")

    def unblock_all(self) -> None:
        ask(self.socket, "unblock", all=True)
        assert self.list_refused() == {}

    def nft(self, text: str) -> None:
        file = self.host.lab.directory / "by-hand.nft"
        file.write_text(text)
        self.host.lab.run(["nft", "-f", str(file)])  # it may fail: what it is about may not be there

    def add_by_hand(self) -> None:
        first = self.pick()
        sets = ["blocked", "blocked", "throttled", "blocked_25", "throttled_587"]
        name = self.random.choice(sets)
        last = self.random.choice([first, first, first + self.random.randrange(1, 4)])
        uids = f"{first}" if first == last else f"{first}-{min(last, HIGHEST)}"
        timeout = self.random.choice(["", " timeout 50s", " timeout 2d"])
        self.done[-1] += f" {name} {uids}{timeout}"
        self.nft(f"add element inet smtpguard {name} {{ {uids}{timeout} }}\n")

    def delete_by_hand(self) -> None:
        held = sorted(self.list_refused())
        if held:
            uid, port = self.random.choice(held)
            name = self.random.choice(["blocked", f"blocked_{port}"])
            self.done[-1] += f" {name} {uid}"
            self.nft(f"delete element inet smtpguard {name} {{ {uid} }}\n")

    def flush_set(self) -> None:
        self.nft(f"flush set inet smtpguard {self.random.choice(['blocked', 'blocked_25'])}\n")

    def save(self) -> None:
        self.saved = self.host.nft("list", "ruleset")

    def load(self) -> None:
        if self.saved:
            self.nft("flush ruleset\n" + self.saved)

    def load_over(self) -> None:
        if self.saved:
            self.nft(self.saved)

    def flush(self) -> None:
        self.nft("flush ruleset\n")

    def delete_table(self) -> None:
        self.nft("delete table inet smtpguard\n")

    def damage(self) -> None:
        self.nft(
            self.random.choice(
                [
                    "flush chain inet smtpguard output\n",
                    "insert rule inet smtpguard output accept\n",
                    "flush set inet smtpguard ports\n",
                    "add element inet smtpguard root { 61205 }\n",
                    "add element inet smtpguard exempt { 61206 }\n",
                    "add element inet smtpguard blocked_25 { 61207 }\n",
                    "add table inet smtpguard { flags dormant; }\n",
                    "add chain inet smtpguard more { type filter hook output priority -200; policy drop; }\n",
                    "add chain inet smtpguard output { type filter hook output priority -150; policy drop; }\n",
                    "rename chain inet smtpguard output other\n",
                ]
            )
        )

    def ensure(self) -> None:
        assert self.host.cli("nft", "ensure").returncode == 0

    def reload(self) -> None:
        ask(self.socket, "reload")

    def restart(self) -> None:
        """By a signal or for good; meanwhile somebody may load a ruleset, or put an element in."""
        if self.random.random() < 0.5:
            wait_for(self.is_kept)  # what is newer than a second may be lost
            self.host.stop(signal.SIGKILL)
        else:
            self.host.stop()
        meanwhile = [self.load, self.load_over, self.add_by_hand, self.flush, self.damage]
        for happens in self.random.sample(meanwhile, 2):
            if self.random.random() < 0.4:
                self.done.append(f"(down) {happens.__name__}")
                happens()
        self.host.start()


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    settings = {"sources": request.param, "exempt": {"uids": [EXEMPT]}, "rules": [], "attribution": {"process": False}}
    with Host(ACCOUNTS, **settings) as made:
        made.start()
        yield made


SEEDS = [int(os.environ.get("SMTPGUARD_TEST_SEED", "0")) or random.randrange(1 << 30)]
MEANS = [("none", "nft", 60), (["bpf"], "bpf", 25)]
"""Sources, what refuses then, steps of a short run."""


@pytest.mark.parametrize(
    ("host", "by", "seed", "steps"),
    [
        *((sources, by, seed, steps) for sources, by, steps in MEANS for seed in SEEDS),
        *(
            pytest.param(sources, by, seed, 200, marks=pytest.mark.long)
            for sources, by, _ in MEANS
            for seed in random.sample(range(1 << 30), 4)
        ),
    ],
    indirect=["host"],
)
def test_who_is_refused_is_who_is_listed(host: Host, by: str, seed: int, steps: int) -> None:
    host.expect_errors("deletes the table again and again")
    with World(host, seed, by=by) as world:
        for _ in range(steps):
            world.step()
            world.check()
