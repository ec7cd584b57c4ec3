"""The section `notify` of the configuration as typed values. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from smtpguard.settings.keys import live
from smtpguard.settings.readers import read_command

Kind = Literal["incident-begins", "incident-over", "breaker", "blind", "state", "digest", "test"]
"""What a message is about."""
Share = Literal["user", "domain", "script", "path", "destinations"]
"""What may leave this host."""
AtOnce = Literal["block", "throttle", "warn", "dry-run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An address that gets a signed POST for each occasion.

    Attributes:
        url: Where.
        secret_file: Holds what signs; a file of root's.
        kinds: Of what it is told; a test always.
    """

    url: str
    secret_file: str
    kinds: tuple[Kind, ...]


def _read_webhooks(value: Iterable[Mapping[str, Any]], /) -> tuple[Webhook, ...]:
    return tuple(
        Webhook(url=entry["url"], secret_file=entry["secret_file"], kinds=tuple(entry.get("kinds", KINDS)))
        for entry in value
    )


KINDS: tuple[Kind, ...] = ("incident-begins", "incident-over", "breaker", "blind", "state", "digest", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """Who is notified, of what, and what they are told.

    Attributes:
        webhooks: Addresses with a signature.
        urls: Addresses as Apprise writes them.
        hook: Program that gets each message, as argv.
        digest: How often a summary is sent.
        at_once: Which verdicts are told at once; the others are in the digest.
        share: What may leave this host.
    """

    webhooks: tuple[Webhook, ...] = field(default=(), metadata=live("notify.webhooks", _read_webhooks))
    urls: tuple[str, ...] = field(default=(), metadata=live("notify.urls", tuple))
    hook: tuple[str, ...] | None = field(default=None, metadata=live("notify.hook", read_command))
    digest: Literal["daily", "weekly", "none"] = field(default="daily", metadata=live("notify.digest"))
    at_once: tuple[AtOnce, ...] = field(default=("block", "throttle"), metadata=live("notify.at_once", tuple))
    share: tuple[Share, ...] = field(default=("user", "domain", "script"), metadata=live("notify.share", tuple))

    @property
    def is_wanted(self) -> bool:
        """Whether anybody is notified."""
        return bool(self.webhooks or self.urls or self.hook)
