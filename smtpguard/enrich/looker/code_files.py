"""A tenant's files: one that something names, and the newest code below a folder. Only workers call this.

Never a link, never a FIFO, never another file system (THREATS 13): each step is taken from a descriptor of the folder
above, with O_NOFOLLOW, and a folder on another device is not entered. Bounded by entries, depth and time. By ctime,
because a tenant can set mtime to anything and ctime only to now.
"""

import contextlib
import heapq
import os
import re
import stat
import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from smtpguard.enrich.looker.evidence import MAX_NEWEST, NamedFile
from smtpguard.enrich.looker.procfs import Process
from smtpguard.enrich.looker.rooted_files import open_in_root
from smtpguard.hooks import ClockS

MAX_HASHED = 8 << 20
"""Largest file that is hashed: 20 ms."""
MAX_ENTRIES = 50_000
MAX_DEPTH = 24
MAX_WALK_S = 0.7
"""A folder of 30,000 entries takes 0.1 s from memory."""
_MAX_WAITING = 4096
_CODE = re.compile(
    rb".*\.(?:php[0-9]?|phtml|phar|phps|inc|pl|py|cgi|sh|rb|so)|\.htaccess|\.user\.ini|php\.ini",
    re.IGNORECASE | re.DOTALL,
)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDERS_OF_SITES = frozenset(
    {b"public_html", b"htdocs", b"httpdocs", b"httpsdocs", b"www", b"html", b"web", b"public"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What a walk found.

    Attributes:
        newest: Code files, newest first.
        looked: Entries looked at.
        complete: Whether that were all.
    """

    newest: tuple[NamedFile, ...] = ()
    looked: int = 0
    complete: bool = False


def read_file(process: Process, path: bytes, uids: Collection[int]) -> NamedFile | None:
    """What a path names in the process's own root; None if it is no regular file. Can hang for ever.

    Args:
        process: Whose root.
        path: Absolute.
        uids: Owners whose files are hashed: what others own is not the tenant's to point at.
    """
    try:
        with _opened(open_in_root(process, path)) as fd:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return None
            mine = found.st_uid in uids and found.st_size <= MAX_HASHED
            return _named(path, found, sha256=_hash(fd) if mine else None)
    except OSError:
        return None


def _hash(fd: int) -> str | None:
    """SHA-256 of a regular file that is held by an O_PATH descriptor."""
    import hashlib  # OpenSSL takes 5 MB, which only the helper that gathers evidence is to have

    digest = hashlib.sha256()
    left = MAX_HASHED
    try:
        # The very file that was looked at, whatever its name leads to by now.
        with _opened(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as content:
            while left > 0 and (part := os.read(content, min(left, 1 << 18))):
                digest.update(part)
                left -= len(part)
    except OSError:
        return None
    return digest.hexdigest()


def site_roots(path: bytes) -> list[bytes]:
    """Folders at which a site may begin: `public_html` and the like above a script, outermost first, then its own."""
    parts = path.split(b"/")[:-1]
    roots = [b"/".join(parts[: place + 1]) for place, part in enumerate(parts) if part in _FOLDERS_OF_SITES]
    own = b"/".join(parts)
    return [*roots, own] if own and own not in roots else roots


def walk_code(process: Process, root: bytes, uids: Collection[int], *, clock: ClockS = time.monotonic) -> Walk | None:
    """The newest code files of a user below a folder of theirs; None if the folder is not theirs. Can hang for ever.

    Args:
        process: Whose root the path is of.
        root: The folder.
        uids: Whose folder and files count.
        clock: Seconds.
    """
    end = clock() + MAX_WALK_S
    newest: list[tuple[int, int, NamedFile]] = []
    looked = 0
    complete = True
    try:
        with _opened(open_in_root(process, root, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)) as top:
            found = os.fstat(top)
            if found.st_uid not in uids:
                return None
            folders: deque[tuple[bytes, int]] = deque([(b"", 0)])
            while folders:
                below, depth = folders.popleft()
                for name, entry in _entries(top, below):
                    looked += 1
                    if looked > MAX_ENTRIES or clock() > end:
                        return _walked(newest, looked, complete=False)
                    path = below + b"/" + name if below else name
                    if entry.is_dir(follow_symlinks=False):
                        # Another file system is not entered: it may be the tenant's own.
                        if depth < MAX_DEPTH and len(folders) < _MAX_WAITING and _device(entry) == found.st_dev:
                            folders.append((path, depth + 1))
                        else:
                            complete = False
                    elif _CODE.fullmatch(name) and (file := _stat(entry)) is not None and file.st_uid in uids:
                        item = (file.st_ctime_ns, looked, _named(root.rstrip(b"/") + b"/" + path, file))
                        (heapq.heappush if len(newest) < MAX_NEWEST else heapq.heappushpop)(newest, item)
    except OSError:
        return _walked(newest, looked, complete=False)
    return _walked(newest, looked, complete=complete)


def _entries(top: int, below: bytes) -> "Iterator[tuple[bytes, os.DirEntry[str]]]":
    """Entries of a folder below `top`, reached part by part without following a link; none if that fails."""
    with contextlib.ExitStack() as held:
        fd = top
        try:
            for part in below.split(b"/") if below else []:
                fd = held.enter_context(_opened(os.open(part, _FOLDER, dir_fd=fd)))
            listing = held.enter_context(os.scandir(fd))
        except OSError:
            return
        for entry in listing:
            yield os.fsencode(entry.name), entry


def _stat(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """An entry's own stat; None unless it is a regular file."""
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _device(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_dev
    except OSError:
        return -1


@contextlib.contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _walked(newest: list[tuple[int, int, NamedFile]], looked: int, *, complete: bool) -> Walk:
    files = tuple(file for _ctime, _number, file in sorted(newest, reverse=True))
    return Walk(newest=files, looked=looked, complete=complete)


def _named(path: bytes, found: os.stat_result, *, sha256: str | None = None) -> NamedFile:
    return NamedFile(
        path=path,
        owner=found.st_uid,
        mode=found.st_mode,
        size=found.st_size,
        ctime_ns=max(0, found.st_ctime_ns),
        mtime_ns=max(0, found.st_mtime_ns),
        sha256=sha256,
    )
