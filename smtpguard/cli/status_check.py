"""`smtpguard status --check`: one line with performance data, and an exit code, as Icinga, Nagios and Zabbix want it.

The line and the codes follow the Monitoring Plugins Development Guidelines: 0 ok, 1 warning, 2 critical, 3 unknown.
"""

from collections.abc import Mapping
from typing import Any

from smtpguard.cli.block_lists import find_listed_warning
from smtpguard.errors import GuardError, NoDaemonError
from smtpguard.text import render_duration

OK, WARNING, CRITICAL, UNKNOWN = range(4)
_NAMES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_GRAVE = ("BLIND", "NOT ENFORCING", "MAY STILL REFUSE", "OUT OF SYNC")
"""How troubles begin with which somebody is not stopped who ought to be, or the other way round."""


def tell_dry_run(status: Mapping[str, Any]) -> str:
    """Who is refused in a dry run."""
    return "only who was blocked by hand is refused" if status["blocks"] + status["throttles"] else "nobody is refused"


def check_status(status: Mapping[str, Any], *, warn_dry_run_s: float) -> tuple[int, str]:
    """How the guard fares: exit code and line.

    Args:
        status: As the guard answers.
        warn_dry_run_s: How long it may run in dry run before that is worth a warning; 0 for ever.
    """
    troubles = [str(text) for text in status["troubles"]]
    grave = [text for text in troubles if text.startswith(_GRAVE)]
    if grave:
        return _line(CRITICAL, grave[0], len(troubles) - 1, status)
    if not status["ready"] and status["mode"] != "off":
        return _line(CRITICAL, troubles[0] if troubles else "not ready yet. See: smtpguard status", 0, status)
    if any(means.get("in_step") is False for means in status["enforcement"]):
        return _line(CRITICAL, "not enforcing what is listed. Repair: smtpguard nft ensure", 0, status)
    if troubles:
        return _line(WARNING, troubles[0], len(troubles) - 1, status)
    if (text := find_listed_warning(status.get("listed"))) is not None:
        return _line(WARNING, text, 0, status)
    failed = sum(status["part_failures"].values())
    if failed:
        return _line(WARNING, f"parts have failed {failed} times. See: smtpguard status -v", 0, status)
    if status["mode"] == "dry-run":
        uptime, dry_run = status["uptime"], tell_dry_run(status)
        if 0 < warn_dry_run_s < uptime:
            what = f"dry run for {render_duration(uptime)}: {dry_run}. Next: dry_run: false"
            return _line(WARNING, what, 0, status)
        return _line(OK, f"watching, dry run: {dry_run}", 0, status)
    return _line(OK, "guarding", 0, status)


def check_failure(error: GuardError) -> tuple[int, str]:
    """The same where the guard said nothing."""
    code = CRITICAL if isinstance(error, NoDaemonError) else UNKNOWN
    return code, f"SMTPGUARD {_NAMES[code]} - {_clean(str(error))}"


def _line(code: int, text: str, more: int, status: Mapping[str, Any]) -> tuple[int, str]:
    beyond = f" (and {more} more: smtpguard status)" if more > 0 else ""
    lost = sum(source["lost"] for source in status["sources"])
    figures = {
        "blocks": f"{status['blocks']}",
        "throttles": f"{status['throttles']}",
        "would": f"{status['would']}",
        "refused": f"{status['refused']}c",
        "seen": f"{status['seen']}c",
        "lost": f"{lost}c",
        "uptime": f"{round(status['uptime'])}s",
    }
    data = " ".join(f"{name}={value}" for name, value in figures.items())
    return code, f"SMTPGUARD {_NAMES[code]} - {_clean(text)}{beyond} | {data}"


def _clean(text: str) -> str:
    """One line, without the sign that begins the performance data."""
    return " ".join(text.replace("|", "/").split())
