"""Modules of the standard library that others import and the daemon hardly ever uses: executed with their first use."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

RARELY_USED = ("inspect",)
"""With ast, dis and opcode 0.7 MB: dataclasses asks it for the text of a class that has none. Ours have one."""


class _StandIn(ModuleType):
    """In the place of a module until something of it is used.

    importlib.util.LazyLoader would do, but an `import` of what it made executes it up to Python 3.11.
    """

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def load_late() -> None:
    """Put such modules in their places; due before anything imports them, and those already there stay."""
    for name in RARELY_USED:
        sys.modules.setdefault(name, _StandIn(name))
