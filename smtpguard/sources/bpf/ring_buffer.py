"""The consuming end of one BPF ring buffer, read where the kernel maps it: each page once.

libbpf maps the data twice in a row, so that no record is ever cut: a megabyte of the process more that is none. Here a
record that passes the end is put together of two pieces. The layout is the kernel's, for user space for ever
(Documentation/bpf/ringbuf.rst; kernel/bpf/ringbuf.c): a page with the consumer's position, one with the producer's,
then the data; a record has 8 bytes of header, the first four its length with two flags, and begins at a multiple of 8.
"""

import errno
import mmap
import os
import select
import threading

from smtpguard.sources.bpf.libbpf import BpfError

_BUSY, _DISCARDED = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
_LENGTH = _DISCARDED - 1
_HEADER_BYTES = 8
_AT_ONCE = 64
"""Records after which the kernel hears that their room is free."""


class Ring:
    """It. Bounded: a flood can't keep `consume` busy for ever.

    Args:
        fd: The ring buffer's map.
        size: Bytes of its data, a power of two.

    Raises:
        BpfError: It can't be mapped or watched.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._size = size
        self._pages: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        self._epoll: select.epoll | None = None
        try:
            self._pages.append(mmap.mmap(fd, mmap.PAGESIZE))
            data = mmap.mmap(fd, mmap.PAGESIZE + self._size, prot=mmap.PROT_READ, offset=mmap.PAGESIZE)
            self._pages.append(data)
            self._epoll = select.epoll()
            self._epoll.register(fd, select.EPOLLIN)
        except OSError as error:
            self.close()
            number = error.errno or errno.EIO
            raise BpfError(number, f"a ring buffer can't be mapped: {os.strerror(number)}") from error
        self._data = data
        # Of 4 and 8 bytes at their own places: each is read and written in one piece.
        self._consumed = memoryview(self._pages[0]).cast("Q")
        self._produced = memoryview(data).cast("Q")
        self._headers = memoryview(data).cast("I")
        self._views += self._consumed, self._produced, self._headers
        self._position = self._consumed[0]
        self._fence = threading.Lock()
        self._fence.acquire()

    @property
    def fd(self) -> int:
        """An epoll descriptor, readable when a sample came with a wake-up."""
        if self._epoll is None:
            raise ValueError("the ring is closed")
        return self._epoll.fileno()

    def consume(self, max_samples: int) -> list[bytes]:
        """What is there now, at most so many samples; if it is exactly so many there may be more."""
        samples: list[bytes] = []
        while len(samples) < max_samples and self._take(samples, min(_AT_ONCE, max_samples - len(samples))):
            pass
        return samples

    def close(self) -> None:
        """Unmap it; may be called twice."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        while self._views:
            self._views.pop().release()
        while self._pages:
            self._pages.pop().close()

    def _take(self, samples: list[bytes], most: int) -> bool:
        """Take the next samples; whether there were records at all, discarded ones too."""
        position, end = self._position, self._produced[0]
        self._order()
        headers, mask = self._headers, self._size - 1
        found: list[tuple[int, int]] = []
        first = position
        while position < end and len(found) < most:
            place = position & mask
            header = headers[(mmap.PAGESIZE + place) >> 2]
            if header & _BUSY:
                break
            length = header & _LENGTH
            if not header & _DISCARDED:
                found.append((place + _HEADER_BYTES, length))
            position += _HEADER_BYTES + length + 7 & ~7
        if position == first:
            return False
        self._order()
        samples += [self._copy(place, length) for place, length in found]
        self._order()
        self._position = self._consumed[0] = position
        self._order()
        return True

    def _copy(self, place: int, length: int) -> bytes:
        place &= self._size - 1
        begin, fits = mmap.PAGESIZE + place, self._size - place
        if length <= fits:
            return self._data[begin : begin + length]
        return self._data[begin : begin + fits] + self._data[mmap.PAGESIZE : mmap.PAGESIZE + length - fits]

    def _order(self) -> None:
        """See that what was read or written before is so for every processor before what comes after.

        To give a lock back orders what came before it, to take it what comes after (C11, release and acquire).
        """
        self._fence.release()
        self._fence.acquire()
