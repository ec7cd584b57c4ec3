"""Files that may be packed: gzip, xz, bzip2 and zstd are told by their first bytes, and read as what is in them.

zstd is read by Python's own module (3.14), by the package `zstandard`, or by the program `zstd`, whichever is there.
"""

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import shutil
import subprocess
import threading
import zlib
from contextlib import ExitStack
from typing import BinaryIO, Protocol, cast

from smtpguard.errors import SourceError

HEAD_BYTES = 1 << 16
Reader = io.BufferedReader | io.FileIO
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)
_ZSTD = b"\x28\xb5\x2f\xfd"


class _Unpack(Protocol):
    def __call__(self, packed: BinaryIO, /) -> io.BufferedIOBase: ...


_PACKED: tuple[tuple[bytes, _Unpack], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"BZh", bz2.BZ2File),
    (_ZSTD, lambda file: _open_zstd(file)),  # noqa: PLW0108 - it is defined below
)
_MAGICS = tuple(magic for magic, _ in _PACKED)
_PIPE_BYTES = 1 << 16


def open_file(path: str, stack: ExitStack) -> tuple[Reader, bytes]:
    """A file by its name, and its beginning, unpacked; a plain file is read without a buffer in between.

    Args:
        path: Its name.
        stack: What closes it.

    Raises:
        OSError: It can't be opened or read; and what else is in DAMAGED.
        SourceError: Nothing here can unpack it.
    """
    plain = stack.enter_context(io.FileIO(path))
    if plain.seekable():  # a pipe is not: <(zcat ...)
        head = plain.read(HEAD_BYTES)
        plain.seek(0)
        if not head.startswith(_MAGICS):
            return plain, head
    return unpack(stack.enter_context(io.BufferedReader(plain, HEAD_BYTES)), stack, path)


def unpack(stream: BinaryIO, stack: ExitStack, path: str) -> tuple[Reader, bytes]:
    """A stream and its beginning, unpacked if it is packed; as `open_file`."""
    # A pipe's own reader looks ahead by what has come, be it one byte; one around it waits for all, or the end.
    file: io.BufferedReader = io.BufferedReader(cast("io.RawIOBase", _buffered(stream)), HEAD_BYTES)
    stack.callback(file.detach)  # else standard input would be closed with it
    for magic, opened in _PACKED:
        if file.peek(8).startswith(magic):
            try:
                unpacked = stack.enter_context(opened(cast("BinaryIO", file)))
            except ImportError:
                raise SourceError(
                    "is packed by zstd, and neither that program nor the Python package zstandard is here",
                    where=path,
                    fix=f"install zstd, or: zstd -dc {path} | smtpguard replay -",
                ) from None
            file = stack.enter_context(_buffered(unpacked))
            break
    return file, file.peek(HEAD_BYTES)


def _buffered(file: BinaryIO | io.BufferedIOBase) -> io.BufferedReader:
    """A reader that can look ahead, whatever gives the bytes."""
    if isinstance(file, io.BufferedReader):
        return file
    return io.BufferedReader(cast("io.RawIOBase", file), HEAD_BYTES)


def _open_zstd(file: BinaryIO) -> io.BufferedIOBase:
    """What is in a zstd stream. Raises ImportError if nothing can tell."""
    for name in ("compression.zstd", "zstandard"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if name == "zstandard":
            reader = module.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            return cast("io.BufferedIOBase", reader)
        return cast("io.BufferedIOBase", module.ZstdFile(file))
    program = shutil.which("zstd")
    if program is None:
        raise ImportError("zstd")
    return cast("io.BufferedIOBase", io.BufferedReader(_ZstdProgram(program, file), _PIPE_BYTES))


class _ZstdProgram(io.RawIOBase):
    """`zstd -dc` between a file and its reader."""

    def __init__(self, program: str, file: BinaryIO) -> None:
        super().__init__()
        self._process = subprocess.Popen(
            [program, "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self._pipes = [cast("io.FileIO", pipe) for pipe in (self._process.stdout, self._process.stderr)]
        threading.Thread(target=self._feed, args=(file,), daemon=True).start()

    def _feed(self, file: BinaryIO) -> None:
        """Give the program what it unpacks; where it has ended or the file was closed, the reader sees why."""
        with contextlib.suppress(OSError, ValueError), cast("BinaryIO", self._process.stdin) as pipe:
            shutil.copyfileobj(file, pipe)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """What comes next. Raises EOFError where the program could not go on."""
        out, errors = self._pipes
        count = out.readinto(buffer)
        if not count:
            said = errors.read(500) or b""
            if self._process.wait():
                raise EOFError(said.decode("ascii", "replace").strip() or "zstd failed")
        return count or 0

    def close(self) -> None:
        """End the program; may be called twice."""
        if not self.closed:
            self._process.kill()
            self._process.wait()
            for pipe in self._pipes:
                pipe.close()
        super().close()
