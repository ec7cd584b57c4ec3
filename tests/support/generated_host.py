"""A host's day that never was: its event log, and the state file that a guard would have kept of it."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from smtpguard.logline import render_block, render_connect, render_exceeded, render_unblock
from smtpguard.model import NS, Account, Block, Connect, Mode, Subject, Verdict
from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state import statements
from smtpguard.state.activity import Tally
from smtpguard.state.columns import Statement
from smtpguard.state.rows import ChangeRow, VerdictRow
from smtpguard.state.store import Store

FIRST_UID = 2000
SHARED_SUM = "5e" * 32
SHARERS = 12
"""Sites that have the same file."""
WRITE_EVERY_NS = 10 * MINUTE_NS
SINCE_S = 1_792_879_200
"""2026-10-25 00:00 in Berlin, where the day has 25 hours."""
UNTIL_S = SINCE_S + 25 * 3600


@contextmanager
def in_zone(monkeypatch: pytest.MonkeyPatch, zone: str = "Europe/Berlin") -> Iterator[None]:
    """Local time is that of a zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        yield
    time.tzset()


@dataclass(frozen=True, slots=True)
class Site:
    """A user with what they run and where they send."""

    account: Account
    scripts: tuple[bytes, ...]
    places: tuple[tuple[bytes, int], ...]
    is_hacked: bool


@dataclass(frozen=True, slots=True)
class GeneratedHost:
    """Where it is.

    Attributes:
        log: The event log.
        state: The state file.
        config: A configuration that names it; nobody listens at its socket.
    """

    log: Path
    state: Path
    config: Path


def generate_host(directory: Path, *, connects: int, users: int, seed: int = 7) -> GeneratedHost:
    """Make one: a day, and an hour before and after it."""
    rng = random.Random(seed)
    sites = [_make_site(rng, number) for number in range(users)]
    weights = [40.0 if site.is_hacked else rng.paretovariate(1.5) for site in sites]
    begin_ns, end_ns = (SINCE_S - 3600) * NS, (UNTIL_S + 3600) * NS
    times = sorted(rng.randrange(begin_ns, end_ns) for _ in range(connects))
    whose = rng.choices(sites, weights, k=connects)
    host = GeneratedHost(directory / "events.log", directory / "state.db", directory / "smtpguard.yaml")
    store = Store.open(str(host.state), boot_id="b", wall_ns=begin_ns, max_bytes=4 * 10**9)
    tally, rows = Tally(), list[Statement]()
    written_ns = begin_ns
    with host.log.open("w", encoding="ascii") as log:
        for time_ns, site in zip(times, whose, strict=True):
            if time_ns - written_ns > WRITE_EVERY_NS:
                store.run([*tally.take(), *rows], durable=False)
                rows, written_ns = [], time_ns
            connect = _make_connect(rng, site, time_ns)
            log.write(render_connect(connect, site.account, time_ns) + "\n")
            tally.add_connect(
                site.account.uid, wall_ns=time_ns, address=connect.address, port=connect.port, script=connect.script,
                refused=connect.result == "refused",
            )  # fmt: skip
            if site.is_hacked and rng.random() < 0.01:
                rows += _judge(rng, site, connect, log)
    for time_ns, losses in (
        (begin_ns, {"": 0, "bpf: events": 99}),
        (SINCE_S * NS, {"bpf: events": 5, "history: rows": 1}),
        (UNTIL_S * NS - 1, {"bpf: events": 2}),
    ):
        rows += [statements.add_loss(time_ns, kind, count) for kind, count in losses.items()]
    for event, minute in (("off", 90), ("on", 100)):
        rows.append(statements.add(ChangeRow(time_ns=SINCE_S * NS + minute * MINUTE_NS, uid=None, name=None,
                                             event=event, by="admin")))  # fmt: skip
    half_ns = (begin_ns + end_ns) // 2
    rows += [statements.put_watched(begin_ns - HOUR_NS, half_ns), statements.put_watched(half_ns + HOUR_NS, end_ns)]
    store.run([*tally.take(), *rows], durable=False)
    assert not tally.dropped, "more places between two writes than are kept: write more often"
    store.close()
    host.config.write_text(
        f"version: 1\nstate: {{path: {host.state}}}\ncontrol: {{socket: {directory}/none.sock}}\n"
        f"rules:\n  - {{name: hourly, count: connections, limit: {connects // 100}, window: 1h, action: warn}}\n"
        "  - {name: mx, ports: [25], count: networks, limit: 400, window: 10m, action: block}\n"
    )
    host.config.chmod(0o600)
    return host


