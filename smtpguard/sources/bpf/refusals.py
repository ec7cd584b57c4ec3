"""A map that could not be written, as the error a person reads; and what is read back of who is refused."""

import errno

from smtpguard.errors import EnforceError
from smtpguard.sources.bpf.libbpf import BpfError

Refusal = tuple[int, int | None, int | None, int, int]
"""uid, network namespace, port, ends of block and throttle."""


def refused(what: str, error: BpfError) -> EnforceError:
    """A map that could not be written, as the error a person reads."""
    fix = "the map is full: fewer entries" if error.errno in (errno.E2BIG, errno.ENOSPC) else None
    return EnforceError(f"{what}: {error.strerror}", where="bpf", fix=fix)
