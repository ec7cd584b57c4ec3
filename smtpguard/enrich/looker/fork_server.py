"""The fork-server: a small process, forked once and early from the daemon, that forks workers on demand.

It touches nothing hostile, so it never hangs; it has already given up all rights but the workers' own. The daemon
sends it one end of a new socket pair for each worker it wants. When the daemon ends, or closes the control socket,
everything here ends too: the kernel kills it (PR_SET_PDEATHSIG) even if nobody is left to close anything.

The daemon has given up the rights to start it again, so it also forks its own spare: the same process with a control
socket of its own, which outlives it and ends when that socket is closed.
"""

import contextlib
import gc
import os
import signal
import socket
from pathlib import Path

from smtpguard.enrich.looker.drop_privileges import apply_least, apply_name, apply_parent_death
from smtpguard.enrich.looker.worker import AnswerQuestion, LoadAnswer, run_worker

WORKER, SPARE = b"w", b"s"
"""What the daemon asks for; the new process's end of a socket pair comes with it."""
READY = b"r"
"""What the fork-server says once, when its workers can answer at once."""
_CONTROL = 3
_CHANNEL = 4
_STEADY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


def fork_spawner(control: socket.socket, load: LoadAnswer, *, limit_s: float) -> int:
    """Fork the fork-server; returns its pid, in the daemon only.

    Call it early and from the thread that lives as long as the daemon: no other thread may run at the fork, and the
    parent-death signal belongs to the thread.

    Args:
        control: The fork-server's end; the daemon keeps and uses the other one.
        load: Gives what workers do. Called in the fork-server, before it gives up its rights: modules are imported.
        limit_s: Alarm clock of a worker.
    """
    parent = os.getpid()
    gc.collect()
    gc.freeze()  # what is there now is never looked at by a collection in the child, so its pages stay shared
    pid = os.fork()
    if pid:
        gc.unfreeze()
        return pid
    # Nothing is unwound from here on: objects of the daemon whose descriptors are closed below must not be finalised.
    code = 1
    with contextlib.suppress(BaseException):
        answer = _become_spawner(control, parent, load)
        _run_spawner(answer, limit_s)
        code = 0
    os._exit(code)


def _become_spawner(control: socket.socket, parent: int, load: LoadAnswer) -> AnswerQuestion:
    signal.set_wakeup_fd(-1)
    for number in _STEADY:  # a terminal's ^C and systemd's SIGTERM reach the whole group; the daemon decides
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers are reaped by the kernel
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.dup2(control.fileno(), _CONTROL)
    _close_others(_CONTROL)
    answer = load()
    gc.collect()
    gc.freeze()  # what is there now is never looked at by a collection in the workers, so its pages stay shared
    apply_least()
    apply_parent_death(parent)
    apply_name(b"sg-look-server")
    return answer


def _close_others(last: int) -> None:
    """Keep standard streams, on /dev/null, and descriptors 3 to `last`."""
    # os.closerange tries every number where the C library has no close_range(2): a second, with a high limit.
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd > last:
            with contextlib.suppress(OSError):  # the directory's own descriptor is gone by now
                os.close(fd)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _run_spawner(answer: AnswerQuestion, limit_s: float) -> None:
    control = socket.socket(fileno=_CONTROL)
    control.send(READY)
    own = os.getpid()
    while True:
        packet, fds, _flags, _address = socket.recv_fds(control, 16, 1)
        if not packet:
            return
        if os.fork() == 0:
            if packet == SPARE:
                _become_spare(fds[0], answer, limit_s)
            _become_worker(fds[0], own, answer, limit_s)
        for fd in fds:
            os.close(fd)


def _become_spare(fd: int, answer: AnswerQuestion, limit_s: float) -> None:
    with contextlib.suppress(BaseException):
        os.dup2(fd, _CONTROL)
        _close_others(_CONTROL)
        apply_name(b"sg-look-spare")
        _run_spawner(answer, limit_s)
    os._exit(0)


def _become_worker(fd: int, parent: int, answer: AnswerQuestion, limit_s: float) -> None:
    with contextlib.suppress(BaseException):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if fd != _CHANNEL:
            os.dup2(fd, _CHANNEL)
        _close_others(_CHANNEL)
        os.close(_CONTROL)
        apply_parent_death(parent)
        apply_name(b"sg-look")
        run_worker(socket.socket(fileno=_CHANNEL), answer, limit_s=limit_s)
    os._exit(0)
