"""What an administrator reads when somebody exceeds a limit: user, what, until when, why, then what to type next. Pure.

One line each, for the journal. The event log has its own lines, for programs (logline.py).
"""

from collections.abc import Iterable, Sequence

from smtpguard.clock import render_until
from smtpguard.model import Account, Action, Block, BreakerChange, Connect, Verdict
from smtpguard.policy.incidents import Incident
from smtpguard.settings import BreakerLimits
from smtpguard.text import (
    render_count,
    render_duration,
    render_escaped,
    render_look,
    render_ports,
    render_subject,
    render_words,
)

_SCRIPT_CHARS = 40
_GRAVITY: dict[Action, int] = {"warn": 0, "throttle": 1, "block": 2}
_DONE: dict[Action, str] = {"throttle": "THROTTLED", "block": "BLOCKED"}
_WOULD: dict[Action, str] = {"throttle": "throttled", "block": "blocked"}
_LABELS = {"dry_run": "DRY RUN", "rule is dry_run": "DRY RUN", "off": "OFF"}
"""By why nobody is refused; what else there is, such as a shared user, is named."""
HIGHEST_GRAVITY = 5
"""No verdict is graver."""


def gravity_of(verdict: Verdict) -> int:
    """How grave a verdict is for who reads of it: what is refused before what would be, blocks before throttles."""
    gravity = _GRAVITY[verdict.action]
    return gravity + 3 if gravity and verdict.mode == "enforce" else gravity


def find_gravest(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The one to tell of, of those over one attempt."""
    return max(verdicts, key=gravity_of, default=None)


def render_verdict(
    verdict: Verdict, connect: Connect, account: Account, *, offset_ns: int, now_ns: int, is_left: bool
) -> str:
    """Who is refused, or would be: `shop17 BLOCKED on port 25 until 20:50: ...`.

    Args:
        verdict: The rule that was exceeded.
        connect: The attempt, with what was found out about its script.
        account: Whose it is.
        offset_ns: Wall time minus event time.
        now_ns: Event time now.
        is_left: Whether the block is fail2ban's to make.
    """
    shown = render_owner(account)
    where = render_ports(verdict.ports)
    until = ""
    if verdict.until_ns is not None:
        until = f" until {render_until(verdict.until_ns + offset_ns, now_ns + offset_ns)}"
    if verdict.action == "warn":
        what = f"{shown} over a limit{where}, nothing refused"
    elif verdict.mode == "dry-run":
        label = _LABELS.get(verdict.why_dry, f"REPORT ONLY ({verdict.why_dry})")
        what = f"{label}, nothing refused: {shown} would be {_WOULD[verdict.action]}{where}{until}"
    elif is_left:
        what = f"{shown} over a limit{where}, left to fail2ban"
    else:
        what = f"{shown} {_DONE[verdict.action]}{where}{until}"
    rule = f"{verdict.count} {verdict.counted} in {render_duration(verdict.window_ns / 1e9)}, limit {verdict.limit}"
    script = "" if connect.script is None else f" Script: {_shorten(render_escaped(connect.script))}."
    return f"{what}: {rule} (rule {verdict.rule}).{script} {_see(account)}"


def render_owner(account: Account) -> str:
    """Who it is, as an administrator knows them: the user, and the domain that they are a customer with."""
    user = _name(account)
    domain = None if account.customer is None else account.customer.domain
    return user if domain is None else f"{user} ({domain})"


def render_throttled_again(block: Block, account: Account) -> str:
    """A throttle that took hold again, after a while, within what was said of it before."""
    return f"{render_owner(account)} THROTTLED again{render_ports(block.ports)} (rule {block.rule}). " + _see(account)


def render_end(
    account: Account,
    *,
    kind: Action,
    ports: Sequence[int] | None,
    cause: str,
    by: str,
    reason: str,
    lasted_ns: int,
    refused: int | None,
) -> str:
    """Who is no longer refused: `shop17 (shop.example) no longer BLOCKED on port 25 ...`.

    Args:
        account: Whose it was.
        kind: Block or throttle.
        ports: What it refused; None for all.
        cause: What it was for.
        by: Who ended it, or "time".
        reason: Why; untrusted.
        lasted_ns: How long it has held.
        refused: How many attempts it has refused; None if that is not known.
    """
    length = render_duration(lasted_ns / 1e9)
    how = f"over after {length}" if by == "time" else f"ended by {render_words(by)} after {length}"
    why = f": {render_words(reason)}" if reason and by != "time" else ""
    figures = "" if refused is None else f" {render_count(refused, 'attempt')} refused."
    what = f"{render_owner(account)} no longer {_DONE[kind]}{render_ports(ports)}"
    return f"{what}: {how}{why} ({cause}).{figures} {_see(account)}"


def _see(account: Account) -> str:
    return f"See: {render_look(_name(account))}"


def _name(account: Account) -> str:
    return render_subject(account.uid, account.name, is_contained=account.standing == "container")


def render_over(incident: Incident) -> str:
    """What an incident came to."""
    user = render_owner(incident.account)
    length = render_duration((incident.last_ns - incident.first_ns) / 1e9)
    rules = ", ".join(incident.rules)
    return (
        f"{user}: incident over after {length} (rules: {rules}). {incident.connects} attempts, "
        f"{incident.refused} refused, at most {incident.peak_per_minute} a minute, "
        f"{incident.destinations} destinations."
    )


def render_brake(change: BreakerChange, limits: BreakerLimits) -> str:
    """The safety brake, which the configuration calls breaker, has taken hold or let go."""
    dry = "DRY RUN, nothing refused. " if change.mode == "dry-run" else ""
    if not change.tripped:
        return f"{dry}Safety brake released: new offenders are blocked again."
    return (
        f"{dry}SAFETY BRAKE: {change.blocks} users blocked in {render_duration(limits.per_ns / 1e9)}, "
        f"more than {limits.blocks}. Further users are only slowed down. "
        "Wrong limit? smtpguard blocks. Stop all: smtpguard off"
    )


def _shorten(path: str) -> str:
    """A long path by its end, which says more than its beginning."""
    if len(path) <= _SCRIPT_CHARS:
        return path
    tail = path.rsplit("/", 1)[-1]
    return f".../{tail}"
