"""Accounts and groups as the C library finds them, with the difference that Python's pwd and grp swallow.

getpwnam_r(3) tells "there is none" from "it could not be found out" (a directory server that is down); pwd raises
KeyError for both. Whoever calls this may wait for as long as the name service likes.
"""

import ctypes
import errno
import os
from functools import cache

from smtpguard.errors import UnansweredError

_FIRST_BYTES, _MOST_BYTES = 1 << 12, 1 << 22
"""Room for an entry: a group of 100,000 members takes a megabyte."""
_NOT_THERE = frozenset({errno.ENOENT, errno.ESRCH})
"""What services say that have no entry, or are not installed at all (a module that nsswitch.conf(5) names)."""
_MAX_ID = 0xFFFF_FFFE


class _Passwd(ctypes.Structure):
    """struct passwd of pwd.h, as glibc and musl have it on Linux."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("password", ctypes.c_char_p),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("gecos", ctypes.c_char_p),
        ("directory", ctypes.c_char_p),
        ("shell", ctypes.c_char_p),
    )


class _Group(ctypes.Structure):
    """struct group of grp.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("password", ctypes.c_char_p),
        ("gid", ctypes.c_uint32),
        ("members", ctypes.c_void_p),
    )


def find_passwd(key: int | str) -> tuple[str, int, int] | None:
    """Login name, uid and primary group of an account; None if there is none.

    Args:
        key: Uid or login name.

    Raises:
        UnansweredError: Nobody can say.
    """
    entry = _Passwd()
    if not _find("getpwuid_r" if isinstance(key, int) else "getpwnam_r", key, entry):
        return None
    return os.fsdecode(entry.name or b""), entry.uid, entry.gid


def find_group(key: int | str) -> str | None:
    """What a group is called; None if there is none.

    Args:
        key: Gid or group name.

    Raises:
        UnansweredError: Nobody can say.
    """
    entry = _Group()
    if not _find("getgrgid_r" if isinstance(key, int) else "getgrnam_r", key, entry):
        return None
    return os.fsdecode(entry.name or b"")


def _find(function: str, key: int | str, entry: ctypes.Structure) -> bool:
    """Call one of the four and fill the entry, with text copied out of the buffer; whether there is one."""
    if isinstance(key, int):
        if not 0 <= key <= _MAX_ID:
            return False
        asked: object = ctypes.c_uint32(key)
    else:
        try:
            asked = os.fsencode(key)
        except UnicodeEncodeError:
            return False
        if b"\0" in asked or not asked:
            return False
    size = _FIRST_BYTES
    while True:
        buffer = ctypes.create_string_buffer(size)
        found = ctypes.c_void_p()
        code = getattr(_library(), function)(
            asked, ctypes.byref(entry), buffer, ctypes.c_size_t(size), ctypes.byref(found)
        )
        if code == errno.ERANGE and size < _MOST_BYTES:
            size *= 4
        elif code != errno.EINTR:
            break
    if code and code not in _NOT_THERE:
        raise UnansweredError(f"the name service failed: {os.strerror(code)}")
    if not found.value:
        return False
    entry.name = bytes(entry.name or b"")  # the buffer goes with this call
    return True


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
