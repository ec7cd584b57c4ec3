"""The attempt behind a verdict, as it is kept with it."""

from typing import Any

from smtpguard.model import Verdict
from smtpguard.text import render_address, render_escaped


def render_evidence(verdict: Verdict) -> dict[str, Any]:
    """The attempt behind a verdict as JSON values, untrusted bytes escaped."""
    connect = verdict.connect
    texts = {
        key: render_escaped(value)
        for key in ("proc", "exe", "cwd", "script", "rdns")
        if (value := getattr(connect, key)) is not None
    }
    known = {"pid": connect.pid, "uid": connect.uid, "result": connect.result, "attr": connect.attr}
    return {
        "port": connect.port,
        "address": render_address(connect.address),
        "sensor": connect.sensor,
        **{key: value for key, value in known.items() if value is not None},
        **texts,
    }
