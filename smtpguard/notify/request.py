"""One HTTP request whose answer is its status: TLS is verified, redirects are not followed, no proxy is asked.

How long the answer takes, and how much of it is read, is bounded, whoever answers.
"""

import http.client
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from smtpguard.notify.cut_off import CutOff
from smtpguard.notify.delivery import DeliveryError
from smtpguard.text import render_words

TOTAL_S = 10.0
"""How long an attempt may take in all, without the look-up of the name."""
_CONNECT_S = 5.0


def request(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> str:
    """Send it, and say what came back. Raises DeliveryError where that is no 2xx."""
    try:
        status = _request(method, urllib.parse.urlsplit(url), headers, body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeliveryError(_explain(error)) from error
    if not 200 <= status < 300:
        raise DeliveryError(f"it answered {status}")
    return f"it answered {status}"


def _request(method: str, parts: urllib.parse.SplitResult, headers: Mapping[str, str], body: bytes | None) -> int:
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=_CONNECT_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_CONNECT_S)
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    with _bounded(connection):
        connection.request(method, path, body, dict(headers))
        return connection.getresponse().status


@contextmanager
def _bounded(connection: http.client.HTTPConnection) -> Iterator[None]:
    """Closes a connection at the end, and cuts it off after TOTAL_S. Raises TimeoutError then, whatever came of it."""
    cut_off = CutOff(TOTAL_S, lambda: connection.sock)
    try:
        with cut_off:
            yield
    finally:
        with suppress(OSError, http.client.HTTPException):
            connection.close()
        if cut_off.is_late:
            raise TimeoutError(f"no answer within {TOTAL_S:.0f} s")


def _explain(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return str(error) if str(error) != "timed out" else "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    text = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    return render_words(text or type(error).__name__, max_bytes=200)
