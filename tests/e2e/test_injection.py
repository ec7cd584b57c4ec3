"""Every text that a tenant, a name server or a person can choose, in every output: no forged field, no control byte."""

import contextlib
import json
import os
import re
import select
import shlex
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard.actions.eventlog import EventLog
from smtpguard.cli import main
from smtpguard.cli.watch_formats import Format, render_watch
from smtpguard.control.watch_item import parse_item, render_item
from smtpguard.daemon.record.enrichment_queue import Entry, Waiting
from smtpguard.demo.lab import PEER4
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.logline import parse_line
from smtpguard.model import NS, Account, Connect, Subject, Verdict
from smtpguard.state.file_recovery import Paths
from smtpguard.state.rows import VerdictRow
from smtpguard.state.writer import StateWriter
from tests.support.audit_records import Event, log
from tests.support.host import INNOCENT, SMTPGUARD, Host, wait_for

FORGED = b"x\n2026-02-18T13:39:28.123456+01:00 USER=web02 UID=61102 EVENT=EXCEEDED RULE=r COUNT=9 LIMIT=1"
TEXTS = {
    "terminal": b"\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\x08",
    "line": FORGED,
    "quotes": b'" UID="0" EVENT="BLOCK\\" \\',
    "sql": b"'); DROP TABLE verdicts; --\"",
    "nft": b'" }; flush ruleset; add element inet smtpguard blocked { 0 comment "',
    "markup": b"[red]x[/red] <b>&amp; {0} %s %n $(id) `id`",
    "utf8": "\u202e\u2028\u0085\ufeff\U0001f4a9\x00".encode(),
    "broken": bytes(range(128, 256)) + b"\xed\xa0\x80\xc0\xaf",
    "control": bytes(range(1, 32)),
    "dash": b"-",
    "long": b"\\" * 5000,
}
WALL_NS = 1_771_418_368 * NS
PRINTABLE = re.compile(r"[\x20-\x7e]*")
ACCOUNTS = {"w\x1b]0;x\x07": 61301, 'a"b\\c UID=0': 61302, "h\u00e9\u202exe": 61303, "web02%0A;EVENT=BLOCK": 61304}
RULE = {"name": "burst", "count": "connections", "limit": 3, "window": "10m", "action": "block", "block": "30m"}

CALM = [{"match": {"users": [INNOCENT[0]]}, "rules": {"burst": {"limit": 10_000}}}]


def one_plain_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, lines
    assert PRINTABLE.fullmatch(lines[0]), lines[0]
    return lines[0]


@contextlib.contextmanager
def resolving(name: bytes) -> Iterator[ReverseDns]:
    """A resolver whose zone belongs to the attacker."""
    rdns = ReverseDns(resolve=lambda _: name)
    rdns.start()
    try:
        yield rdns
    finally:
        rdns.close()


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_found_out_about_a_connection(tmp_path: Path, name: str) -> None:
    """Name by an injected resolver, process, binary, directory, script: log, live stream, the three formats, SQL."""
    text = TEXTS[name]
    account = Account(uid=61001, name=text.decode("utf-8", "surrogateescape"), standing="tenant")
    connect = Connect(
        time_ns=0, uid=61001, pid=None, port=25, address=b"\xc6\x12\0\1", sensor="bpf", result="allowed",
        attr="live", proc=text, exe=text, cwd=text, script=text,
    )  # fmt: skip
    verdict = Verdict(
        time_ns=0, subject=Subject(id=61001), account=account, rule="burst", count=4, limit=3, window_ns=NS,
        action="block", mode="enforce", until_ns=NS, connect=connect,
    )  # fmt: skip
    found: list[Entry] = []
    with resolving(text) as rdns:
        waiting = Waiting(time.monotonic_ns, found.append, looker=None, rdns=rdns)
        waiting.add(Entry(connect=connect, account=account, subject=verdict.subject, verdicts=[verdict]))
        end = time.monotonic() + 10
        while not found:
            waiting.on_time(time.monotonic_ns())
            assert time.monotonic() < end
    (entry,) = found
    connect, (verdict,) = entry.connect, entry.verdicts
    events = EventLog(str(tmp_path / "events.log"))
    events.open()
    events.write_connect(connect, account, wall_ns=WALL_NS, now_ns=0, highest_limit=9)
    events.write_exceeded(verdict, wall_ns=WALL_NS)
    assert events.close(wall_ns=WALL_NS, timeout_s=60)
    data = (tmp_path / "events.log").read_bytes()
    assert data.count(b"\n") == 2
    for raw in data.splitlines():
        line = parse_line(one_plain_line(raw.decode("ascii")))
        assert line.uid == 61001
        assert re.fullmatch(r"[A-Za-z0-9_.@+%-]+", line.user)
        if len(text) <= 255 and text != b"-":
            assert [line.fields[key] for key in ("PROC", "EXE", "CWD", "SCRIPT")] == [text] * 4
            assert line.fields["RDNS"] in (text, None), "within 50 ms, or not at all"
    item = json.loads(json.dumps(render_item(connect, account, WALL_NS)))
    there, whose, _ = parse_item(item)
    assert (there.proc, there.rdns, whose.name) == (connect.proc, connect.rdns, account.name)
    forms: list[Format] = ["guard", "classic", "json"]
    for form in forms:
        line_text = one_plain_line(render_watch(form, there, whose, WALL_NS))
        if form == "json":
            assert json.loads(line_text)["uid"] == 61001
    check_rows(tmp_path, verdict)


