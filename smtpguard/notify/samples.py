"""One occasion of each kind, made up, for `smtpguard notify test`. Pure."""

from collections.abc import Mapping
from typing import Any, get_args

from smtpguard.notify import digest
from smtpguard.settings.notify import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)


def make_sample(kind: Kind, *, now_s: float, now: str, until: str) -> Mapping[str, Any]:
    """An occasion that has not happened; its text says so first.

    Args:
        kind: Of what.
        now_s: Now, in seconds since the epoch.
        now: The same as text.
        until: When its block would end.
    """
    sample: dict[str, Any] = {"id": f"test-{kind}-{int(now_s * 1000)}", "kind": kind, "time": now, "is_test": True}
    match kind:
        case "incident-begins" | "incident-over":
            sample |= _make_incident(now, is_over=kind == "incident-over")
            if kind == "incident-begins":
                sample |= _make_verdict(now, until)
        case "breaker":
            sample["brake"] = {"tripped": True, "blocks": 4, "mode": "enforce", "limit": 3, "per": 600}
        case "blind":
            sample |= {"condition": "blind", "holds": True, "what": "a test"}
        case "state":
            sample["what"] = "a test"
        case "listed":
            sample["listing"] = _make_listing(now)
        case "digest":
            text, shown = digest.show_digest(digest.begin_sums(now_s), {}, 0, now_s, ())
            sample |= {"what": text, "digest": shown}
    return sample


def _make_listing(now: str) -> dict[str, Any]:
    entry = {"zone": "list.invalid", "codes": ["127.0.0.2"], "reason": "a test", "since": now}
    users = [{"user": "nobody-here", "uid": 4294967294, "connects": 11}]
    senders = {"since": now, "until": now, "scope": "address", "unknown": 0, "users": users}
    return {"address": "192.0.2.1", "holds": True, "zones": [entry], "senders": senders}


def make_customer_sample(host: str, now: str, until: str) -> Mapping[str, Any]:
    """What a customer's text is given for a block that has not happened, see report/why_texts.py.

    Args:
        host: This host's name.
        now: From when it would be.
        until: To when.
    """
    nothing = dict.fromkeys(("failed", "server", "port"))
    block = {"state": "refused", "cause": "limit", "ports": [25], "since": now, "until": until}
    return (
        {"host": host, "user": "nobody-here", "domain": None, "time": now, "attempts": 20, "refused": 7}
        | nothing
        | block
    )


def _make_incident(now: str, *, is_over: bool) -> dict[str, Any]:
    figures = {"verdicts": 1, "connects": 11, "refused": 1, "peak_per_minute": 11, "destination_count": 11}
    incident = {"id": "00000000", "first": now, "last": now, "mode": "enforce", "rules": ["mx-fanout"], **figures}
    rest = {"scripts": [], "destinations": [], "over": is_over}
    return {"key": "test", "user": "nobody-here", "uid": 4294967294, "incident": incident | rest}


def _make_verdict(now: str, until: str) -> dict[str, Any]:
    block = {"kind": "block", "ports": [25], "since": now, "until": until, "by": "guard"}
    return {
        "blocks": [block | {"rule": "mx-fanout", "mode": "enforce", "suspended": False}],
        "verdict": {
            "rule": "mx-fanout",
            "count": 11,
            "counted": "networks",
            "limit": 10,
            "window": 600,
            "action": "block",
            "mode": "enforce",
            "why_dry": "",
            "ports": [25],
            "until": until,
            "left_to_fail2ban": False,
            "script": "/home/nobody-here/send.php",
        },
    }
