"""All channels that the settings want, made in one place."""

from collections.abc import Sequence
from typing import Protocol

from smtpguard.notify.apprise_channel import AppriseChannel
from smtpguard.notify.delivery import Channel
from smtpguard.notify.hook import HookChannel
from smtpguard.notify.mail import MailChannel
from smtpguard.notify.webhook import WebhookChannel
from smtpguard.settings.notify import NotifySettings


class MakeChannels(Protocol):
    """Makes channels."""

    def __call__(self, settings: NotifySettings) -> Sequence[Channel]:
        """All that the settings want."""
        ...


def make_channels(settings: NotifySettings) -> Sequence[Channel]:
    """All that the settings want."""
    channels: list[Channel] = [WebhookChannel(webhook) for webhook in settings.webhooks]
    if settings.hook is not None:
        channels.append(HookChannel(settings.hook))
    if settings.mail is not None:
        channels.append(MailChannel(settings.mail, settings.smtp))
    channels += [AppriseChannel(url, number) for number, url in enumerate(settings.urls, 1)]
    return channels
