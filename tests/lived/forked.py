"""What is done in processes of their own, forked from the test: as another user, or at the same time as others."""

import os
from collections.abc import Sequence
from typing import Protocol

from smtpguard.demo import namespaces
from tests.support.crowd import connect_once


class Does(Protocol):
    """Something to be done."""

    def __call__(self) -> None: ...


def connect_as(uid: int, place: str, port: int, *, net: str, cgroup: str) -> int:
    """Open one connection as a user; its errno, 0 if it came through.

    Args:
        uid: The user.
        place: Address.
        port: Port.
        net: Path of the network namespace.
        cgroup: The cgroup to be in.
    """
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            namespaces.enter_cgroup(cgroup)
            namespaces.enter_net(net)
            namespaces.become(uid)
            code = connect_once(place, port)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def do_at_once(things: Sequence[Does]) -> None:
    """Each in a process of its own, all begun together; fails when one does."""
    ready, go = os.pipe()
    pids = []
    for thing in things:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(go)
                os.read(ready, 1)
                thing()
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    os.close(ready)
    os.close(go)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert not any(codes), f"what was done at once failed: {codes}"
