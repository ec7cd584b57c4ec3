"""The card of one user, as lines for a terminal of 80 columns and 24 rows: from the object of `why --json`. Pure."""

from collections.abc import Mapping
from typing import Any

from smtpguard.report.why import is_refusing, render_clock
from smtpguard.text import (
    render_count,
    render_duration,
    render_minute,
    render_ports,
    render_visible,
    render_words,
    tell_limits,
)

_MOST = {"blocks": 2, "rules": 4, "destinations": 3, "scripts": 2, "own": 3, "files": 2}
"""Rows of each kind where there is little room."""
_HEAD = 13
_ENOUGH_DAYS = 3


def render_card(why: Mapping[str, Any], *, width: int = 80, height: int = 24) -> list[str]:
    """The card.

    Args:
        why: From `build_why`.
        width: Columns; a longer line is cut.
        height: Rows; the least telling ones are left out.
    """
    lines = [render_words(why["verdict"], max_bytes=width), *_standing(why), *_watch(why), *_blocks(why), *_rules(why)]
    lines += [*_incident(why), *_scripts(why), *_destinations(why), *_own(why), *_notes(why), *_files(why)]
    commands = [
        _pair("do", command) if not number else " " * _HEAD + command for number, command in enumerate(why["commands"])
    ]
    room = height - 1 - len(commands)  # the shell's prompt needs a row, too
    if len(lines) > room:
        lines = [*lines[: room - 1], _pair("", "... more: --json")]
    return [_cut(line, width) for line in (*lines, *commands)]


def _standing(why: Mapping[str, Any]) -> list[str]:
    mode = {"dry-run": "dry run: nobody is refused", "off": "the guard is OFF", "enforce": "enforcing"}.get(why["mode"])
    if why["mode"] == "dry-run" and any(map(is_refusing, why["blocks"])):
        mode = "dry run: only blocks by hand refuse"
    standing = why["standing"] or "not known: no guard is asked"
    if why["standing_why"]:
        standing += f" ({render_words(why['standing_why'])})"
    refused, attempts = why["refused"], why["attempts"]
    usual = why["usual"].get("60")
    figures = (
        f"{attempts['hour']} attempts in 1 h, {attempts['day']} in 24 h; refused {refused['hour']} and {refused['day']}"
    )
    return [
        _pair("user", f"{why['user']}, uid {why['uid']}: {standing}" + (f"; {mode}" if mode else "")),
        *_customer(why["account"]),
        _pair("sent", figures),
        *([_pair("", f"usual in 1 h: {usual['p50']}, seldom over {usual['p95']}{_days(usual)}")] if usual else []),
    ]


def _days(usual: Mapping[str, Any]) -> str:
    """Of how much that is, where it is little: of one day it may be the attack itself."""
    return f" (of {render_count(usual['days'], 'day')})" if usual["days"] < _ENOUGH_DAYS else ""


def _customer(account: Mapping[str, Any] | None) -> list[str]:
    """Whose it is: what a customer wrote themselves is shown as words, whatever it holds."""
    if account is None:
        return []
    more = len(account["domains"]) - 1
    domains = [account["domain"] + (f" and {more} more" if more > 0 else "")] if account["domain"] else []
    told = [f"{key} {account[key]}" for key in ("package", "reseller", "contact") if account[key]]
    return [_pair("customer", render_words("; ".join((*domains, *told)), max_bytes=200))]


