"""What daemon and notifying process say to each other: one packet (SOCK_SEQPACKET) each, a kind and its content.

The process is the daemon's own program under the same user: what it is told is trusted as the daemon's own memory.
"""

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from smtpguard.settings import Settings

MAX_BYTES = 100_000
"""Longest packet: the kernel's own limit for one is about 200 kB, unless somebody has changed it."""
Down = Literal["reload", "occasion", "snapshot", "health", "stop"]
"""Daemon to process: the settings (first, and when they change), an occasion, figures, how it fares, the end."""
Up = Literal["ready", "seen", "took", "report"]
"""Process to daemon: it has begun, it has read a packet, an occasion is in its file, and how it fares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperSettings:
    """As much of the configuration as the process needs.

    Attributes:
        state_path: Its own file is beside this one.
        control_socket: Where the daemon answers questions.
        values: The fields of Settings that are called notify, listed or metrics_..., by name.
    """

    state_path: str
    control_socket: str
    values: Mapping[str, Any]


def pick_settings(settings: Settings) -> HelperSettings:
    """What the process needs of the configuration."""
    names = [field.name for field in fields(settings) if field.name.startswith(("notify", "listed", "metrics_"))]
    values = {name: getattr(settings, name) for name in names}
    return HelperSettings(state_path=settings.state_path, control_socket=settings.control_socket, values=values)


def find_writable(settings: HelperSettings) -> tuple[str, ...] | None:
    """The directories that the process has to write in; None for any, as a hook may do what it likes.

    Args:
        settings: What it is told.
    """
    notify, textfile = settings.values.get("notify"), settings.values.get("metrics_textfile")
    if notify is not None and notify.hook is not None:
        return None
    places = [settings.state_path, *([textfile] if textfile is not None else [])]
    return tuple(dict.fromkeys(os.path.dirname(path) for path in places))  # noqa: PTH120 - as the file's writer has it


def render_frame(kind: Down | Up, content: object = None) -> bytes:
    """A packet.

    Args:
        kind: Its kind.
        content: JSON values; for `reload` a HelperSettings.

    Raises:
        ValueError: It is too long.
    """
    body = pickle.dumps(content) if kind == "reload" else json.dumps(content).encode("ascii")
    packet = kind.encode("ascii") + b"\n" + body
    if len(packet) > MAX_BYTES:
        raise ValueError(f"{kind}: {len(packet)} bytes, more than {MAX_BYTES}")
    return packet


def parse_frame(packet: bytes, *, from_daemon: bool) -> tuple[str, Any]:
    """The kind and content of a packet. Raises ValueError.

    Args:
        packet: The bytes.
        from_daemon: Whether the daemon has sent it: it alone is trusted with what makes objects (pickle).
    """
    kind, found, body = packet.partition(b"\n")
    if not found:
        raise ValueError("a packet without a kind")
    if kind == b"reload" and from_daemon:
        return "reload", pickle.loads(body)  # noqa: S301 - from the daemon alone
    try:
        content = json.loads(body)
    except RecursionError as error:
        raise ValueError("a packet that is nested too deeply") from error
    return kind.decode("ascii"), content if from_daemon else _check_form(kind, content)


def _check_form(kind: bytes, content: object) -> object:
    """What the process says, if it has its form: it talks to strangers. Raises ValueError."""
    match kind:
        case b"ready" | b"seen":
            return content
        case b"took" if isinstance(content, dict) and isinstance(content.get("id"), str):
            return content
        case b"report" if isinstance(content, dict) and all(isinstance(part, dict) for part in content.values()):
            return {_clean(name): _clean_part(part) for name, part in content.items()}
    raise ValueError("a packet of no known form")


def _clean_part(part: dict[str, Any]) -> dict[str, Any]:
    troubles = part.get("troubles")
    texts = [_clean(text) for text in troubles] if isinstance(troubles, list) else []
    return {**part, "text": _clean(part.get("text") or ""), "troubles": texts}


def _clean(text: object) -> str:
    """A text that can do nothing to a terminal or a line."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))
