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

Ports = tuple[int, ...] | None


class JailBans:
    """Remembers the verdicts that were left to fail2ban.

    Args:
        orders: What makes bans wider.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._left: dict[Subject, tuple[int, Ports]] = {}

    def left(self, verdict: Verdict) -> None:
        """A verdict was left to fail2ban."""
        subject, ports = verdict.subject, verdict.ports
        before = self._left.pop(subject, None)
        if before is not None and before[0] == verdict.time_ns:  # one attempt, two rules
            ports = join_ports(ports, before[1])
        while len(self._left) >= MAX_USERS:
            self._left.pop(next(iter(self._left)))
        self._left[subject] = (verdict.time_ns, ports)
        held = self._held(subject, verdict.time_ns)
        if held and not any(covers(block.ports, ports) for block in held):
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
        left = self._left.get(subject)
        if left is not None and abs(left[0] - since_ns) <= NEAR_NS:
            found.append(left[1])
        return join_ports(*found) if found else None

    def _held(self, subject: Subject, now_ns: int) -> list[Block]:
        blocks = self._orders.guard.engine.blocks_of(subject)
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
