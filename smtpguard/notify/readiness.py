"""What would keep messages from being sent, as far as it can be seen without sending one: for `smtpguard check`."""

import importlib.util
from collections.abc import Iterator

from smtpguard.errors import ConfigError
from smtpguard.notify.apprise_child import FIX
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.hook import find_program
from smtpguard.notify.webhook import read_secret
from smtpguard.settings.notify import NotifySettings


def find_unready(settings: NotifySettings) -> Iterator[str]:
    """Warnings: files that are missing, that others may write, or that are not to be used.

    Args:
        settings: Who is notified.
    """
    for number, webhook in enumerate(settings.webhooks):
        try:
            read_secret(webhook.secret_file)
        except DeliveryError as error:
            yield f"notify.webhooks[{number}].secret_file: {error}"
    if settings.hook is not None:
        try:
            find_program(settings.hook[0])
        except (ConfigError, OSError) as error:
            yield f"notify.hook: {error}"
    if settings.urls and importlib.util.find_spec("apprise") is None:
        yield f"notify.urls: apprise is not installed ({FIX})"
