"""Everything that Apprise knows: mail servers with passwords, Slack, Telegram, SMS (`notify.urls`, extra `notify`).

Apprise and what it brings (40 MB) live in a process of their own for each message, which is ended after TIMEOUT_S. The
address, which may hold a password, goes there through its standard input. Text is given as text, without the signs that
chats take for their own, so that nobody's script can mention everybody.
"""

import hashlib
import json
import subprocess

from smtpguard.interpreter import module_argv, module_environment
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.plain import to_harmless
from smtpguard.notify.spool import Letter
from smtpguard.text import render_words

TIMEOUT_S = 60.0
_MAX_ANSWER = 300


class AppriseChannel:
    """One address.

    Args:
        url: As Apprise writes it.
        number: Which of `notify.urls` it is, from 1 on.
        timeout_s: How long a message may take.
    """

    type = "apprise"

    def __init__(self, url: str, number: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self.key = f"apprise:{hashlib.sha256(url.encode()).hexdigest()[:32]}"
        self.name = f"{url.partition('://')[0].lower()} (urls, {number})"

    def wants(self, kind: str) -> bool:
        """All kinds."""
        return bool(kind)

    def send(self, letter: Letter) -> str:
        """Have Apprise send it."""
        message = json.loads(letter.body)
        lines = [message["text"]]
        held = message.get("held_back")
        if held:
            lines.append(f"Before this, {held['count']} held back; the last of them:")
            lines += [earlier["text"] for earlier in held["messages"][-5:]]
        order = {
            "url": self._url,
            "title": to_harmless(f"smtpguard {message['host']}: {letter.kind}"),
            "body": "\n".join(map(to_harmless, lines)),
        }
        try:
            done = subprocess.run(
                module_argv("smtpguard.notify.apprise_child"),
                env=module_environment(),
                input=json.dumps(order).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=self._timeout_s,
                cwd="/",
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DeliveryError(f"no answer within {self._timeout_s:.0f} s") from error
        except OSError as error:
            raise DeliveryError(f"can't be run: {error}") from error
        answer = render_words(done.stdout[:_MAX_ANSWER].decode("utf-8", "replace").strip(), max_bytes=_MAX_ANSWER)
        if done.returncode != 0:
            raise DeliveryError(answer or f"it ended with {done.returncode}")
        return answer
