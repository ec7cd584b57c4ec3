"""What the daemon may still do once it runs: the capabilities it uses, each for a reason, and no way back to more.

Capabilities belong to threads, so it is done before there is a second one. The daemon stays uid 0: its files are
root's, and without CAP_DAC_OVERRIDE and the rest that is a uid like any other. The helpers that look at processes were
started before, and keep less (enrich/looker).
"""

import logging
import os
import resource
from pathlib import Path

from smtpguard.errors import PrivilegeError
from smtpguard.kernel.capabilities import apply_capabilities, is_known
from smtpguard.panels.known_panels import find_panel
from smtpguard.settings import Settings

MIN_FILES = 65_536
"""Descriptors: clients, sources, and fanotify, which loses events where there are too few."""
PRIORITY = -10
"""nice(2) value of the daemon."""
AUTOGROUP_PRIORITY = -20
"""That of its session beside others. Whoever starts a thousand sessions has a thousand shares: with this it has 87."""
_AUTOGROUP = Path("/proc/self/autogroup")
_OPTIONAL = frozenset({"KILL", "CHOWN", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "AUDIT_CONTROL", "AUDIT_READ"}) | {
    "NET_BIND_SERVICE"
}

log = logging.getLogger(__name__)


def needed_capabilities(settings: Settings) -> dict[str, str]:
    """What a daemon with this configuration uses, and what for.

    Returns:
        Names without CAP_, with the reason, for `doctor`.
    """
    names = settings.sources
    needed = {"NET_ADMIN": "the nft table and its notifications, ending open sessions, attaching BPF programs"}

    def uses(*sources: str) -> bool:
        return names == "auto" or (names != "none" and not set(sources).isdisjoint(names))

    if uses("bpf"):
        needed["BPF"] = "loading BPF programs, reading and writing their maps"
        needed["PERFMON"] = "BPF helpers that name the process and the socket's owner"
    if uses("audit"):
        needed["AUDIT_READ"] = "audit records over netlink"
    if uses("audit", "audit-log") and settings.audit_uid is not None:
        needed["SETUID"] = "the self-test of audit rules that log one uid only connects as that uid"
    if uses("audit", "audit-log"):
        needed["AUDIT_CONTROL"] = "audit rules of our own, and what the kernel lost"
    if uses("proc", "nflog"):
        needed["SYS_PTRACE"] = "which process has a socket: /proc/PID/fd"
    if uses("proc", "nflog", "audit-log", "maillog", "postfix", "exim"):
        needed["DAC_READ_SEARCH"] = "/proc/PID/fd, logs and spools that are not root's"
    if names != "auto" and uses("postfix", "exim"):
        needed["SYS_ADMIN"] = "fanotify on a spool directory that was made anew"
    if settings.accounts == "auto" and (panel := find_panel()) is not None and panel.needs_reading:
        needed["DAC_READ_SEARCH"] = f"files of {panel.name}, which are not root's"
    if settings.control_group is not None:
        needed["CHOWN"] = "giving the control socket to its group"
    elif settings.metrics_textfile is not None and settings.metrics_users:
        needed["CHOWN"] = "giving the file of metrics to its group"
    if uses("bpf"):
        # A reload may bring `block.verdict: tell`, and what was given up never comes back.
        needed["NET_BIND_SERVICE"] = "the responder's port, below 1024 so that no user can take it"
    if settings.attribution_process:
        needed["KILL"] = "ending helpers that look at processes, which are not root's"
    if "BPF" in needed and not is_known("BPF"):
        del needed["BPF"], needed["PERFMON"]
        needed["SYS_ADMIN"] = "BPF programs: this kernel is older than CAP_BPF (Linux 5.8)"
    return needed


def apply_limits() -> None:
    """Take up what needs a privilege once: locked memory (BPF maps before Linux 5.11) and descriptors."""
    for what, least in ((resource.RLIMIT_MEMLOCK, resource.RLIM_INFINITY), (resource.RLIMIT_NOFILE, MIN_FILES)):
        soft, hard = resource.getrlimit(what)
        if _is_at_least(soft, least):
            continue
        # Without CAP_SYS_RESOURCE the hard limit is as far as it goes.
        for wish in ((least, hard if _is_at_least(hard, least) else least), (hard, hard)):
            try:
                resource.setrlimit(what, wish)
                break
            except (ValueError, OSError) as failure:
                log.debug("a resource limit can't be %s: %s", wish, failure)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if not _is_at_least(files, MIN_FILES):
        log.warning(
            "at most %d files may be open, fewer than %d, and the limit can't be raised. "
            "A host with many customers may need more. Raise LimitNOFILE= of the unit, or ulimit -n",
            files,
            MIN_FILES,
        )


def apply_priority() -> None:
    """Be served before those whom it watches: a flood of connections must not keep it from seeing them.

    It needs little of the processor's time, but at once. For this thread and those that it starts; the helpers, started
    before, stay where they are.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, min(PRIORITY, os.getpriority(os.PRIO_PROCESS, 0)))
        # nice(2) counts within a session alone where sessions have equal shares: sched(7), "The autogroup feature".
        if os.getsid(0) == os.getpid() and _AUTOGROUP.exists():  # never that of somebody's shell
            _AUTOGROUP.write_text(str(AUTOGROUP_PRIORITY), "ascii")
    except OSError as failure:
        log.debug("the priority can't be raised: %s", failure)


def apply_privileges(settings: Settings, *, no_new_privileges: bool = True) -> frozenset[str]:
    """Keep what this configuration needs, give up the rest, for this process and all that it starts.

    Args:
        settings: The configuration; one that needs more later needs a restart.
        no_new_privileges: Programs that it starts get no more than it has: a sendmail that is setgid fails then.

    Returns:
        The capabilities that are left.

    Raises:
        PrivilegeError: There are threads already, which would keep theirs; or one that is needed is lacking.
    """
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise PrivilegeError(f"{threads} threads run already: privileges are given up before the second one")
    needed = needed_capabilities(settings)
    kept = apply_capabilities(needed, no_new_privileges=no_new_privileges)
    lacking = sorted(set(needed) - kept)
    for name in lacking:
        if name not in _OPTIONAL or (name == "NET_BIND_SERVICE" and settings.block_verdict == "tell"):
            raise PrivilegeError(f"CAP_{name} is lacking: {needed[name]}", fix="run as root, with this capability")
        log.warning("CAP_%s is lacking: %s", name, needed[name])
    return kept


def _is_at_least(limit: int, least: int) -> bool:
    return limit == resource.RLIM_INFINITY or (least != resource.RLIM_INFINITY and limit >= least)
