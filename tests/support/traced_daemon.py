"""The real daemon, which tells through which files one event goes: `python traced_daemon.py DIRECTORY --config F`.

While DIRECTORY/trace is there, each file of the package is noted that is on the way of an event, as test_ways.py says
what that is; when it goes, DIRECTORY/traced has them, in the order in which they were first on it.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Container
from pathlib import Path
from types import FrameType

import smtpguard
from smtpguard.actions.base import Deny
from smtpguard.daemon.loop import Loop
from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.daemon.serve.requests import UnblockRequest
from smtpguard.daemon.serve.unblock import Freed, Unblocked
from smtpguard.model import Block, Connect, Ended, Refusal, Verdict
from smtpguard.policy.counters import Excess
from tests.support.own_daemon import run_daemon

TOP = f"{Path(smtpguard.__file__).parent}/"
FORMS = (Connect, Excess, Verdict, Block, Refusal, Deny, Entry, UnblockRequest, Ended, Freed, Unblocked)
"""What an event is, one after the other."""
BEGINS = frozenset({"Client.take_request", "parse_request"})
"""Where a request is bytes yet."""
DOORS = frozenset(
    {
        *(f"{means}.{name}" for means in ("BpfDeny", "NftEnforcer") for name in ("apply_deny", "apply_release")),
        "NftEnforcer.clear_everywhere",
        "Waiting.add",
        "Waiting.add_call",
        "EventLog._put",
        "Client.answer",
    }
)
"""Where the way ends: adapters, and the line in which what is written waits for its attribution."""

ASIDE = frozenset({"SetComparison.compare", "TableWatch.on_ready", "TableWatch.on_time"})
"""What looks at the kernel now and then, whatever happens."""


def holds_form(value: object, depth: int = 2) -> bool:
    """Whether a value is the event in one of its forms, or holds some."""
    if isinstance(value, FORMS):
        return True
    if depth and isinstance(value, list | tuple | set | frozenset):
        return any(holds_form(item, depth - 1) for item in list(value)[:8])
    return bool(depth and isinstance(value, dict) and any(holds_form(item, depth - 1) for item in value.values()))


class Tracer:
    """Notes files on the way.

    Args:
        directory: Where it is asked for, and told.
    """

    def __init__(self, directory: Path) -> None:
        self._asked, self._told = directory / "trace", directory / "traced"
        self._pid = os.getpid()
        self._is_on = False
        self._files: dict[str, None] = {}

    def watch(self) -> None:
        """In a thread: begin and end as the test asks for it."""
        while True:
            time.sleep(0.01)
            if self._asked.exists() and not self._is_on:
                self._files.clear()
                self._is_on = True
                (self._asked.parent / "tracing").touch()
            elif self._is_on and not self._asked.exists():
                self._is_on = False
                self._told.with_suffix(".new").write_text(json.dumps(list(self._files)))
                self._told.with_suffix(".new").rename(self._told)

    def note(self, frame: FrameType, event: str, value: object) -> None:
        """As sys.setprofile wants it."""
        if not self._is_on or not frame.f_code.co_filename.startswith(TOP) or os.getpid() != self._pid:
            return
        name = frame.f_code.co_qualname
        if event == "call" and name in DOORS and not _is_inside(frame, ASIDE):
            self._add_stack(frame)
        elif event == "return" and self._is_maker(frame, name, value):
            self._files[frame.f_code.co_filename.removeprefix(TOP)] = None

    @staticmethod
    def _is_maker(frame: FrameType, name: str, value: object) -> bool:
        """Whether a function gives back what came of the event; a type's own properties are none of a file's."""
        code = frame.f_code
        arguments = [frame.f_locals.get(word) for word in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
        if name in BEGINS:
            return True
        if _is_inside(frame.f_back, DOORS | ASIDE):
            return False
        if arguments and isinstance(arguments[0], FORMS) and code.co_varnames[0] == "self":
            return False
        return holds_form(value) or (isinstance(value, str) and any(map(holds_form, arguments)))

    def _add_stack(self, frame: FrameType | None) -> None:
        files: list[str] = []
        while frame is not None and frame.f_code is not Loop._serve.__code__:
            if frame.f_code.co_filename.startswith(TOP):
                files.append(frame.f_code.co_filename.removeprefix(TOP))
            frame = frame.f_back
        if frame is not None:  # else it is no turn of a part: the end of the daemon, for one
            self._files.update(dict.fromkeys(reversed(files)))


def _is_inside(frame: FrameType | None, names: Container[str]) -> bool:
    """Whether one of these functions is at work in this turn."""
    while frame is not None and frame.f_code is not Loop._serve.__code__:
        if frame.f_code.co_qualname in names:
            return True
        frame = frame.f_back
    return False


def main() -> int:
    """Run until a signal."""
    directory, _, config = sys.argv[1:4]
    tracer = Tracer(Path(directory))

    def begin() -> None:
        threading.Thread(target=tracer.watch, name="tracer", daemon=True).start()
        sys.setprofile(tracer.note)

    return run_daemon(config, begin)


if __name__ == "__main__":
    sys.exit(main())
