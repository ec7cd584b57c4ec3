"""One user, whole: what a running guard says and what the history says, as `why --json` prints it. Pure."""

from collections.abc import Mapping
from typing import Any

from smtpguard.logline import render_time
from smtpguard.model import NS
from smtpguard.text import render_count, render_ports, render_user

Json = dict[str, Any]
_MINUTES = {60: "1", 600: "10", 3600: "60", 86_400: "1440"}
"""Windows in seconds of which the history knows what is usual."""


def build_why(
    live: Mapping[str, Any] | None,
    past: Mapping[str, Any],
    name: str | None,
    *,
    is_past: bool = False,
    standing: str | None = None,
) -> Json:
    """All that is known of a user.

    Args:
        live: What the running guard says; None where none runs, or of another day.
        past: From the history.
        name: The name that was asked for, where no account has it.
        is_past: Whether it is about another time than now.
        standing: The account's, where there is nothing of now; None where it is not known.
    """
    blocks = [_show_block(block) for block in live["blocks"]] if live is not None else list(past.get("blocks", ()))
    blocks = [block | {"refused_to": _find_refused(block, past["destinations"])} for block in blocks]
    last = past["events"][0] if past["events"] else {}
    why: Json = {
        "user": live["user"] if live is not None else last.get("user") or render_user(past["uid"], name),
        "uid": past["uid"] if live is None else live["uid"],
        "time": past["time"],
        "standing": standing if live is None else live["standing"],
        "standing_why": None if live is None else live["standing_why"],
        "mode": None if live is None else live["mode"],
        "watch": None if live is None else live.get("watch"),
        "account": None if live is None else live.get("account"),
        "notice": None if live is None else live.get("notice"),
        "blocks": blocks,
        "rules": [_show_rule(rule, past, blocks) for rule in (live or {}).get("rules", ())],
        "incident": past["incident"],
        "scripts": past["scripts"],
        "destinations": past["destinations"],
        "own_addresses": past.get("own_addresses", []),
        "own_unknown": past.get("own_unknown", 0),
        "files": [_show_file(file) for file in (past["evidence"].get("newest") or ())[:10]],
        "notes": [event for event in past["events"] if event["kind"] == "note"],
        "changes": [event for event in past["events"] if event["kind"] not in ("exceeded", "note")],
        "attempts": {"hour": past["hour"][0], "day": past["day"][0]},
        "refused": {"hour": past["hour"][1], "day": past["day"][1]},
        "failed": {"hour": past.get("failed_hour", 0)},
        "usual": past.get("usual") or {},
        "blind": past["blind"],
        "lost": past.get("lost", 0),
    }
    verdict, sentence = judge(why, is_seeing=is_past or (live is not None and live["is_seeing"]))
    return why | {"verdict_for_customer": verdict, "verdict": sentence, "commands": list_commands(why)}


def judge(why: Mapping[str, Any], *, is_seeing: bool) -> tuple[str, str]:
    """Whose fault it is that mail fails: `us`, `not_us` or `unknown`; and the same as a sentence for the first line.

    Args:
        why: All but this.
        is_seeing: Whether a source works now.
    """
    for block in why["blocks"]:
        if is_refusing(block):
            ports = render_ports(block["ports"], before="").strip() or "all SMTP ports"
            what = "only slowed down" if block["kind"] == "throttle" else "refused"
            cause = f"rule {block['rule']}" if block["rule"] else f"by {block['by']}"
            since, until = (render_clock(block[name], why["time"]) for name in ("since", "until"))
            return "us", f"US: {ports} {what} since {since}, until {until}, {cause}"
    if why["refused"]["hour"]:
        return "us", f"US: {why['refused']['hour']} attempts refused here in the last hour; nothing is refused now"
    if why["blind"] or not is_seeing:
        spans = [
            f"{render_clock(since, why['time'])} to {render_clock(until, why['time'])}" for since, until in why["blind"]
        ]
        return "unknown", f"UNKNOWN: blind {', '.join(spans if is_seeing else [*spans, 'now'])}; {_tell_attempts(why)}"
    if why["lost"]:
        lost = f"{render_count(why['lost'], 'attempt')} of all users"
        return "unknown", f"UNKNOWN: {lost} lost unseen in the last hour; {_tell_attempts(why)}"
    return "not_us", f"NOT US: {_tell_attempts(why)}"


