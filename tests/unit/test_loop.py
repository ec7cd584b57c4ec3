"""The loop: descriptors, deadlines, signals."""

import os
import signal
from collections.abc import Callable, Sequence

import pytest

from smtpguard.daemon.loop import Loop


class Pipe:
    """A part that reads a pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.seen: list[bytes] = []
        self.times: list[int] = []
        self.deadline: int | None = None

    def filenos(self) -> Sequence[int]:
        return (self.reader,)

    def on_ready(self, fileno: int) -> None:
        self.seen.append(os.read(fileno, 100))

    def next_deadline(self) -> int | None:
        return self.deadline

    def on_time(self, now_ns: int) -> None:
        self.times.append(now_ns)

    def reopen(self) -> None:
        """Have another one by the same number, and the old one closed in that moment: no thread can come between."""
        reader, writer = os.pipe()
        os.dup2(reader, self.reader)
        os.close(reader)
        os.close(self.writer)
        self.writer = writer

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def make_loop() -> Callable[[], Loop]:
    return lambda: Loop(lambda: 1000, longest_wait_ns=20_000_000)


def test_reads_what_is_there_and_waits_no_longer_than_a_deadline(make_loop: Callable[[], Loop]) -> None:
    loop, pipe = make_loop(), Pipe()
    loop.add(pipe)
    os.write(pipe.writer, b"a")
    loop.turn()
    pipe.deadline = 5
    loop.turn()
    assert pipe.seen == [b"a"]
    assert pipe.times == [1000, 1000]
    pipe.close()
    loop.close()


def test_a_descriptor_number_used_again_is_watched_again(make_loop: Callable[[], Loop]) -> None:
    loop, pipe = make_loop(), Pipe()
    loop.add(pipe)
    loop.turn()
    pipe.reopen()
    os.write(pipe.writer, b"b")
    loop.turn()
    assert pipe.seen == [b"b"]
    pipe.close()
    loop.close()


def test_a_removed_part_is_not_served(make_loop: Callable[[], Loop]) -> None:
    loop, pipe = make_loop(), Pipe()
    loop.add(pipe)
    loop.turn()
    loop.remove(pipe)
    os.write(pipe.writer, b"c")
    loop.turn()
    assert pipe.seen == []
    pipe.close()
    loop.close()


def test_a_signal_is_served_in_the_loop_and_can_stop_it(make_loop: Callable[[], Loop]) -> None:
    loop = make_loop()
    before = signal.getsignal(signal.SIGUSR1)
    loop.on_signal(signal.SIGUSR1, loop.stop)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        # Signals that came before run() has its wake-up descriptor are served as well.
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
        loop.close()


def test_the_longest_turn_is_known_and_whose_it_was() -> None:
    clock = [0]

    class Slow(Pipe):
        def __init__(self, took_ns: int) -> None:
            super().__init__()
            self.took_ns = took_ns

        def on_time(self, now_ns: int) -> None:
            super().on_time(now_ns)
            clock[0] += self.took_ns

    class Slower(Slow):
        pass

    loop = Loop(lambda: 1000, longest_wait_ns=0, clock=lambda: clock[0])
    assert (loop.stalls.worst_ns, loop.stalls.worst_part) == (0, "")
    slow, slower = Slow(3), Slower(40)
    loop.add(slow)
    loop.add(slower)
    loop.turn()
    slower.took_ns = 4
    loop.turn()
    loop.turn()
    assert (loop.stalls.worst_ns, loop.stalls.worst_part) == (43, "Slower")
    loop.stalls.end()
    clock[0] += 10**9  # what passes while it waits is no stall
    loop.stalls.begin()
    loop.stalls.end()
    assert loop.stalls.worst_ns == 43
    for pipe in (slow, slower):
        pipe.close()
    loop.close()
