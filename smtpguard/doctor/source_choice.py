"""Which source would be used, from what the checks found, and what it would not see."""

from collections.abc import Collection, Sequence

from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.sources.registry import KINDS

_CHECK_OF = {"bpf": "bpf", "nflog": "nflog", "audit": "audit"}
_AUDIT_LOG = "var/log/audit/audit.log"
NAME = "sources"


def check_sources(host: ExaminedHost, findings: Sequence[Finding]) -> Finding:
    """What the configuration's `sources` comes to on this host.

    Args:
        host: What is looked at.
        findings: Of the checks before.
    """
    found = {finding.name: finding for finding in findings}
    usable = [name for name in KINDS if _is_usable(name, host, found)]
    return judge_sources(host.settings.sources, usable, {name: kind.sees for name, kind in KINDS.items()})


def _is_usable(name: str, host: ExaminedHost, found: dict[str, Finding]) -> bool:
    if name == "audit-log":
        return (host.root / _AUDIT_LOG).is_file()
    finding = found.get(_CHECK_OF.get(name, ""))
    if finding is None:
        return True
    if name == "audit" and finding.found == "off":
        return host.settings.audit_enable
    return finding.level in ("ok", "note") and not finding.found.startswith(("can't", "this kernel has no"))


def judge_sources(setting: str | tuple[str, ...], usable: Collection[str], blind: dict[str, str]) -> Finding:
    """What a setting of `sources` comes to.

    Args:
        setting: auto, none or names.
        usable: Sources that can be had, the best first.
        blind: What each does not see; "" if it sees all.
    """
    if setting == "none":
        return Finding(
            name=NAME, level="fatal", found="none are configured", means="nothing is seen", fix="sources: auto"
        )
    if setting == "auto":
        chosen = [next(iter(usable))] if usable else []
    else:
        chosen = [name for name in setting if name in usable]
        lacking = [name for name in setting if name not in usable]
        if chosen and lacking:
            found = f"{', '.join(chosen)}; not {', '.join(lacking)}"
            return Finding(name=NAME, level="bad", found=found, means=_show_blind(chosen, blind))
    if not chosen:
        return Finding(
            name=NAME,
            level="fatal",
            found="none is available here",
            means="no connection is seen, so nobody is ever stopped",
            fix="see the checks above",
        )
    return Finding(name=NAME, level="ok", found=", ".join(chosen), means=_show_blind(chosen, blind))


def _show_blind(chosen: list[str], blind: dict[str, str]) -> str:
    """What all of them together do not see, as far as one can tell: what the one that sees most does not."""
    if any(not blind.get(name) for name in chosen):
        return "every way to open a connection is seen"
    return "; ".join(f"{name}: {blind[name]}" for name in chosen)