def is_refusing(block: Mapping[str, Any]) -> bool:
    """Whether a row of `blocks` refuses somebody anything now."""
    return bool(block["kind"] != "allow" and block["mode"] == "enforce" and not block["suspended"])


def _tell_attempts(why: Mapping[str, Any]) -> str:
    attempts = why["attempts"]["hour"]
    failed = why["failed"]["hour"]
    failures = [place for place in why["destinations"] if failed and place["last_failure"]]
    told = f"{attempts} attempts in the last hour, none refused here" if attempts else "no attempt in the last hour"
    if failures:
        worst = max(failures, key=lambda place: str(place["last_failure"]["time"]))
        error = worst["last_failure"]["error"]
        told += f"; {failed} failed outside: {_join_port(worst)} {error}"
    return told


def list_commands(why: Mapping[str, Any]) -> list[str]:
    """What one would do next, to copy."""
    user = why["user"]
    stands = [block for block in why["blocks"] if block["kind"] != "allow"]
    allowed = [block for block in why["blocks"] if block["kind"] == "allow"]
    commands = [f"smtpguard unblock {user}"] if stands else [f"smtpguard block {user} --for 1h"]
    if why["mode"] == "off":
        commands.insert(0, "smtpguard on")
    commands.append(f"smtpguard allow {user} --end" if allowed else f"smtpguard allow {user} --for 24h")
    if why["watch"] is not None:
        commands.append(f"smtpguard incidents unwatch {user}")
    if why["incident"] is not None and not why["incident"]["closed"]:
        commands.append(f"smtpguard incidents close {why['incident']['id']}")
    commands.append(f"smtpguard events --user {user}")
    return commands


def _show_block(block: Mapping[str, Any]) -> Json:
    shown = {name: value for name, value in block.items() if name not in ("user", "uid", "netns")}
    return shown | {name: render_time(round(float(block[name]) * NS)) for name in ("since", "until")}


def _find_refused(block: Mapping[str, Any], places: list[Json]) -> list[Json]:
    """Where attempts were refused on a block's ports in the last 24 h, most first; of an allowance none."""
    if block["kind"] == "allow":
        return []
    found = [
        place for place in places if place["refused"] and (block["ports"] is None or place["port"] in block["ports"])
    ]
    return [{"address": place["address"], "port": place["port"], "count": place["refused"]} for place in found[:5]]


def _show_file(file: Mapping[str, Any]) -> Json:
    times = {name: file[name] for name in ("ctime", "mtime") if file.get(name) is not None}
    return {**file, **{name: render_time(round(float(time) * NS)) for name, time in times.items()}}


def _show_rule(rule: Mapping[str, Any], past: Mapping[str, Any], blocks: list[Json]) -> Json:
    # Minutes have no ports: they are this rule's where the user went to none but its ports.
    ports = past.get("ports")
    is_of_its_ports = rule["ports"] is None or (ports is not None and set(ports) <= set(rule["ports"]))
    usual = None
    if rule["count"] == "connections" and is_of_its_ports and rule["window"] in _MINUTES:
        usual = past.get("usual", {}).get(_MINUTES[rule["window"]])
    usual = usual or past.get("usual_of", {}).get(rule["name"])
    return {**rule, "usual": usual, "next": _find_next(rule, blocks)}


def _find_next(rule: Mapping[str, Any], blocks: list[Json]) -> str:
    """What the next attempt on a rule's ports gets: of a rule that counts networks, the next network."""
    for block in blocks:
        is_met = block["ports"] is None or rule["ports"] is None or not set(rule["ports"]).isdisjoint(block["ports"])
        if is_met and is_refusing(block):
            return "throttled" if block["kind"] == "throttle" else "refused"
    return "passes" if rule["now"] < rule["limit"] else str(rule["action"])


def render_clock(time: str, now: str) -> str:
    """Hour and minute; of another day its date, too."""
    return time[11:16] if time[:10] == now[:10] else f"{time[5:10]} {time[11:16]}"


def _join_port(place: Mapping[str, Any]) -> str:
    address = place["address"]
    return f"[{address}]:{place['port']}" if ":" in address else f"{address}:{place['port']}"
