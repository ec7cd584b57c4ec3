"""What `blocks` shows: blocks, throttles and allowances in force, as plain values."""

from typing import Any

from smtpguard.daemon.guard import Guard
from smtpguard.daemon.serve.unblock import MAX_REASON
from smtpguard.model import NS, Allowance, Block, Subject
from smtpguard.text import render_user, render_words


def list_blocks(guard: Guard) -> list[dict[str, Any]]:
    """A row for each that is not over."""
    now_ns = guard.now()
    rows = [_render_block(guard, block) for block in guard.engine.blocks() if block.until_ns > now_ns]
    return rows + [_render_allowance(guard, held) for held in guard.engine.allowances() if held.until_ns > now_ns]


def _render_block(guard: Guard, block: Block) -> dict[str, Any]:
    return {
        **_render_subject(guard, block.subject),
        "kind": block.kind,
        "ports": None if block.ports is None else list(block.ports),
        "since": (block.since_ns + guard.wall.offset_ns) / NS,
        "until": (block.until_ns + guard.wall.offset_ns) / NS,
        "by": block.source,
        "rule": block.rule,
        "why": render_words(block.reason, max_bytes=MAX_REASON) if block.reason else block.rule or "-",
        "mode": block.mode,
        "suspended": guard.engine.is_off and block.mode == "enforce",
        "level": block.level,
        "refused": guard.refused[block.subject],
    }


def _render_allowance(guard: Guard, allowance: Allowance) -> dict[str, Any]:
    return {
        **_render_subject(guard, allowance.subject),
        "kind": "allow",
        "ports": None,
        "since": (allowance.since_ns + guard.wall.offset_ns) / NS,
        "until": (allowance.until_ns + guard.wall.offset_ns) / NS,
        "by": allowance.by,
        "rule": None,
        "why": render_words(allowance.reason, max_bytes=MAX_REASON) if allowance.reason else "-",
        "mode": "enforce",
        "suspended": False,
        "level": 0,
        "refused": guard.refused[allowance.subject],
    }


def _render_subject(guard: Guard, subject: Subject) -> dict[str, Any]:
    name = guard.account_of(subject).name
    return {"user": render_user(subject.id, name), "uid": subject.id, "netns": subject.scope}
