"""What people read in a message: user, what, until when, why, then what to type next. Pure.

The same words as in the service's log (daemon/record/notices.py), from the JSON of an occasion, as far as it may leave
the host. What others wrote is escaped there already: nothing here has a line break, a quote or a control character.
"""

from collections.abc import Collection, Mapping
from typing import Any

from smtpguard.notify.listing_text import render_listing
from smtpguard.notify.plain import to_harmless
from smtpguard.text import render_count, render_duration, render_look, render_ports

_DONE = {"throttle": "THROTTLED", "block": "BLOCKED"}
_WOULD = {"throttle": "throttled", "block": "blocked", "warn": "over a limit"}
_CONDITIONS = {
    ("blind", True): "BLIND: no source works. Nothing is seen, nobody is stopped. See: smtpguard doctor",
    ("blind", False): "It sees again.",
    ("not-enforcing", True): "NOT ENFORCING: who is blocked is not refused. See: smtpguard status",
    ("not-enforcing", False): "It enforces again.",
    ("off", True): "Switched OFF: nobody is refused. Switch on: smtpguard on",
    ("off", False): "Switched on again.",
}


def name_user(occasion: Mapping[str, Any], share: Collection[str]) -> str:
    """Whom it is about."""
    user = str(occasion["user"]) if "user" in share else "a user"
    domain = occasion.get("domain")
    return f"{user} ({domain})" if domain and "domain" in share else user


def show_script(script: str | None, share: Collection[str]) -> str | None:
    """A script as far as it may leave the host: the whole path, its end, or nothing."""
    if script is None or "path" in share:
        return script
    return f".../{script.rpartition('/')[2]}" if "script" in share else None


def render_text(occasion: Mapping[str, Any], share: Collection[str]) -> str:
    """An occasion in one line.

    Args:
        occasion: From the daemon.
        share: What may leave this host.
    """
    match occasion["kind"]:
        case "incident-begins" if "days" in occasion:
            return _render_lasts(occasion, share)
        case "incident-begins":
            return _render_begins(occasion, share)
        case "incident-over":
            return _render_over(occasion, share)
        case "breaker":
            return _render_brake(occasion["brake"])
        case "blind":
            return _CONDITIONS[occasion["condition"], occasion["holds"]]
        case "state":
            return f"The state of before is lost, wholly or in part: {occasion['what']}"
        case "listed":
            return render_listing(occasion["listing"], share)
        case "test":
            return "A test of smtpguard's notification. Nothing has happened."
    return str(occasion.get("what", ""))


def _render_begins(occasion: Mapping[str, Any], share: Collection[str]) -> str:
    verdict = occasion["verdict"]
    user, where = name_user(occasion, share), render_ports(verdict["ports"])
    until = f" until {verdict['until'][11:16]}" if verdict["until"] else ""
    if verdict["action"] == "warn":
        what = f"{user} over a limit{where}, nothing refused"
    elif verdict["mode"] != "enforce":
        label = "DRY RUN" if "dry" in verdict["why_dry"] else f"REPORT ONLY ({verdict['why_dry']})"
        what = f"{label}, nothing refused: {user} would be {_WOULD[verdict['action']]}{where}{until}"
    elif verdict["left_to_fail2ban"]:
        what = f"{user} over a limit{where}, left to fail2ban"
    else:
        what = f"{user} {_DONE[verdict['action']]}{where}{until}"
    window = render_duration(verdict["window"])
    rule = f"{verdict['count']} {verdict['counted']} in {window}, limit {verdict['limit']} (rule {verdict['rule']})"
    script = show_script(verdict["script"], share)
    # A chat may show the text as it is: <!channel>.php calls nobody. The JSON beside it has the name.
    shown = f" Script: {to_harmless(script)}." if script else ""
    return f"{what}: {rule}.{shown}" + (f" See: {render_look(occasion['user'])}" if "user" in share else "")


def _render_lasts(occasion: Mapping[str, Any], share: Collection[str]) -> str:
    incident = occasion["incident"]
    look = f" See: {render_look(occasion['user'])}" if "user" in share else ""
    return (
        f"{name_user(occasion, share)}: incident goes on for {render_count(occasion['days'], 'day')} (rules: "
        f"{', '.join(incident['rules'])}). {render_count(incident['connects'], 'attempt')} so far, "
        f"{incident['refused']} refused, at most {incident['peak_per_minute']} a minute, "
        f"{incident['destination_count']} destinations.{look}"
    )


def _render_over(occasion: Mapping[str, Any], share: Collection[str]) -> str:
    incident = occasion["incident"]
    return (
        f"{name_user(occasion, share)}: incident over (rules: {', '.join(incident['rules'])}). "
        f"{render_count(incident['connects'], 'attempt')}, {incident['refused']} refused, "
        f"at most {incident['peak_per_minute']} a minute, {incident['destination_count']} destinations."
    )


def _render_brake(brake: Mapping[str, Any]) -> str:
    dry = "DRY RUN, nothing refused. " if brake["mode"] == "dry-run" else ""
    if not brake["tripped"]:
        return f"{dry}Safety brake released: new offenders are blocked again."
    return (
        f"{dry}SAFETY BRAKE: {brake['blocks']} users blocked in {render_duration(brake['per'])}, "
        f"more than {brake['limit']}. Further users are only slowed down. "
        "Wrong limit? smtpguard blocks. Stop all: smtpguard off"
    )
