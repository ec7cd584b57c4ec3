"""Which ports a ban of the verdict jail refuses, with `block.by: fail2ban`: those of the rule that was exceeded.

fail2ban knows users and times and no ports; its ban begins at the time of the verdict's line. While a ban stands
fail2ban takes no second verdict of the user: where another rule is exceeded, the ban is made to refuse its ports too.
A ban over which nobody knows a verdict, by hand or of a jail that counts by itself, refuses all ports.
"""

from dataclasses import replace

from smtpguard.daemon.serve.orders import Orders
from smtpguard.model import NS, Block, Subject, Verdict

JAIL = "fail2ban:smtpguard"
"""The jail that reads verdicts, as it is shipped."""
NEAR_NS = 2 * NS
"""How far a ban's begin may be from its verdict: the line is dated to the microsecond, fail2ban may cut to seconds."""
MAX_USERS = 65_536
MAX_VERDICTS = 8
"""Verdicts of a user that wait for their ban: of some rules, in the half second that fail2ban takes."""

Ports = tuple[int, ...] | None


class JailBans:
    """Remembers the verdicts that were left to fail2ban.

    Args:
        orders: What makes bans wider.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._left: dict[Subject, list[tuple[int, Ports]]] = {}

    def left(self, verdict: Verdict) -> None:
        """A verdict was left to fail2ban."""
        subject, ports = verdict.subject, verdict.ports
        held = self._held(subject, verdict.time_ns)
        if not held:
            before = self._left.pop(subject, [])
            while len(self._left) >= MAX_USERS:
                self._left.pop(next(iter(self._left)))
            self._left[subject] = [*before[1 - MAX_VERDICTS :], (verdict.time_ns, ports)]
        elif not any(covers(block.ports, ports) for block in held):
            longest = max(held, key=lambda block: block.until_ns)
            self._orders.begin(replace(longest, ports=ports, since_ns=verdict.time_ns, rule=None))

    def ports_of(self, subject: Subject, source: str, since_ns: int) -> Ports:
        """What a ban refuses; None for all ports.

        Args:
            subject: Who is banned.
            source: By which jail.
            since_ns: When the ban began (event time).
        """
        if source != JAIL:
            return None
        found = [block.ports for block in self._held(subject, since_ns)]
        # Once: a ban by hand soon after this one follows no verdict. What came since is of this one, too.
        left = self._left.pop(subject, [])
        if any(abs(time_ns - since_ns) <= NEAR_NS for time_ns, _ in left):
            found += [ports for time_ns, ports in left if time_ns >= since_ns - NEAR_NS]
        return join_ports(*found) if found else None

    def _held(self, subject: Subject, now_ns: int) -> list[Block]:
        blocks = self._orders.blocks_of(subject)
        return [block for block in blocks if block.source == JAIL and block.until_ns > now_ns]


def join_ports(*some: Ports) -> Ports:
    """All of some ports together; None, which is all, swallows them."""
    joined: set[int] = set()
    for ports in some:
        if ports is None:
            return None
        joined.update(ports)
    return tuple(sorted(joined))


def covers(ports: Ports, others: Ports) -> bool:
    """Whether ports hold all the others."""
    return ports is None or (others is not None and set(others) <= set(ports))