def check_rows(directory: Path, verdict: Verdict) -> None:
    path = directory / "state" / "state.db"
    state = StateWriter(Paths(path=str(path), keep_ns=NS * 86400 * 30, max_bytes=10**8, boot_id="b"))
    state.start()
    state.add(VerdictRow.of(verdict, WALL_NS, evidence={"script": "\x1b'\""}))
    assert state.close(60)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM verdicts").fetchone() == (1,)
        for (evidence,) in connection.execute("SELECT evidence FROM verdicts"):
            json.loads(evidence)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(
        ACCOUNTS, rules=[RULE], users=CALM, breaker={"blocks": 100, "per": "10m"}, attribution={"rdns": False}
    ) as made:
        made.lab.directory.chmod(0o755)
        made.start()
        yield made


def follow(host: Host, form: str) -> subprocess.Popen[str]:
    return host.lab.start([*SMTPGUARD, "watch", "-l", "--format", form, "--config", host.config])


class Shown:
    """What a `watch` has shown so far."""

    def __init__(self, watcher: subprocess.Popen[str]) -> None:
        assert watcher.stdout is not None
        self._file, self.text = watcher.stdout, ""

    def count(self, word: str) -> int:
        """Its lines with a word."""
        while select.select([self._file], [], [], 0)[0] and (more := os.read(self._file.fileno(), 1 << 16)):
            self.text += more.decode("ascii")
        return sum(word in row for row in self.text.splitlines())


def wait_until_attached(host: Host, watchers: list[subprocess.Popen[str]]) -> None:
    """Somebody else connects until each of them has shown it."""

    def look() -> bool:
        host.connect(INNOCENT)
        outputs = [watcher.stdout for watcher in watchers if watcher.stdout is not None]
        return len(select.select(outputs, [], [], 0.2)[0]) == len(outputs)

    wait_for(look, 30)


