"""`smtpguard doctor`: what this host has, what it lacks, what that means, and the fix. Looks only, changes nothing.

Each check is a function from `ExaminedHost` to findings. What it reads off the host and what it makes of it are apart,
so that the second half is tested with every answer a kernel can give. `CHECKS` is the list; a new check is one line
there.
"""

from collections.abc import Iterable
from typing import Protocol

from smtpguard.doctor.accounts import (
    check_chosen_names,
    check_mail_servers,
    check_old_numbers,
    check_shared,
    check_subordinate,
)
from smtpguard.doctor.audit import check_audit
from smtpguard.doctor.block_lists import check_block_lists
from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.doctor.installation import check_configuration, check_fail2ban, check_log, check_state, check_time
from smtpguard.doctor.kernel import check_bpf, check_capabilities, check_nflog, check_nft
from smtpguard.doctor.metrics import check_metrics
from smtpguard.doctor.nat import check_nat
from smtpguard.doctor.relays import check_relays
from smtpguard.doctor.rules import check_rules
from smtpguard.doctor.source_choice import check_sources
from smtpguard.errors import GuardError


class Check(Protocol):
    """Looks at one thing of the host."""

    def __call__(self, host: ExaminedHost, /) -> Iterable[Finding]:
        """What it found."""
        ...


CHECKS: dict[str, Check] = {
    "configuration": check_configuration,
    "capabilities": check_capabilities,
    "bpf": check_bpf,
    "nflog": check_nflog,
    "rules": check_rules,
    "audit": check_audit,
    "nftables": check_nft,
    "redirects": check_nat,
    "other ports": check_relays,
    "mail servers": check_mail_servers,
    "old numbers": check_old_numbers,
    "shared users": check_shared,
    "names that protect": check_chosen_names,
    "subordinate uids": check_subordinate,
    "fail2ban": check_fail2ban,
    "log": check_log,
    "state": check_state,
    "metrics": check_metrics,
    "block lists": check_block_lists,
    "time": check_time,
}
"""Name to check, in the order of the report."""


def examine(host: ExaminedHost) -> list[Finding]:
    """All findings, in order; a check that can't look says so, and the others go on.

    Args:
        host: What is looked at.
    """
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += check(host)
        except (OSError, GuardError, ValueError) as error:
            findings.append(
                Finding(
                    name=name, level="unknown", found=f"can't be looked at: {error}", means="it may be right or not"
                )
            )
    return [*findings, check_sources(host, findings)]
