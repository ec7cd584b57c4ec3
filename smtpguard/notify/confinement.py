"""This process's own limits: it writes its file and that of figures alone, whatever somebody far away makes of it.

It is root's by its uid, so that it could write what is root's without any capability (kernel/landlock.py). A hook may
write where it likes: where there is one, nothing is given up.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smtpguard.daemon.outlet.frames import HelperSettings, find_writable
from smtpguard.hooks import ClockS
from smtpguard.kernel.landlock import restrict_writing

log = logging.getLogger(__name__)

_LOOK_S = 30.0


class Confinement:
    """The duty that comes before all others: the threads that they start have the same limits.

    Args:
        clock: Monotonic seconds.
    """

    name = "confinement"

    def __init__(self, clock: ClockS) -> None:
        self._clock = clock
        self._text = ""
        self._places: dict[str, tuple[int, int]] = {}
        self._due_s = 0.0

    def configure(self, settings: HelperSettings) -> None:
        """Give up what is not needed, once: for another place the daemon starts another process."""
        if self._text:
            return
        writable = find_writable(settings)
        if writable is None:
            self._text = "no (a hook may write where it likes)"
            return
        try:
            places = {path: _identify(path) for path in writable}
            version = restrict_writing(writable)
        except OSError as error:
            self._text = f"no ({error})"
            log.warning("the notifying process keeps the right to write everywhere: %s", error)
            return
        if not version:
            self._text = "no (this kernel has no Landlock)"
            return
        self._places = places
        self._text = f"writes in {' and '.join(writable)} only"

    def take(self, kind: str, content: Any) -> None:  # noqa: ANN401 - JSON values
        """Nothing."""

    def next_due_s(self) -> float | None:
        """When to look whether the places are still the same."""
        return self._due_s if self._places else None

    def on_time(self, now_s: float) -> None:
        """End this process where a place was made anew: only another one may write there."""
        if not self._places or now_s < self._due_s:
            return
        self._due_s = now_s + _LOOK_S
        for path, before in self._places.items():
            try:
                is_another = _identify(path) != before
            except OSError:  # it is gone: nothing can be written there by anybody
                continue
            if is_another:
                log.warning("%s was made anew: so is the notifying process", path)
                raise SystemExit(0)

    def report(self) -> Mapping[str, Any]:
        """Whether it holds."""
        return {"text": self._text} if self._text else {}

    def close(self) -> None:
        """Nothing: there is no way back."""


def _identify(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino
