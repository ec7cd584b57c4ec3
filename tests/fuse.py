"""A file system that answers until one reads: what a tenant mounts to make a root process hang.

The kernel's FUSE protocol by hand (linux/fuse.h, fuse(4)): only a raw server can leave one request unanswered for ever
and still let go of it when the test ends. One directory with one file, `page`; READ is never answered.
"""

import contextlib
import ctypes
import os
import signal
import stat
import struct
from collections.abc import Collection
from pathlib import Path

LOOKUP, GETATTR, OPEN, READ = 1, 3, 14, 15
_FORGET, _RELEASE, _FLUSH, _INIT, _OPENDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 2, 18, 25, 26, 27, 29, 36, 42
_ROOT, _FILE = 1, 2
_SIZE = 1 << 20
_ENOENT, _ENOSYS = 2, 38
_MS_NOSUID, _MS_NODEV = 2, 4
_libc = ctypes.CDLL(None, use_errno=True)


def mount_hanging(path: Path, *, hang: Collection[int] = (READ,), root: bool = False) -> int:
    """Mount it, in a mount namespace of the caller's, served by a process of its own.

    Args:
        path: An empty directory.
        hang: Operations that are not answered.
        root: Whether they are not answered for the root directory itself either.

    Returns:
        Pid of the server. Killing it fails everything that waits; it ends by itself when the mount goes.
    """
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40755,user_id=0,group_id=0,allow_other"
    if _libc.mount(b"hang", bytes(path), b"fuse", _MS_NOSUID | _MS_NODEV, options.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount fuse: {os.strerror(code)}")
    server = os.fork()
    if server == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.closerange(3, fd)  # not ours to hold open
        os.closerange(fd + 1, 1024)
        with contextlib.suppress(BaseException):
            _serve(fd, frozenset(hang), root=root)
        os._exit(0)
    os.close(fd)
    return server


def _serve(fd: int, hang: frozenset[int], *, root: bool) -> None:
    while True:  # until ENODEV: unmounted
        try:
            request = os.read(fd, 1 << 20)
        except FileNotFoundError:
            continue  # who asked has been killed meanwhile
        _length, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        quiet = opcode in hang and (root or node != _ROOT or opcode == LOOKUP)
        if quiet or opcode in {_FORGET, _BATCH_FORGET, _INTERRUPT}:
            continue
        error, body = _reply(opcode, node, request[40:])
        with contextlib.suppress(FileNotFoundError):
            os.write(fd, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)


def _reply(opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
    if opcode == _INIT:  # version, readahead, flags, background, congestion, write size, time granularity, unused
        return 0, struct.pack("<IIIIHHII8I", 7, 31, 65536, 0, 16, 16, 65536, 1, *[0] * 8)
    if opcode == LOOKUP and body.rstrip(b"\0") == b"page":
        return 0, struct.pack("<QQQQII", _FILE, 1, 0, 0, 0, 0) + _attributes(_FILE)
    if opcode == LOOKUP:
        return _ENOENT, b""
    if opcode == GETATTR:
        return 0, struct.pack("<QII", 0, 0, 0) + _attributes(node)
    if opcode in {OPEN, _OPENDIR}:
        return 0, struct.pack("<QII", 1, 0, 0)
    if opcode in {_RELEASE, _RELEASEDIR, _FLUSH}:
        return 0, b""
    return _ENOSYS, b""


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o777 if node == _ROOT else stat.S_IFREG | 0o666
    size = 0 if node == _ROOT else _SIZE
    # inode, size, blocks, three times and their nanoseconds, mode, links, uid, gid, device, block size, flags
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
