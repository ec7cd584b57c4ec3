"""The C library's heap: what was taken for a moment goes back to the kernel."""

import ctypes
from functools import cache
from typing import Any


def give_back_memory() -> None:
    """Return free pages of the heap to the kernel, in 0.1 ms; the C library by itself does so at the heap's end only.

    After loading the BPF program (its type information, the verifier's log) that is some 1.7 MB, after a crowd 0.5 MB.
    """
    trim = _find_trim()
    if trim is not None:
        trim(0)


@cache  # each CDLL makes a class, which only a search for cycles frees
def _find_trim() -> Any:  # noqa: ANN401 - a foreign function; None where there is none
    """malloc_trim(3) of glibc."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
