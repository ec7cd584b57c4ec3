"""Requests to a FastCGI server over its Unix socket (FastCGI 1.0): just enough to be PHP-FPM's web server in tests."""

import socket
import struct
from pathlib import Path

_BEGIN, _PARAMS, _STDIN, _STDOUT, _END = 1, 4, 5, 6, 3


def _record(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBHHBx", 1, kind, 1, len(body), 0) + body


def _pair(name: str, value: str) -> bytes:
    lengths = b"".join(
        bytes([len(text)]) if len(text) < 128 else struct.pack(">I", len(text) | 1 << 31)
        for text in (name.encode(), value.encode())
    )
    return lengths + name.encode() + value.encode()


def begin(path: Path, script: Path, **params: str) -> socket.socket:
    """Send a request; the answer comes by `finish`."""
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(20)
    channel.connect(str(path))
    values = {
        "SCRIPT_FILENAME": str(script),
        "SCRIPT_NAME": f"/{script.name}",
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": f"/{script.name}",
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.9",
        "HTTP_HOST": "shop.example",
        **params,
    }
    body = b"".join(_pair(name, value) for name, value in values.items())
    channel.sendall(
        _record(_BEGIN, struct.pack(">HB5x", 1, 0))
        + _record(_PARAMS, body)
        + _record(_PARAMS, b"")
        + _record(_STDIN, b"")
    )
    return channel


def finish(channel: socket.socket) -> bytes:
    """The answer's headers and body."""
    out = b""
    with channel, channel.makefile("rb") as stream:
        while len(head := stream.read(8)) == 8:
            _version, kind, _request, length, padding = struct.unpack(">BBHHBx", head)
            body = stream.read(length + padding)[:length]
            if kind == _STDOUT:
                out += body
            if kind == _END:
                break
    return out
