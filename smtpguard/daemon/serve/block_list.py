"""What `blocks` shows: blocks, throttles and allowances in force, as plain values."""

from typing import Any

from smtpguard.clock import WallMap
from smtpguard.daemon.execution import Execution
from smtpguard.daemon.serve.unblock import MAX_REASON
from smtpguard.hooks import ClockNs
from smtpguard.model import NS, Allowance, Block, Subject
from smtpguard.policy.engine import Engine
from smtpguard.text import render_user, render_words


class BlockList:
    """Lists who is refused or allowed.

    Args:
        engine: Who is.
        execution: Knows how often they were refused.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(self, engine: Engine, execution: Execution, wall: WallMap, now: ClockNs) -> None:
        self._engine = engine
        self._execution = execution
        self._wall = wall
        self._now = now

    def collect(self) -> list[dict[str, Any]]:
        """A row for each that is not over."""
        now_ns = self._now()
        rows = [self._render_block(block) for block in self._engine.blocks() if block.until_ns > now_ns]
        return rows + [self._render_allowance(held) for held in self._engine.allowances() if held.until_ns > now_ns]

    def _render_block(self, block: Block) -> dict[str, Any]:
        return {
            **self._render_subject(block.subject),
            "kind": block.kind,
            "ports": None if block.ports is None else list(block.ports),
            **self._render_times(block),
            "by": block.source,
            "rule": block.rule,
            "why": render_words(block.reason, max_bytes=MAX_REASON) if block.reason else block.rule or "-",
            "mode": block.mode,
            "suspended": self._engine.is_off and block.mode == "enforce",
            "level": block.level,
            "refused": self._execution.refused[block.subject] if block.mode == "enforce" else 0,
        }

    def _render_allowance(self, allowance: Allowance) -> dict[str, Any]:
        return {
            **self._render_subject(allowance.subject),
            "kind": "allow",
            "ports": None,
            **self._render_times(allowance),
            "by": allowance.by,
            "rule": None,
            "why": render_words(allowance.reason, max_bytes=MAX_REASON) if allowance.reason else "-",
            "mode": "enforce",
            "suspended": False,
            "level": 0,
            "refused": self._execution.refused[allowance.subject],
        }

    def _render_times(self, held: Block | Allowance) -> dict[str, float]:
        offset_ns = self._wall.offset_ns
        return {"since": (held.since_ns + offset_ns) / NS, "until": (held.until_ns + offset_ns) / NS}

    def _render_subject(self, subject: Subject) -> dict[str, Any]:
        account = self._execution.account_of(subject)
        return {
            "user": render_user(subject.id, account.name),
            "uid": subject.id,
            "netns": subject.scope,
            "domain": None if account.customer is None else account.customer.domain,
        }