def _make_site(rng: random.Random, number: int) -> Site:
    uid = FIRST_UID + number
    home = f"/home/web{number:03d}/htdocs"
    scripts = [f"{home}/index{n}.php:{n + 1}".encode() for n in range(rng.randrange(1, 4))]
    if number < SHARERS:
        scripts.append(f"{home}/wp-content/x/mailer.php:41".encode())
    places = tuple(
        (rng.choice([rng.randbytes(4), b"\x2a\x00\x14\x50" + rng.randbytes(12)]), rng.choice([25, 25, 465, 587]))
        for _ in range(rng.randrange(1, 40))
    )
    account = Account(uid=uid, name=f"web{number:03d}", standing="tenant")
    return Site(account, tuple(scripts), places, is_hacked=number % 25 == 3 or number < 3)


def _make_connect(rng: random.Random, site: Site, time_ns: int) -> Connect:
    address, port = rng.choice(site.places)
    return Connect(
        time_ns=time_ns, uid=site.account.uid, port=port, address=address, sensor="bpf", pid=4711,
        result="refused" if site.is_hacked and rng.random() < 0.3 else "allowed",
        script=None if rng.random() < 0.05 else rng.choice(site.scripts), attr="live",
    )  # fmt: skip


def _judge(rng: random.Random, site: Site, connect: Connect, log: TextIO) -> Iterator[Statement]:
    subject, time_ns = Subject(id=site.account.uid), connect.time_ns
    mode: Mode = "enforce" if rng.random() < 0.7 else "dry-run"
    verdict = Verdict(
        time_ns=time_ns, subject=subject, account=site.account, rule=rng.choice(["hourly", "mx"]), count=51, limit=50,
        window_ns=600 * NS, action="block", until_ns=time_ns + HOUR_NS, mode=mode, connect=connect,
    )  # fmt: skip
    log.write(render_exceeded(verdict, time_ns) + "\n")
    files = [{"path": path.decode().rpartition(":")[0], "sha256": SHARED_SUM} for path in site.scripts[-1:]]
    yield statements.add(VerdictRow.of(verdict, 0, {"files": files if site.account.uid < FIRST_UID + SHARERS else []}))
    if rng.random() < 0.3:
        return
    block = Block(
        subject=subject, name=site.account.name, source="guard", kind="block", since_ns=time_ns,
        until_ns=time_ns + HOUR_NS, mode=mode, rule=verdict.rule, reason="", level=0, ranges=(), ids=(), ports=(25,),
    )  # fmt: skip
    log.write(render_block(block, site.account, time_ns, time_ns + HOUR_NS) + "\n")
    yield statements.add(_change("block", site, block, block.until_ns))
    if rng.random() < 0.5:
        log.write(render_unblock(block, site.account, time_ns, by="admin") + "\n")
        yield statements.add(_change("unblock", site, block, None))


def _change(event: str, site: Site, block: Block, until_ns: int | None) -> ChangeRow:
    details = {
        "source": "guard", "rule": block.rule, "mode": block.mode, "block_kind": block.kind, "ports": [25],
    }  # fmt: skip
    return ChangeRow(
        time_ns=block.since_ns + (event == "unblock"), uid=site.account.uid, name=site.account.name, event=event,
        by="guard" if event == "block" else "admin", until_ns=until_ns, details=details,
    )  # fmt: skip