def _blocks(why: Mapping[str, Any]) -> list[str]:
    if not why["blocks"]:
        return [_pair("blocks", "nothing is in force" + _fullest(why))]
    lines: list[str] = []
    for block in why["blocks"][: _MOST["blocks"]]:
        if block["kind"] == "allow":
            lines += _allowance(block, why["time"], is_first=not lines)
            continue
        ports = render_ports(block["ports"]) or " on all ports"
        since, until = (render_clock(block[name], why["time"]) for name in ("since", "until"))
        mode = ", suspended" if block["suspended"] else "" if block["mode"] == "enforce" else ", dry run"
        text = f"{block['kind']}{ports} until {until} by {block['by']}{mode}"
        text += f", rule {block['rule']}" if block["rule"] else ""
        lines.append(_pair("blocks" if not lines else "", text))
        lines.append(_pair("", f"since {since}" + ("" if block["why"] == "-" else f": {block['why']}")))
        refused = "how much was refused is not known" if block["refused"] is None else f"refused {block['refused']}"
        places = [f"{place['count']} to {place['address']}" for place in block["refused_to"][:2]]
        colon = (
            ": " if sum(place["count"] for place in block["refused_to"]) <= (block["refused"] or 0) else "; in 24 h "
        )
        lines.append(_pair("", colon.join((refused, ", ".join(places))) if places else refused))
    return lines


def _allowance(block: Mapping[str, Any], time: str, *, is_first: bool) -> list[str]:
    since, until = (render_clock(block[name], time) for name in ("since", "until"))
    reason = "" if block["why"] == "-" else f": {block['why']}"
    text = f"allowed to send more until {until} by {block['by']}"
    return [_pair("blocks" if is_first else "", text), _pair("", f"since {since}{reason}")]


def _watch(why: Mapping[str, Any]) -> list[str]:
    """That a person had this user's limits halved, and whether they are."""
    watch = why["watch"]
    if watch is None:
        return []
    reason = f": {render_words(watch['reason'], max_bytes=40)}" if watch["reason"] else ""
    until = f"until {render_minute(watch['until'])}{reason}"
    if watch.get("allowed_until") is None:
        return [_pair("watched", f"{tell_limits(watch)} {until}")]
    return [_pair("watched", until), _pair("", tell_limits(watch))]


def _fullest(why: Mapping[str, Any]) -> str:
    fills = [rule for rule in why["rules"] if rule["limit"]]
    if not fills:
        return ""
    top = max(fills, key=lambda rule: rule["now"] / rule["limit"])
    return f"; at {top['now']} of {top['limit']} ({top['name']})" if top["now"] else "; all windows are empty"


def _rules(why: Mapping[str, Any]) -> list[str]:
    told = {block["rule"] for block in why["blocks"]}
    used = [rule for rule in why["rules"] if rule["now"] or rule["name"] in told]
    used.sort(key=lambda rule: (rule["name"] not in told, -rule["now"] / max(1, rule["limit"])))
    lines: list[str] = []
    for rule in used[: _MOST["rules"]]:
        text = f"{rule['name']}: {rule['now']} of {rule['limit']} {rule['count']} in {render_duration(rule['window'])}"
        text += f", {rule['action']}" + (" (dry run)" if rule["mode"] != "enforce" else "")
        what = "next network" if rule["count"] == "networks" and rule["next"] == rule["action"] else "next"
        text += f"; {what} {rule['next']}"
        text += "" if rule.get("limit_by") in (None, "rule") else f"; by {rule['limit_by']}"
        text += f"; usual {rule['usual']['p50']} to {rule['usual']['p95']}" if rule["usual"] else ""
        lines.append(_pair("rules" if not lines else "", text))
    return lines


def _incident(why: Mapping[str, Any]) -> list[str]:
    incident = why["incident"]
    if incident is None:
        return []
    state = "closed" if incident["closed"] else "over" if incident["over"] else "goes on"
    times = " to ".join(render_clock(incident[name], why["time"]) for name in ("first", "last"))
    verdicts = render_count(incident["verdicts"], "verdict")
    figures = f"{verdicts}, refused {incident['refused']}, peak {incident['peak_per_minute']}/min"
    return [_pair("incident", f"{incident['id']} {state}, {times}: {figures}")]


