"""Threads, as the guard starts them: where the system gives none now, whoever wanted one hears of it and asks again.

One that lasts outlives its own mistakes: what it raises is told, and after a rest it is taken up again. That is for
threads that live as long as the process and that nobody would start again. Whoever supervises learns of it by
threading.excepthook, as of the end of any other thread.
"""

import sys
import threading
import time
from functools import partial

from smtpguard.errors import ThreadError
from smtpguard.hooks import Task

FIRST_REST_S = 0.5
LONGEST_REST_S = 30.0
_WELL_S = 60.0
"""After so long without a mistake the next one is the first again."""


def start_thread(name: str, run: Task) -> threading.Thread:
    """Start a thread that ends by itself.

    Args:
        name: What it is called in the log.
        run: What it does.

    Raises:
        ThreadError: There is none to be had now: too many processes, or no memory.
    """
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise ThreadError(
            f"no thread can be started now: {error}", fix="see pids.max, kernel.threads-max and free memory"
        ) from error
    return thread


def start_lasting(name: str, run: Task) -> threading.Thread:
    """Start a thread that lasts.

    Args:
        name: What it is called in `status` and in the log.
        run: What it does; it returns when it is no longer needed. It is called again where it raises, so what it was
            at has to be put back or counted by then.

    Raises:
        ThreadError: As `start_thread`.
    """
    return start_thread(name, partial(_outlive, run))


def tell_mistake() -> None:
    """Have whoever supervises learn of the exception that is being handled: the thread goes on."""
    kind, error, trace = sys.exc_info()
    if kind is not None:
        threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))


def _outlive(run: Task) -> None:
    rest_s = FIRST_REST_S
    while True:
        begun = time.monotonic()
        try:
            run()
        except Exception:  # noqa: BLE001 - told, and gone on
            tell_mistake()
        else:
            return
        if time.monotonic() - begun > _WELL_S:
            rest_s = FIRST_REST_S
        time.sleep(rest_s)
        rest_s = min(2 * rest_s, LONGEST_REST_S)
