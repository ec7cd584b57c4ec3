"""The reading end of a ring buffer, on pages as the kernel lays them out."""

import mmap
import os
import struct
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from smtpguard.sources.bpf.libbpf import BpfError
from smtpguard.sources.bpf.ring_buffer import Ring

PAGE = mmap.PAGESIZE
SIZE = PAGE
BUSY, DISCARDED = 1 << 31, 1 << 30


class Producer:
    """The kernel's end."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + SIZE)
        self.memory = mmap.mmap(self.fd, 2 * PAGE + SIZE)
        self.position = 0

    def put(self, sample: bytes, flags: int = 0) -> int:
        """Write a record; returns where its header is."""
        at = self.position % SIZE
        record = struct.pack("=II", len(sample) | flags, 0) + sample
        for number, byte in enumerate(record):
            self.memory[2 * PAGE + (at + number) % SIZE] = byte
        self.position += len(record) + 7 & ~7
        self.memory[PAGE : PAGE + 8] = struct.pack("=Q", self.position)
        return at

    def commit(self, at: int, sample: bytes) -> None:
        self.memory[2 * PAGE + at : 2 * PAGE + at + 4] = struct.pack("=I", len(sample))

    def consumed(self) -> int:
        return int(struct.unpack_from("=Q", self.memory)[0])


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    monkeypatch.setattr("smtpguard.sources.bpf.ring_buffer.select.epoll", Mock())  # no file of a disk can be watched
    made = Producer()
    yield made
    made.memory.close()
    os.close(made.fd)


def test_samples_come_in_order_and_whole_also_over_the_end(producer: Producer) -> None:
    ring = Ring(producer.fd, SIZE)
    assert ring.consume(10) == []
    for number in range(400):  # some thirty times around, by lengths that meet the end everywhere
        sample = bytes([number % 256]) * (100 + number)
        producer.put(b"unwanted", DISCARDED)
        producer.put(sample)
        assert ring.consume(10) == [sample]
        assert producer.consumed() == producer.position
    ring.close()
    ring.close()


def test_nothing_is_read_before_it_is_written_and_nothing_behind_it(producer: Producer) -> None:
    ring = Ring(producer.fd, SIZE)
    producer.put(b"first")
    at = producer.put(b"second", BUSY)
    producer.put(b"third")
    assert ring.consume(10) == [b"first"]
    assert ring.consume(10) == []
    assert producer.consumed() == 16
    producer.commit(at, b"second")
    assert ring.consume(10) == [b"second", b"third"]
    ring.close()


def test_as_many_as_are_wanted_are_taken_and_the_rest_stays(producer: Producer) -> None:
    ring = Ring(producer.fd, SIZE)
    for number in range(200):
        producer.put(bytes([number]))
    found = [ring.consume(70) for _ in range(4)]
    assert [len(part) for part in found] == [70, 70, 60, 0]
    assert b"".join(sample for part in found for sample in part) == bytes(range(200))
    ring.close()


def test_a_successor_goes_on_where_the_last_one_was(producer: Producer) -> None:
    ring = Ring(producer.fd, SIZE)
    producer.put(b"seen")
    ring.consume(1)
    ring.close()
    producer.put(b"new")
    ring = Ring(producer.fd, SIZE)
    assert ring.consume(10) == [b"new"]
    ring.close()
    with pytest.raises(ValueError, match="closed"):
        _ = ring.fd


def test_what_can_not_be_mapped_or_watched_is_an_error_with_nothing_left_open() -> None:
    for pipe in os.pipe():
        with pytest.raises(BpfError, match="a ring buffer can't be mapped"):
            Ring(pipe, SIZE)
        os.close(pipe)
    fd = os.memfd_create("ring")  # no file that epoll(7) takes
    os.ftruncate(fd, 2 * PAGE + SIZE)
    with pytest.raises(BpfError, match="Operation not permitted"):
        Ring(fd, SIZE)
    os.close(fd)
