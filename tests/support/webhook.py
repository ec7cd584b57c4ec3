"""A webhook for tests: a real receiver in the peer's namespace, and what it has taken, verified."""

import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema

from smtpguard.demo.lab import PEER4
from smtpguard.resources import read_resource
from tests.support.host import Host, read_lines

PORT = 8080
SECRET = b"0123456789abcdef0123456789abcdef"
SCHEMA = jsonschema.Draft202012Validator(json.loads(read_resource("config", "notification.schema.json")))


def verify(row: dict[str, Any]) -> dict[str, Any]:
    """The message of a request, its signature and form checked."""
    body = row["body"].encode()
    stamp, _, signature = row["headers"]["Smtpguard-Signature"].partition(",v1=")
    seconds = stamp.removeprefix("t=")
    assert hmac.compare_digest(hmac.new(SECRET, f"{seconds}.".encode() + body, hashlib.sha256).hexdigest(), signature)
    assert abs(int(seconds) - row["time"]) < 30
    message: dict[str, Any] = json.loads(body)
    SCHEMA.validate(message)
    return message


class Receiver:
    """The receiver.

    Args:
        host: In whose peer namespace it is.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.folder = Path(host.lab.directory) / "receiver"
        self.folder.mkdir(exist_ok=True)
        self.secret_file = self.folder / "secret"
        self.secret_file.write_bytes(SECRET + b"\n")
        self.secret_file.chmod(0o600)
        self.url = f"http://{PEER4}:{PORT}/hook"
        self.answer("ok")

    @property
    def webhook(self) -> dict[str, str]:
        """Its entry in the configuration."""
        return {"url": self.url, "secret_file": str(self.secret_file)}

    def start(self) -> None:
        """Begin to listen."""
        program = str(Path(__file__).with_name("receiver.py"))
        self.process = self._host.lab.start(
            [sys.executable, program, PEER4, str(PORT), str(self.folder)], net=self._host.lab.peer
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        """Listen no more: who connects is refused."""
        self.process.kill()
        self.process.wait()

    def answer(self, mode: str) -> None:
        """How it answers from here on, see receiver.py."""
        new = self.folder / "mode.new"
        new.write_text(mode, "ascii")
        new.replace(self.folder / "mode")

    def taken(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Messages that were taken."""
        found = [verify(row) for row in self._rows("taken")]
        return [message for message in found if kind is None or message["kind"] == kind]

    def tried(self) -> list[dict[str, Any]]:
        """Messages that were sent, taken or not."""
        return [verify(row) for row in self._rows("tried")]

    def beats(self) -> list[float]:
        """When a heartbeat came, and was taken."""
        return [row["time"] for row in self._rows("taken") if row["method"] == "GET"]

    def messages_tried(self) -> int:
        """How many messages were sent, verified or not."""
        return sum(row["method"] == "POST" for row in self._rows("tried"))

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in read_lines(self.folder / name)]
