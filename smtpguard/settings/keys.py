"""What a field of the settings says of its key: what it is called in the file, how it is read, and what a reload does.

Pure. `build.py` reads by it and `on_reload.py` tells changes by it: besides, schema and shipped file alone know a key.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

Kind = Literal["live", "restart"]


class ReadValue(Protocol):
    """Makes the value of a field."""

    def __call__(self, value: Any, /) -> object:  # noqa: ANN401 - a value of any key
        """It, from what the file holds, which is right. Raises nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the file.

    Attributes:
        name: Its name, with its section's before it.
        kind: `live`: a reload puts it in force at once; `restart`: the old value holds until the daemon starts anew.
        read: Makes the field's value of it; None where build.py does, as other keys matter too.
    """

    name: str
    kind: Kind
    read: ReadValue | None


def as_it_is(value: Any, /) -> object:  # noqa: ANN401 - a value of any key
    """It, unchanged."""
    return value


def live(name: str, read: ReadValue | None = as_it_is) -> dict[str, Any]:
    """Metadata of a field whose key a reload puts in force."""
    return {"key": Key(name, "live", read)}


def restart(name: str, read: ReadValue | None = as_it_is) -> dict[str, Any]:
    """Metadata of a field whose key waits for a restart."""
    return {"key": Key(name, "restart", read)}


def section(shape: type) -> dict[str, Any]:
    """Metadata of a field that holds several keys: a dataclass whose fields say theirs."""
    return {"section": shape}


def list_keys(shape: type, before: str = "") -> Iterator[tuple[str, Key]]:
    """Each field that has a key, as a path below the settings, and the key."""
    for entry in fields(shape):
        if "key" in entry.metadata:
            yield f"{before}{entry.name}", entry.metadata["key"]
        elif "section" in entry.metadata:
            yield from list_keys(entry.metadata["section"], f"{before}{entry.name}.")


def read_fields(shape: type, data: Any) -> dict[str, Any]:  # noqa: ANN401 - a configuration
    """The values of those fields whose keys say how they are read.

    Args:
        shape: Settings, or a section's class.
        data: The whole configuration.
    """
    found: dict[str, Any] = {}
    for entry in fields(shape):
        key: Key | None = entry.metadata.get("key")
        if key is not None and key.read is not None:
            value = data
            for part in key.name.split("."):
                value = value[part]
            found[entry.name] = key.read(value)
        elif "section" in entry.metadata:
            inner: type = entry.metadata["section"]
            found[entry.name] = inner(**read_fields(inner, data))
    return found
