"""A signed POST to an address: HMAC-SHA256 over time and body. TLS is verified, redirects are not followed.

Nothing of the answer but its status matters. How long it takes, and how much of it is read, is bounded.
"""

import hashlib
import hmac
import http.client
import ssl
import threading
import time
import urllib.parse
from contextlib import suppress
from socket import SHUT_RDWR, socket

from smtpguard import __version__
from smtpguard.errors import ConfigError
from smtpguard.hooks import ClockS
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.spool import Letter
from smtpguard.safe_files import read_trusted
from smtpguard.settings.notify import Webhook
from smtpguard.text import render_words

HEADER = "Smtpguard-Signature"
TOTAL_S = 10.0
"""How long an attempt may take in all, without the look-up of the name."""
MIN_SECRET = 16
_MAX_SECRET = 4096
_CONNECT_S = 5.0


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
        self._parts = urllib.parse.urlsplit(webhook.url)
        self.key = f"webhook:{hashlib.sha256(webhook.url.encode()).hexdigest()[:32]}"
        self.name = f"webhook {self._parts.hostname}"

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
        try:
            status = self._post(body, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DeliveryError(_explain(error)) from error
        if not 200 <= status < 300:
            raise DeliveryError(f"it answered {status}")
        return f"it answered {status}"

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        parts = self._parts
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=_CONNECT_S, context=context
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_CONNECT_S)
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        with _Deadline(connection), _closing(connection):
            connection.request("POST", path, body, headers)
            return connection.getresponse().status


class _closing:  # noqa: N801 - as contextlib's
    """Closes a connection, whatever state it is in."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, http.client.HTTPException):
            self._connection.close()


class _Deadline:
    """Cuts a connection off after TOTAL_S: a timeout of the socket's would begin anew with every byte."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._timer = threading.Timer(TOTAL_S, self._cut)
        self._timer.daemon = True
        self._is_late = False

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._is_late:
            raise TimeoutError(f"no answer within {TOTAL_S:.0f} s") from error

    def _cut(self) -> None:
        self._is_late = True
        held: socket | None = self._connection.sock
        if held is not None:
            with suppress(OSError):
                held.shutdown(SHUT_RDWR)


def _explain(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return str(error) if str(error) != "timed out" else "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    text = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    return render_words(text or type(error).__name__, max_bytes=200)
