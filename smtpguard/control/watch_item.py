"""Attempts on their way to whoever watches: as JSON values through the control socket, and back. Pure."""

from typing import Any

from smtpguard.errors import DecodeError
from smtpguard.model import Account, Connect, Customer

TOPIC = "watch"
_BYTES = ("proc", "exe", "cwd", "script", "rdns")
_PLAIN = ("uid", "pid", "port", "sensor", "netns", "result", "attr")


def render_item(connect: Connect, account: Account, wall_ns: int) -> dict[str, Any]:
    """One attempt as JSON values; bytes as latin-1 text."""
    item: dict[str, Any] = {name: getattr(connect, name) for name in _PLAIN}
    item["address"] = connect.address.hex()
    for name in _BYTES:
        value = getattr(connect, name)
        item[name] = None if value is None else value.decode("latin-1")
    item["wall_ns"] = wall_ns
    item["account"] = [account.uid, account.name, account.standing]
    item["domain"] = None if account.customer is None else account.customer.domain
    return item


def parse_item(item: dict[str, Any]) -> tuple[Connect, Account, int]:
    """The attempt, whose it is, and its wall time.

    Raises:
        DecodeError: It is no such item.
    """
    try:
        uid, name, standing = item["account"]
        texts: dict[str, Any] = {key: None if item[key] is None else item[key].encode("latin-1") for key in _BYTES}
        plain: dict[str, Any] = {key: item[key] for key in _PLAIN}
        connect = Connect(time_ns=int(item["wall_ns"]), address=bytes.fromhex(item["address"]), **plain, **texts)
        domain = item.get("domain")  # a daemon of before the update does not send it
        customer = None if domain is None else Customer(domain=domain)
        return connect, Account(uid=int(uid), name=name, standing=standing, customer=customer), int(item["wall_ns"])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DecodeError(f"not an item of the live stream: {error}") from error
