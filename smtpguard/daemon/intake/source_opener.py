"""Opens a source and has it prove itself, beside the loop.

The kernel takes about 0.2 s to verify the BPF program, and a self-test that nothing comes out of takes a second; the
loop would stand still for as long. What is opened belongs to the thread until it is taken.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smtpguard.errors import GuardError
from smtpguard.kernel.beside import Beside
from smtpguard.kernel.nft.access import open_nft
from smtpguard.settings import Settings
from smtpguard.sources.base import LoopbackSensor, Source

PROBE_S = 1.0
_LAST_WAIT_S = 5.0
"""A source that is being opened at the end is waited for: what it has put into the kernel has to go."""


class MakeSource(Protocol):
    """Makes a source of a kind; it is not open yet."""

    def __call__(self, name: str, settings: Settings) -> Source:
        """Make one. Raises SourceError."""
        ...


def open_source(make: MakeSource, name: str, settings: Settings) -> Source:
    """A source that is open and has proved itself; what failed is closed.

    Args:
        make: Makes it.
        name: Of its kind.
        settings: What it needs.

    Raises:
        GuardError, OSError: It can't be had.
    """
    source = make(name, settings)
    try:
        source.open()
        source.probe(PROBE_S)
    except BaseException:
        with contextlib.suppress(GuardError, OSError):
            source.close()
        raise
    return source


def tell_changes(source: Source, before: Settings, after: Settings) -> None:
    """Tell an open source what it has to know of another configuration. Raises SourceError."""
    if after.ports != before.ports:
        source.set_ports(after.ports)
    if after.loopback != before.loopback and isinstance(source, LoopbackSensor):
        source.set_loopback(counts=after.loopback == "count")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSource:
    """A source that was opened.

    Attributes:
        source: It.
        settings: What it was opened with; they may have changed meanwhile.
    """

    source: Source
    settings: Settings


class SourceOpener:
    """One source at a time, in a thread of its own.

    Args:
        make: Makes a source.
    """

    def __init__(self, make: MakeSource) -> None:
        self._make = make
        self._beside: Beside[OpenedSource] = Beside("source-opening")
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def begin(self, name: str, settings: Settings) -> None:
        """Begin to open one; the one before must have been taken. Raises ThreadError."""

        def work() -> OpenedSource:
            try:
                return OpenedSource(source=open_source(self._make, name, settings), settings=settings)
            finally:
                open_nft().leave()
                os.eventfd_write(self._wake, 1)

        self._beside.begin(work)

    def take(self, settings: Settings) -> Source | None:
        """What was opened, or None if it goes on; raises why it could not be.

        Args:
            settings: The configuration in force: a source that was opened with another one is told of it; one that
                can't be told is closed.
        """
        opened = self._beside.take()
        if opened is None:
            return None
        try:
            tell_changes(opened.source, opened.settings, settings)
        except BaseException:
            with contextlib.suppress(GuardError, OSError):
                opened.source.close()
            raise
        return opened.source

    def filenos(self) -> Sequence[int]:
        """Readable when it is as good as over."""
        return (self._wake,)

    def on_ready(self) -> None:
        """It is as good as over."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._beside.wait(PROBE_S)  # for the end of the thread, after its last line

    def close(self) -> None:
        """Wait for what is being opened, and close it."""
        if self._wake < 0:
            return
        with contextlib.suppress(Exception):
            opened = self._beside.take(_LAST_WAIT_S)
            if opened is not None:
                opened.source.close()
        if not self._beside.is_busy:  # else the thread would write into somebody else's descriptor
            os.close(self._wake)
        self._wake = -1
