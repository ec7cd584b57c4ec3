"""Landlock: a process gives up writing anywhere but in a few directories, for itself and all that it starts, for good.

landlock(7), linux/landlock.h, by ctypes; Linux 5.13 and newer, where it is not switched off. It needs no privilege.
Reading stays as it is, and so do files that are open already. Not covered: modes and owners of files (chmod, chown).
"""

import ctypes
import os
import struct
from collections.abc import Collection

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all architectures that Debian and RHEL have
_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_REMOVE_AND_MAKE = 0b1_1111_1111 << 4  # REMOVE_DIR to MAKE_SYM
_SCOPES = 0b11  # abstract sockets of others, and signals to them
_REFER_SINCE, _TRUNCATE_SINCE, _SCOPES_SINCE = 2, 3, 6

_libc = ctypes.CDLL(None, use_errno=True)


def read_version() -> int:
    """Which version of it this kernel has; 0 where there is none."""
    return max(0, _call(_CREATE, None, 0, _VERSION))


def restrict_writing(directories: Collection[str] = ()) -> int:
    """Give up writing, in this thread and all that it starts from here on; signals to others go too (since version 6).

    Args:
        directories: Where files may be written, made and removed still.

    Returns:
        The version that holds; 0 where this kernel has none: nothing is given up.

    Raises:
        OSError: A directory can't be opened, or the kernel refused; nothing is given up.
    """
    version = read_version()
    if not version:
        return 0
    in_directories = _WRITE_FILE | _REMOVE_AND_MAKE
    in_directories |= (_REFER if version >= _REFER_SINCE else 0) | (_TRUNCATE if version >= _TRUNCATE_SINCE else 0)
    attributes = struct.pack("=QQQ", in_directories, 0, _SCOPES if version >= _SCOPES_SINCE else 0)
    size = len(attributes) if version >= _SCOPES_SINCE else 8
    ruleset = _check(_call(_CREATE, ctypes.c_char_p(attributes), size, 0))
    try:
        _allow(ruleset, os.devnull, _WRITE_FILE)
        for directory in directories:
            _allow(ruleset, directory, in_directories)
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))))
        _check(_call(_RESTRICT_SELF, ctypes.c_int(ruleset), 0))
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        _check(_call(_ADD_RULE, ctypes.c_int(ruleset), _PATH_BENEATH, ctypes.c_char_p(rule), 0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *words))


def _check(answer: int) -> int:
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return answer
