"""Every statement that changes the state file. Parameters only, never text: names and reasons are hostile."""

from smtpguard.state.rows import (
    AllowanceRow,
    BlockRow,
    ChangeRow,
    EscalationRow,
    IncidentRow,
    Key,
    Statement,
    SwitchRow,
    VerdictRow,
    WindowRow,
    render_json,
    to_name,
    to_ports,
    to_signed,
)
from smtpguard.text import to_bytes

EMPTY_KEPT = tuple(
    Statement(sql=f"DELETE FROM {table}", parameters=())  # noqa: S608 - constants
    for table in ("blocks", "allowances", "switches", "escalation", "facts")
)
"""Before all that is known is written again, to a file that may be an old copy: what ended stays ended."""


def boot_of(netns: int | None, boot_id: str) -> str:
    """Cookies of other namespaces mean nothing after a reboot: what concerns them is bound to this boot."""
    return "" if netns is None else boot_id


def block_key(row: BlockRow) -> Key:
    """What names a block: CONTRACT's (uid, name, source), where, its kind and ports, as the file has them."""
    return (
        "blocks",
        row.uid,
        to_signed(row.netns),
        to_name(row.name),
        to_bytes(row.source),
        row.kind,
        to_ports(row.ports),
    )


def put_block(row: BlockRow, boot_id: str) -> Statement:
    """Add or replace a block."""
    return Statement(
        sql="INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        parameters=(
            row.uid,
            to_signed(row.netns),
            to_name(row.name),
            to_bytes(row.source),
            row.kind,
            to_ports(row.ports),
            row.since_ns,
            row.until_ns,
            row.mode,
            None if row.rule is None else to_bytes(row.rule),
            to_bytes(row.reason),
            row.level,
            render_json(row.ranges),
            boot_of(row.netns, boot_id),
            render_json(row.ids),
        ),
    )


def delete_block(key: Key) -> Statement:
    """End a block.

    Args:
        key: From `block_key`.
    """
    _, uid, netns, name, source, kind, ports = key
    return Statement(
        sql="DELETE FROM blocks WHERE uid = ? AND netns = ? AND name = ? AND source = ? AND kind = ? AND ports = ?",
        parameters=(uid, netns, name, source, kind, ports),
    )


def put_allowance(row: AllowanceRow) -> Statement:
    """Add or replace an allowance."""
    return Statement(
        sql="INSERT OR REPLACE INTO allowances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        parameters=(
            row.uid,
            to_name(row.name),
            row.since_ns,
            row.until_ns,
            row.max_count,
            row.window_ns,
            to_bytes(row.by),
            to_bytes(row.reason),
            int(row.everything),
        ),
    )


def delete_allowance(uid: int, name: str | None) -> Statement:
    """End an allowance."""
    return Statement(sql="DELETE FROM allowances WHERE uid = ? AND name = ?", parameters=(uid, to_name(name)))


def put_switch(row: SwitchRow) -> Statement:
    """Set a switch."""
    return Statement(
        sql="INSERT OR REPLACE INTO switches VALUES (?, ?, ?, ?)",
        parameters=(row.name, row.since_ns, row.until_ns, to_bytes(row.by)),
    )


def delete_switch(name: str) -> Statement:
    """Clear a switch."""
    return Statement(sql="DELETE FROM switches WHERE name = ?", parameters=(name,))


def put_fact(name: str, value: str) -> Statement:
    """Remember a fact about this host."""
    return Statement(sql="INSERT OR REPLACE INTO facts VALUES (?, ?)", parameters=(name, to_bytes(value)))


def put_escalation(row: EscalationRow) -> Statement:
    """Remember how often somebody was blocked."""
    return Statement(
        sql="INSERT OR REPLACE INTO escalation VALUES (?, ?, ?, ?)",
        parameters=(row.uid, to_name(row.name), row.level, row.last_ns),
    )


def delete_escalation(uid: int, name: str | None) -> Statement:
    """Forget it."""
    return Statement(sql="DELETE FROM escalation WHERE uid = ? AND name = ?", parameters=(uid, to_name(name)))


def put_window(row: WindowRow, boot_id: str) -> Statement:
    """Keep a window, or forget an empty one."""
    key = (row.uid, to_signed(row.netns), to_bytes(row.rule))
    if row.data is None:
        return Statement(sql="DELETE FROM windows WHERE uid = ? AND netns = ? AND rule = ?", parameters=key)
    return Statement(
        sql="INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?, ?)",
        parameters=(*key, row.data, row.offset_ns, boot_of(row.netns, boot_id)),
    )


def put_incident(row: IncidentRow) -> Statement:
    """Add or replace an incident."""
    return Statement(
        sql="INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        parameters=(
            row.uid,
            to_signed(row.netns),
            to_name(row.name),
            row.first_ns,
            row.last_ns,
            row.verdicts,
            row.connects,
            row.refused,
            row.peak_per_minute,
            row.destinations,
            render_json(row.rules),
            row.told_ns,
        ),
    )


def add_verdict(row: VerdictRow) -> Statement:
    """Add a verdict to the history."""
    return Statement(
        sql="INSERT INTO verdicts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        parameters=(
            row.time_ns,
            row.uid,
            to_signed(row.netns),
            to_name(row.name),
            to_bytes(row.rule),
            row.count,
            row.limit,
            row.window_ns,
            row.action,
            row.until_ns,
            row.mode,
            to_bytes(row.why_dry),
            render_json(row.evidence),
        ),
    )


def add_change(row: ChangeRow) -> Statement:
    """Add to the history of what was done."""
    return Statement(
        sql="INSERT INTO changes VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
        parameters=(
            row.time_ns,
            row.uid,
            to_name(row.name),
            row.event,
            to_bytes(row.by),
            row.until_ns,
            to_bytes(row.reason),
        ),
    )


def add_minute(minute: int, uid: int, *, connects: int, refused: int, messages: int, recipients: int) -> Statement:
    """Add to a user's figures of one minute (minutes since the epoch)."""
    return Statement(
        sql=(
            "INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (minute, uid) DO UPDATE SET"
            " connects = connects + excluded.connects, refused = refused + excluded.refused,"
            " messages = messages + excluded.messages, recipients = recipients + excluded.recipients"
        ),
        parameters=(minute, uid, connects, refused, messages, recipients),
    )


def add_destination(
    day: int, uid: int, address: bytes, port: int, script: bytes, *, first_ns: int, last_ns: int, connects: int,
    refused: int,
) -> Statement:  # fmt: skip
    """Add to where a user's script went on one day (days since the epoch)."""
    return Statement(
        sql=(
            "INSERT INTO destinations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (day, uid, address, port, script) DO UPDATE SET"
            " last_ns = max(last_ns, excluded.last_ns), connects = connects + excluded.connects,"
            " refused = refused + excluded.refused"
        ),
        parameters=(day, uid, address, port, script, first_ns, last_ns, connects, refused),
    )


def put_seen(uid: int, port: int, last_ns: int) -> Statement:
    """Remember when a user last connected to a port (rules with `novel`)."""
    return Statement(
        sql=(
            "INSERT INTO seen VALUES (?, ?, ?)"
            " ON CONFLICT (uid, port) DO UPDATE SET last_ns = max(last_ns, excluded.last_ns)"
        ),
        parameters=(uid, port, last_ns),
    )
