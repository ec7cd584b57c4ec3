"""What a request may be answered with: at once, in pieces, as a stream, or later."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smtpguard.control.protocol import Json, render_line
from smtpguard.errors import GuardError
from smtpguard.hooks import Task

PAGE_ITEMS = 200
"""Items of a long answer that are rendered at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """A long answer: `items` are rendered piece by piece as the client reads, so it must not change meanwhile."""

    head: Json
    items: Sequence[Any]


class Later:
    """An answer that another thread is looking for; `resolve` may be called from there, once, at any time."""

    __slots__ = ("_answer", "_lock", "_wake")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answer: Json | Pages | GuardError | None = None
        self._wake: Task | None = None

    @property
    def answer(self) -> Json | Pages | GuardError | None:
        """The answer; None while there is none."""
        return self._answer

    def resolve(self, answer: Json | Pages | GuardError) -> None:
        """Here it is."""
        with self._lock:
            self._answer = answer
            wake = self._wake
        if wake is not None:
            wake()

    def notify(self, wake: Task) -> None:
        """Have something called when the answer is there, at once if it is."""
        with self._lock:
            self._wake = wake
            is_there = self._answer is not None
        if is_there:
            wake()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """An answer that begins a stream: `head` is told first, then whatever is published under `topic`."""

    topic: str
    head: Json


Answer = Json | Pages | Stream | Later


def render_pages(pages: Pages) -> Iterator[bytes]:
    """The lines of a long answer."""
    head = {"ok": True, **pages.head}
    begin = 0
    while True:
        piece = pages.items[begin : begin + PAGE_ITEMS]
        begin += PAGE_ITEMS
        is_last = begin >= len(pages.items)
        yield render_line({**head, "items": list(piece)} if is_last else {**head, "items": list(piece), "more": True})
        if is_last:
            return
        head = {"ok": True}
