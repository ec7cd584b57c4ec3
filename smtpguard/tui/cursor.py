"""Where one is in a list that changes: on the same thing, wherever it goes. Pure."""

from collections.abc import Hashable, Sequence


class Cursor:
    """A place in a list, and the part of it that is in sight.

    Args:
        follows: Whether it stays at the end while that grows.

    Attributes:
        index: Where; 0 in an empty list.
        top: The first row in sight.
        follows: As above.
    """

    def __init__(self, *, follows: bool) -> None:
        self.index = self.top = 0
        self.follows = follows
        self._key: Hashable = None

    def settle(self, keys: Sequence[Hashable], height: int) -> None:
        """Find the place again in a list that may have changed.

        Args:
            keys: Of all rows.
            height: Rows in sight.
        """
        last = max(0, len(keys) - 1)
        if self.follows:
            self.index, self.top = last, max(0, len(keys) - height)
        else:
            in_sight = self.index - self.top
            self.index = min(self._find(keys), last)
            self.top = self.index - in_sight  # what one looks at stays where it is, and the rest moves
        self._key = keys[self.index] if keys else None
        self._look(len(keys), height)

    def move(self, steps: int, keys: Sequence[Hashable], height: int) -> None:
        """Go down, or up for less than nothing."""
        self.index = max(0, min(self.index + steps, len(keys) - 1))
        self._key = keys[self.index] if keys else None
        self.follows = False
        self._look(len(keys), height)

    def _look(self, count: int, height: int) -> None:
        self.top = max(self.index - height + 1, min(self.top, self.index), 0)
        self.top = max(0, min(self.top, count - height))

    def _find(self, keys: Sequence[Hashable]) -> int:
        if self._key is None:
            return 0
        if self.index < len(keys) and keys[self.index] == self._key:
            return self.index
        try:
            return keys.index(self._key)
        except ValueError:
            return self.index
