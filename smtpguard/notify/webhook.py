"""A signed POST to an address: HMAC-SHA256 over time and body. Of the answer, its status alone matters."""

import hashlib
import hmac
import time
import urllib.parse

from smtpguard import __version__
from smtpguard.errors import ConfigError
from smtpguard.hooks import ClockS
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.request import request
from smtpguard.notify.spool import Letter
from smtpguard.safe_files import read_trusted
from smtpguard.settings.notify import Webhook

HEADER = "Smtpguard-Signature"
MIN_SECRET = 16
_MAX_SECRET = 4096


def sign(secret: bytes, body: bytes, time_s: int) -> str:
    """The signature's header: `t=UNIX,v1=HEX`, over `UNIX.` and the body."""
    digest = hmac.new(secret, f"{time_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={time_s},v1={digest}"


def read_secret(path: str) -> bytes:
    """What signs; the end of its line is not part of it. Raises DeliveryError."""
    try:
        secret = read_trusted(path, max_bytes=_MAX_SECRET).strip(b"\r\n")
    except (ConfigError, FileNotFoundError) as error:
        raise DeliveryError(f"the secret can't be used: {error}") from error
    if len(secret) < MIN_SECRET:
        raise DeliveryError(f"the secret in {path} is shorter than {MIN_SECRET} bytes", fix="openssl rand -hex 32")
    return secret


class WebhookChannel:
    """One address.

    Args:
        webhook: As configured.
        wall: Seconds since the epoch.
    """

    type = "webhook"

    def __init__(self, webhook: Webhook, *, wall: ClockS = time.time) -> None:
        self._webhook = webhook
        self._wall = wall
        self.key = f"webhook:{hashlib.sha256(webhook.url.encode()).hexdigest()[:32]}"
        self.name = f"webhook {urllib.parse.urlsplit(webhook.url).hostname}"

    def wants(self, kind: str) -> bool:
        """Whether it is for messages of a kind."""
        return kind in self._webhook.kinds or kind == "test"

    def send(self, message: Letter) -> str:
        """POST it; the status is what came back."""
        body = message.body.encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"smtpguard/{__version__}",
            HEADER: sign(read_secret(self._webhook.secret_file), body, int(self._wall())),
        }
        return request("POST", self._webhook.url, headers, body)