def _scripts(why: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for script in [row for row in why["scripts"] if row["script"]][: _MOST["scripts"]]:
        where = script["script"] + ("" if script["line"] is None else f":{script['line']}")
        label = f" ({script['attr']})" if script["attr"] else ""
        text = f"{script['count']} by {_shorten(where, 58 - len(label))}{label}"
        lines.append(_pair("scripts" if not lines else "", text))
        about = [f"owner {script['owner']}"] if script["owner"] is not None else []
        about += [f"changed {render_minute(script['ctime'])}"] if script["ctime"] else []
        about += [f"sha256 {script['sha256'][:16]}"] if script["sha256"] else []
        lines += [_pair("", ", ".join(about))] if about else []
        called = [frame.rpartition("/")[2] for frame in script["stack"][1:]]
        called += [f"asked by {driver['address']}" for driver in script["drivers"][:1]]
        lines += [_pair("", f"called by {', '.join(called)}")] if called else []
    unnamed = sum(row["count"] for row in why["scripts"] if not row["script"])
    return [*lines, _pair("", f"{unnamed} more whose script was not looked at")] if lines and unnamed else lines


def _files(why: Mapping[str, Any]) -> list[str]:
    """The newest code files of the site: what was dropped is often what sends."""
    lines: list[str] = []
    for file in why["files"][: _MOST["files"]]:
        time = render_minute(file["ctime"]) if file.get("ctime") else "?"
        lines.append(_pair("newest code" if not lines else "", f"{time} {_shorten(str(file['path']), 50)}"))
    return lines


def _destinations(why: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for place in why["destinations"][: _MOST["destinations"]]:
        text = f"{place['address']} port {place['port']}: {render_count(place['count'], 'attempt')}"
        text += f" ({render_words(place['provider'])})" if place["provider"] else ""
        text += f", refused {place['refused']}" if place["refused"] else ""
        text += f", connected {place['connected']}" if place["connected"] else ""
        text += f", failed {place['failed']}: {place['last_failure']['error']}" if place["last_failure"] else ""
        lines.append(_pair("to" if not lines else "", text))
    more = len(why["destinations"]) - _MOST["destinations"]
    return [*lines, _pair("", f"and {more} more")] if more > 0 else lines


def _own(why: Mapping[str, Any]) -> list[str]:
    """From which of the host's own addresses: a block list names one."""
    places = why["own_addresses"]
    shown = [f"{place['address']} ({place['connected'] + place['failed']})" for place in places[: _MOST["own"]]]
    if len(places) > _MOST["own"]:
        shown.append(f"{len(places) - _MOST['own']} more")
    if why["own_unknown"]:
        shown.append(f"not known ({why['own_unknown']})")
    return [_pair("from", ", ".join(shown))] if shown else []


def _notes(why: Mapping[str, Any]) -> list[str]:
    ended = next((change for change in why["changes"] if change["kind"] in ("unblock", "allow")), None)
    lines: list[str] = []
    if ended is not None:
        by = render_words(str(ended.get("who") or ended["by"]))
        lines.append(_pair("last change", f"{ended['kind']} at {render_minute(ended['time'])} by {by}"))
    told = next((change for change in why["changes"] if change["kind"] == "told"), None)
    if told is not None:
        lines.append(_pair("told", f"{render_minute(told['time'])}: {render_words(told['reason'], max_bytes=120)}"))
    for note in why["notes"][:1]:
        by = render_words(str(note.get("who") or note["by"]))
        lines.append(_pair("note", f"{by}, {note['time'][:10]}: {render_words(note['reason'], max_bytes=60)}"))
    return lines


def _pair(head: str, text: str) -> str:
    return f"{head:<{_HEAD}}{text}"


def _shorten(path: str, most: int) -> str:
    return path if len(path) <= most else f"...{path[3 - most :]}"


def _cut(line: str, width: int) -> str:
    line = render_visible(line)
    return line if len(line) <= width else f"{line[: width - 3]}..."
