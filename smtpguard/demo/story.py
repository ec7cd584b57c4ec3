"""The demonstration: a hacked site, an innocent one and a real guard, in the laboratory; told step by step.

Yields lines of text; prints nothing itself. What it shows is measured, not staged: if the guard fails, so does it.
"""

import json
import subprocess
import time
from collections.abc import Iterator

from smtpguard.demo.lab import Lab
from smtpguard.errors import GuardError
from smtpguard.interpreter import module_argv
from smtpguard.text import render_duration

HACKED, INNOCENT = ("shop17", 61017), ("bakery", 61018)
LIMIT, SPAM, RATE = 30, 200, 1000
BLOCK_S = 60
_READY_S = 30
_POLL_S = 0.2  # a command is a Python of its own: asking more often slows what it waits for
_GUARD = module_argv("smtpguard")
_CLIENT = module_argv("smtpguard.demo.client")

CONFIG = """\
version: 1
dry_run: false
cgroup: {cgroup}
rules:
  - {{name: mx-burst, ports: [25], count: connections, limit: {limit}, window: 10m, action: block, block: {block}s}}
log: {{path: {directory}/events.log}}
state: {{path: {directory}/state.db}}
control: {{socket: {directory}/control.sock}}
"""


def spam_targets() -> list[str]:
    """Many networks, as a spammer's list of mail servers has them."""
    return [f"198.18.{i}.25" for i in range(100)]


def start_sink(lab: Lab) -> None:
    """Start the mail server in the peer's namespace and wait until it listens."""
    sink = lab.start(module_argv("smtpguard.demo.sink", "25", "587"), net=lab.peer)
    if sink.stdout is None or sink.stdout.readline() != "ready\n":
        raise GuardError("the demonstration's mail server did not start")


def wait_ready(lab: Lab, config: str, guard: subprocess.Popen[str], timeout_s: float = _READY_S) -> None:
    """Wait until the guard says it is ready; raises GuardError if it ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    said = "no answer"
    while time.monotonic() < deadline:
        if guard.poll() is not None:
            stderr = (lab.directory / "guard.err").read_text("utf-8", "replace")
            raise GuardError(f"the guard ended with exit code {guard.returncode}", fix=stderr)
        status = lab.run([*_GUARD, "status", "--config", config])
        if status.returncode == 0:
            return
        said = status.stderr.strip()
        time.sleep(_POLL_S)
    raise GuardError(f"the guard was not ready within {timeout_s:g} s: {said}")


def _connect(lab: Lab, user: tuple[str, int], count: int, rate: int) -> subprocess.Popen[str]:
    words = ["connect", "--uid", str(user[1]), "--count", str(count), "--rate", str(rate), "--deliver"]
    return lab.start([*_CLIENT, *words, *spam_targets()], inside=True)


def _outcome(child: subprocess.Popen[str]) -> tuple[int, int]:
    text, _ = child.communicate(timeout=60)
    found = json.loads(text)
    return int(found["ok"]), int(found["refused"])


def _tell_outcome(name: str, ok: int, refused: int) -> str:
    return f"  {name:<8} {ok:>4} mails went out, {refused:>4} connections refused"


def tell() -> Iterator[str]:
    """Play the demonstration; each item is a line for people."""
    with Lab(dict([HACKED, INNOCENT])) as lab:
        if lab.cgroup is None:
            raise GuardError("cgroup v2 is not mounted here", fix="mount -t cgroup2 none /sys/fs/cgroup/unified")
        start_sink(lab)
        config = lab.directory / "smtpguard.yaml"
        values = {"cgroup": lab.cgroup, "directory": lab.directory, "limit": LIMIT, "block": BLOCK_S}
        config.write_text(CONFIG.format(**values), "utf-8")
        yield f"A web host with two sites, {HACKED[0]} and {INNOCENT[0]}, and a mail server, each in its namespace."
        length = render_duration(BLOCK_S)
        yield f"The rule: more than {LIMIT} connections to port 25 in 10 min block the user for {length}."
        with (lab.directory / "guard.err").open("w") as stderr:
            guard = lab.start([*_GUARD, "run", "--config", str(config)], stderr=stderr)
        wait_ready(lab, str(config), guard)
        yield f"\n{HACKED[0]} is hacked: {SPAM} mails at {RATE} a second. {INNOCENT[0]} sends a few meanwhile."
        innocent = _connect(lab, INNOCENT, 20, 20)
        hacked = _connect(lab, HACKED, SPAM, RATE)
        hacked_ok, hacked_refused = _outcome(hacked)
        innocent_ok, innocent_refused = _outcome(innocent)
        yield _tell_outcome(HACKED[0], hacked_ok, hacked_refused)
        yield _tell_outcome(INNOCENT[0], innocent_ok, innocent_refused)
        yield "\n$ grep -E 'EVENT=(EXCEEDED|BLOCK)' events.log"
        log = (lab.directory / "events.log").read_text("ascii").splitlines()
        yield from (line for line in log if "EVENT=EXCEEDED" in line or "EVENT=BLOCK" in line)
        for words in (["blocks"], ["unblock", HACKED[0]]):
            done = lab.run([*_GUARD, *words, "--config", str(config)])
            yield f"\n$ smtpguard {' '.join(words)}\n{done.stdout.rstrip()}"
        yield f"\nAfter that {HACKED[0]} sends again:"
        again_ok, again_refused = _outcome(_connect(lab, HACKED, 5, 0))
        yield _tell_outcome(HACKED[0], again_ok, again_refused)
        if innocent_refused or again_refused or not LIMIT <= hacked_ok < SPAM:
            raise GuardError("the guard did not do what it is for", fix=(lab.directory / "guard.err").read_text())
    yield "\nNothing of this is left on the host."
