"""The section `notify` of the configuration as typed values. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from smtpguard.model import NS
from smtpguard.settings.keys import live, section
from smtpguard.settings.readers import read_command

Kind = Literal["incident-begins", "incident-over", "breaker", "blind", "state", "digest", "listed", "test"]
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


KINDS: tuple[Kind, ...] = ("incident-begins", "incident-over", "breaker", "blind", "state", "digest", "listed", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """An address that gets a GET every so often while all is well."""

    url: str
    every_ns: int = 300 * NS


def _read_heartbeat(value: Mapping[str, Any] | None, /) -> Heartbeat | None:
    if value is None:
        return None
    return Heartbeat(url=value["url"], every_ns=value.get("every", 300 * NS))


LOCAL_SERVER = "127.0.0.1:25"
"""Where mails are handed over unless said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerNotices:
    """Whether customers are told of blocks, and how.

    Attributes:
        enabled: Whether they are.
        sender: From which address; None where nobody is told.
        template: Which text: `default` is customer.txt, another name a file of that name.
        also: Who is told besides the reseller.
        delay_ns: How long after the block: a person may undo it meanwhile.
        language: In which language, where the panel names none that there is a text in.
    """

    enabled: bool = field(default=False, metadata=live("notify.customers.enabled"))
    sender: str | None = field(default=None, metadata=live("notify.customers.from"))
    template: str = field(default="default", metadata=live("notify.customers.template"))
    also: tuple[Literal["customer"], ...] = field(default=(), metadata=live("notify.customers.also", tuple))
    delay_ns: int = field(default=600 * NS, metadata=live("notify.customers.delay"))
    language: str = field(default="en", metadata=live("notify.customers.language"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """Who is notified, of what, and what they are told.

    Attributes:
        webhooks: Addresses with a signature.
        urls: Addresses as Apprise writes them.
        hook: Program that gets each message, as argv.
        mail: Who gets a mail of each message: an address, or a login of this host.
        smtp: The mail server that takes them, as address and port.
        heartbeat: Who is to notice where nothing comes.
        digest: How often a summary is sent.
        at_once: Which verdicts are told at once; the others are in the digest.
        share: What may leave this host.
        customers: Whether customers are told of blocks.
    """

    webhooks: tuple[Webhook, ...] = field(default=(), metadata=live("notify.webhooks", _read_webhooks))
    urls: tuple[str, ...] = field(default=(), metadata=live("notify.urls", tuple))
    hook: tuple[str, ...] | None = field(default=None, metadata=live("notify.hook", read_command))
    mail: str | None = field(default=None, metadata=live("notify.mail"))
    smtp: str = field(default=LOCAL_SERVER, metadata=live("notify.smtp"))
    heartbeat: Heartbeat | None = field(default=None, metadata=live("notify.heartbeat", _read_heartbeat))
    digest: Literal["daily", "weekly", "none"] = field(default="daily", metadata=live("notify.digest"))
    at_once: tuple[AtOnce, ...] = field(default=("block", "throttle"), metadata=live("notify.at_once", tuple))
    share: tuple[Share, ...] = field(default=("user", "domain", "script"), metadata=live("notify.share", tuple))
    customers: CustomerNotices = field(default_factory=CustomerNotices, metadata=section(CustomerNotices))

    @property
    def has_channels(self) -> bool:
        """Whether anybody gets messages."""
        return bool(self.webhooks or self.urls or self.hook or self.mail)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody is notified of anything."""
        return self.has_channels or self.heartbeat is not None or self.customers.enabled
