"""BPF links of one cgroup, seen and detached from outside, as an administrator with bpftool would (bpf(2))."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_uint32, c_uint64, sizeof

from smtpguard.errors import GuardError


def _load() -> ctypes.CDLL:
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            return ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
    raise GuardError("libbpf is missing")


@contextmanager
def _open(lib: ctypes.CDLL, number: int) -> Iterator[int]:
    fd = lib.bpf_link_get_fd_by_id(c_uint32(number))
    try:
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)


def list_links(cgroup_id: int) -> list[int]:
    """Ids of the links that are attached to a cgroup (its inode number)."""
    lib = _load()
    found: list[int] = []
    last, following = c_uint32(0), c_uint32(0)
    while lib.bpf_link_get_next_id(last, byref(following)) == 0:
        last = c_uint32(following.value)
        info, size = (c_uint64 * 16)(), c_uint32(sizeof(c_uint64) * 16)
        with _open(lib, last.value) as fd:
            known = fd >= 0 and lib.bpf_obj_get_info_by_fd(fd, info, byref(size)) == 0
        if known and info[2] == cgroup_id:  # type, id, prog_id and a hole; then cgroup_id
            found.append(last.value)
    return found


def detach_all(cgroup_id: int) -> int:
    """Detach every link of a cgroup; how many there were."""
    lib = _load()
    links = list_links(cgroup_id)
    for number in links:
        with _open(lib, number) as fd:
            assert lib.bpf_link_detach(fd) == 0, "a link could not be detached"
    return len(links)
