"""`smtpguard replay --learn`: what logs of before tell the guard about who sends."""

import os
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from smtpguard.cli.common import find_socket, print_json
from smtpguard.cli.tables import print_lines
from smtpguard.errors import NoDaemonError, PrivilegeError

if TYPE_CHECKING:
    from smtpguard.settings import Settings
    from smtpguard.sources.audit.replay import ReplaySource
    from smtpguard.standalone.learn import Learned, Learner

_CHUNK = 1_000
"""Users and ports told to a running guard at a time: 40 kB."""


def learn(settings: "Settings", source: "ReplaySource", *, config_path: str | None, as_json: bool) -> None:
    """Read the logs, put what they tell into the state, and tell a running guard.

    Args:
        settings: The configuration.
        source: The logs, not open yet.
        config_path: --config, for the socket.
        as_json: Print JSON.

    Raises:
        PrivilegeError: Not root.
        GuardError: The state can't be had, or a log can't be read.
    """
    from smtpguard.standalone.learn import Learner, open_for_learning

    if os.geteuid() != 0:
        raise PrivilegeError("the state is root's", fix="run it as root")
    wall_ns = time.time_ns()
    source.open()
    try:
        with open_for_learning(settings, wall_ns=wall_ns) as state:
            learner = Learner(settings, state, wall_ns=wall_ns, node=os.uname().nodename)
            while not source.done:
                learner.take(source.read())
            learner.write()
            waiting = _tell_guard(learner.learned, config_path)
            if waiting is None:
                waiting = learner.waiting()
    finally:
        source.close()
    _show(learner, waiting, as_json=as_json)


def _tell_guard(learned: "Learned", config_path: str | None) -> dict[str, int] | None:
    """Tell a running guard; until when its rules say nothing. None if none runs: it reads the state when it starts."""
    from smtpguard.cli.answers import ask

    socket_path = find_socket(config_path, None)
    seen = iter([[uid, port, last_ns] for (uid, port), last_ns in learned.seen.items()])
    try:
        for chunk in _chunks(seen):
            ask(socket_path, "learn", seen=chunk)
        answer = ask(socket_path, "learn", spans=[list(span) for span in learned.spans])
    except NoDaemonError:
        return None
    return dict(answer["waiting"])


def _chunks(seen: Iterator[list[int]]) -> Iterator[list[list[int]]]:
    while chunk := list(islice(seen, _CHUNK)):
        yield chunk


def _show(learner: "Learner", waiting: dict[str, int], *, as_json: bool) -> None:
    from smtpguard.clock import render_moment
    from smtpguard.text import render_escaped

    learned = learner.learned
    first, last = (learned.spans[0][0], learned.spans[-1][1]) if learned.spans else (None, None)
    hosts = ", ".join(render_escaped(host) for host in sorted(learned.hosts))
    left_out = {
        "of times that are known already": learned.known,
        "older than `state.keep`": learned.old,
        "of the future": learned.future,
        f"of other hosts ({hosts})": learned.foreign,
        "of accounts that are somebody else's now": learned.strangers,
    }
    if as_json:
        shown: dict[str, Any] = {
            "connects": learned.connects,
            "users": learned.users,
            "since": None if first is None else render_moment(first / 1e9),
            "until": None if last is None else render_moment(last / 1e9),
            "left_out": {
                "known": learned.known, "old": learned.old, "future": learned.future, "foreign": learned.foreign,
                "strangers": learned.strangers,
            },
            "other_hosts": [render_escaped(host) for host in sorted(learned.hosts)],
            "silent_until": {name: render_moment(until_ns / 1e9) for name, until_ns in waiting.items()},
        }  # fmt: skip
        print_json({"learned": shown})
        return
    if first is None or last is None:
        click.echo("Nothing new was learned.")
    else:
        span = f"{render_moment(first / 1e9)} to {render_moment(last / 1e9)}"
        print_lines([f"Learned from {span}: {learned.connects:,} connects of {learned.users:,} users."])
    if told := ", ".join(f"{count:,} {text}" for text, count in left_out.items() if count):
        print_lines([f"Left out: {told}."])
    for name in learner.novel_rules():
        until_ns = waiting.get(name)
        if until_ns is None:
            print_lines([f"Rule {name} is active from now on."])
        else:
            print_lines([f"Rule {name} learns until {render_moment(until_ns / 1e9)}, while smtpguard runs."])
