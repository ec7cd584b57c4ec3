"""When Python looks for garbage in cycles while the screen is up: seldom, and not through all there is."""

import contextlib
import gc
from collections.abc import Iterator

_AFTER = 5_000, 2, 1_000
"""New objects before the youngest are looked through, and searches of these before the older and the oldest are. With
Python's own 700, 10, 10 a stream of 5,000 attempts a second has all that is kept (40,000 objects and Textual) looked
through more than once a second, 20 to 60 ms in which no key is answered; with these it is 3 ms, and 12 at most. What
the screen keeps makes no cycles; a little of Textual does."""


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """What is here already, modules above all, is not looked through meanwhile; the rest seldom."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