@pytest.mark.kernel
@pytest.mark.parametrize("user", list(ACCOUNTS), ids=["terminal", "quotes", "unicode", "percent"])
def test_a_hostile_account_with_a_hostile_program(host: Host, user: str) -> None:
    """Its shell is a binary of a hostile name, run in a hostile directory; it exceeds a rule while people watch."""
    uid = ACCOUNTS[user]
    home = host.lab.directory / f"home-{uid}" / ("d\x1b[2J\nUSER=root UID=0 \"'" + "\u202e")
    home.mkdir(parents=True)
    home.parent.chmod(0o755)
    shell = home / "ba sh\n\x1b]0;x\x07"
    shell.write_bytes(Path("/bin/bash").read_bytes())
    shell.chmod(0o755)
    watchers = {form: follow(host, form) for form in ("guard", "classic", "json")}
    wait_until_attached(host, list(watchers.values()))
    said = len(host.stderr())
    script = f"cd {shlex.quote(str(home))}; for n in 1 2 3 4 5 6; do exec 3<>/dev/tcp/{PEER4}/25; sleep 0.1; done"
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", str(shell), "-c", script]
    tenant = host.lab.start(words, inside=True, stderr=subprocess.DEVNULL)
    tenant.wait(20)
    events = wait_for(
        lambda: [e for line in host.log_lines() if (e := parse_line(line)).uid == uid and e.event == "BLOCK"]
    )
    assert len(events) == 1
    lines = [parse_line(one_plain_line(line)) for line in host.log_lines()]
    mine = [line for line in lines if line.uid == uid]
    assert {line.user for line in lines} <= {line.user for line in mine} | {
        line.user for line in lines if line.uid != uid
    }
    assert len({line.user for line in mine}) == 1
    assert re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.@+%-]*", mine[0].user)
    assert any(line.fields.get("EXE") == bytes(shell) for line in mine), "the binary itself, escaped"
    for form, watcher in watchers.items():
        shown, name = Shown(watcher), mine[0].user
        wait_for(lambda shown=shown, name=name: shown.count(name) >= 4)  # type: ignore[misc]
        watcher.send_signal(signal.SIGINT)
        out = shown.text + watcher.communicate(timeout=10)[0]
        seen = [row for row in out.splitlines() if f"{mine[0].user}" in row]
        assert len(seen) >= 4, out
        for row in out.splitlines():
            one_plain_line(row)
            if form == "json":
                json.loads(row)
            if form == "guard":
                parse_line(row)
    reason = "'\"; \x1b[2J\nforged\u202e [red]"
    asked = host.cli("block", f"uid:{uid}", "--for", "5m", "--reason", reason)
    allowed = host.cli("allow", f"uid:{uid}", "--for", "5m", "--reason", reason)
    for done in (asked, allowed, host.cli("status"), host.cli("blocks"), host.cli("unblock", f"uid:{uid}")):
        assert done.returncode == 0, done.stderr
        for row in (done.stdout + done.stderr).splitlines():
            one_plain_line(row)
    for verb in ("status", "blocks"):
        json.loads(host.cli(verb, "--json").stdout)
    assert host.cli("allow", f"uid:{uid}", "--end").returncode == 0
    for text in (host.nft("list", "ruleset"), host.stderr()[said:]):
        assert re.fullmatch(r"[\x20-\x7e\n\t]*", text)
    json.loads(host.nft("-j", "list", "ruleset"))
    reasons = [line.fields["REASON"] for line in map(parse_line, host.log_lines()) if line.event in {"BLOCK", "ALLOW"}]
    assert reason.encode() in reasons


@pytest.mark.kernel
def test_diagnostics_repeat_no_control_byte(host: Host) -> None:
    bad = "\x1b[2Jnobody\n\u202e"
    for words in (["block", bad], ["unblock", bad], ["allow", bad, "--for", "1h"], ["exempt", "--", bad], ["why", bad]):
        done = host.cli(*words)
        assert done.returncode != 0
        assert re.fullmatch(r"[\x20-\x7e\n]*", done.stderr + done.stdout), words


@pytest.mark.parametrize("name", TEXTS)
def test_replay_of_a_hostile_log(tmp_path: Path, name: str) -> None:
    text = TEXTS[name].replace(b"\0", b"")
    records: list[str] = []
    for serial in range(6):
        event = Event(serial=serial + 1, millis=1000 * serial, uid=61001, comm=text[:15], exe=text)
        records += event.lines()
    path = tmp_path / "audit.log"
    path.write_bytes(log(records))
    config = tmp_path / "smtpguard.yaml"
    config.write_text(f"version: 1\nrules:\n  - {json.dumps(RULE)}\n")
    config.chmod(0o600)
    plain = CliRunner().invoke(main, ["replay", "--config", str(config), str(path)])
    assert plain.exit_code == 0, plain.output
    assert re.fullmatch(r"[\x20-\x7e\n]*", plain.output)
    found = json.loads(CliRunner().invoke(main, ["replay", "--json", "--config", str(config), str(path)]).stdout)
    assert found["connects"] == 6
    assert [verdict["uid"] for verdict in found["verdicts"]] == [61001]
