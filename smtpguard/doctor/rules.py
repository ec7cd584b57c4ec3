"""Rules that this host can't count: failures and bytes are seen by bpf alone."""

from collections.abc import Iterator

from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.errors import GuardError, PrivilegeError
from smtpguard.policy.countable import find_uncounted, may_see_outcomes
from smtpguard.settings import Settings

NAME = "rules"
_FIX = "what bpf needs, see above; or take the rules out"


def can_see_outcomes(settings: Settings) -> bool | None:
    """Whether it can be reported here what became of connections; None if nobody can say (not root, mostly)."""
    if not may_see_outcomes(settings):
        return False
    try:
        from smtpguard.sources.bpf.cgroup import read_cgroup
        from smtpguard.sources.bpf.features import probe_outcomes

        read_cgroup(settings.cgroup)
        return probe_outcomes()
    except PrivilegeError:
        return None
    except GuardError:
        return False


def check_rules(host: ExaminedHost) -> Iterator[Finding]:
    """Whether each rule can be counted."""
    yield from judge_rules(host.settings, can_see_outcomes(host.settings))


def judge_rules(settings: Settings, outcomes: bool | None) -> Iterator[Finding]:
    """What it means for the rules whether outcomes are seen.

    Args:
        settings: The configuration.
        outcomes: Whether they are; None if nobody can say.
    """
    found = find_uncounted(settings, outcomes=outcomes is True)
    names = ", ".join((*found.broken, *found.inactive))
    if outcomes is None and names:
        what = f"whether {names} can be counted can't be looked at"
        yield Finding(name=NAME, level="unknown", found=what, means="they count failures or bytes, which need bpf")
        return
    if found.broken:
        what = f"can't be counted here: {', '.join(found.broken)}"
        means = "failures and bytes need the source bpf: these rules are never exceeded"
        yield Finding(name=NAME, level="bad", found=what, means=means, fix=_FIX)
    if found.inactive:
        what = f"inactive: {', '.join(found.inactive)}, as shipped"
        means = "failures and bytes need the source bpf"
        yield Finding(name=NAME, level="note", found=what, means=means)
    if not names:
        yield Finding(name=NAME, level="ok", found=f"all {len(settings.rules)} can be counted")
