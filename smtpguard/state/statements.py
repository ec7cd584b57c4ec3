"""Every statement that changes the state file. Parameters only, never text: names and reasons are hostile."""

from functools import cache
from typing import assert_never

from smtpguard.model import Block
from smtpguard.settings import MINUTE_NS
from smtpguard.state.columns import Key, Parameters, Statement, render_json, to_name, to_ports, to_signed
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.rows import (
    AllowanceRow,
    BlockRow,
    ChangeRow,
    EscalationRow,
    FactRow,
    SwitchRow,
    VerdictRow,
    WindowRow,
)
from smtpguard.text import to_bytes

KeptRow = BlockRow | AllowanceRow | SwitchRow | EscalationRow | FactRow
"""What must not be lost: written at once, and again to a file that is begun anew."""
KeyedRow = KeptRow | IncidentRow | WindowRow
HistoryRow = VerdictRow | ChangeRow

_KEYS = {
    "blocks": ("uid", "netns", "name", "source", "kind", "ports"),
    "allowances": ("uid", "name"),
    "switches": ("name",),
    "escalation": ("uid", "name"),
    "facts": ("name",),
    "incidents": ("uid", "netns", "first_ns"),
    "windows": ("uid", "netns", "rule"),
}
"""Table to the columns that name a row of it."""
_NOBODYS = frozenset({"switches", "facts"})
KEPT = frozenset({"blocks", "allowances", "switches", "escalation", "facts"})
"""The tables of what must not be lost."""
EMPTY_KEPT = tuple(Statement(sql=f"DELETE FROM {table}", parameters=()) for table in sorted(KEPT))  # noqa: S608 - constants
"""Before all that is known is written again, to a file that may be an old copy: what ended stays ended."""


def key_of(row: KeyedRow) -> Key:
    """What names a row."""
    match row:
        case BlockRow():
            where = (to_signed(row.netns), to_name(row.name), to_bytes(row.source), row.kind, to_ports(row.ports))
            return ("blocks", row.uid, *where)
        case AllowanceRow():
            return ("allowances", row.uid, to_name(row.name))
        case EscalationRow():
            return escalation_key(row.uid, row.name)
        case SwitchRow():
            return switch_key(row.name)
        case FactRow():
            return ("facts", 0, row.name)
        case IncidentRow():
            return ("incidents", row.uid, to_signed(row.netns), row.first_ns)
        case WindowRow():
            return ("windows", row.uid, to_signed(row.netns), to_bytes(row.rule))
        case _:
            assert_never(row)


def block_key(block: Block) -> Key:
    """What names a block: CONTRACT's (uid, name, source), where, its kind and ports."""
    return key_of(BlockRow.of(block, 0))


def escalation_key(uid: int, name: str | None) -> Key:
    """What names the memory of a user's blocks."""
    return ("escalation", uid, to_name(name))


def switch_key(name: str) -> Key:
    """What names a switch."""
    return ("switches", 0, name)


def put(row: KeyedRow, boot_id: str) -> Statement:
    """Add or replace a row; a window that is empty is deleted.

    Args:
        row: The row.
        boot_id: This boot.
    """
    if isinstance(row, WindowRow) and row.data is None:
        return delete(key_of(row))
    key = key_of(row)
    return _insert("INSERT OR REPLACE", str(key[0]), _values(row, key[1:], boot_id))


def delete(key: Key) -> Statement:
    """Delete a row.

    Args:
        key: What names it.
    """
    table = str(key[0])
    where = " AND ".join(f"{column} = ?" for column in _KEYS[table])
    parameters = key[2:] if table in _NOBODYS else key[1:]
    return Statement(sql=f"DELETE FROM {table} WHERE {where}", parameters=parameters)  # noqa: S608 - constants


def add(row: HistoryRow) -> Statement:
    """Add to the history of verdicts, or of what was done."""
    if isinstance(row, ChangeRow):
        change = (row.time_ns, row.uid, to_name(row.name), row.event, to_bytes(row.by), row.until_ns)
        return _insert("INSERT", "changes", (None, *change, to_bytes(row.reason), render_json(row.details)))
    verdict: Parameters = (
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
    )
    return _insert("INSERT", "verdicts", (None, *verdict))


def _insert(verb: str, table: str, values: Parameters) -> Statement:
    return Statement(sql=_render_insert(verb, table, len(values)), parameters=values)


@cache
def _render_insert(verb: str, table: str, columns: int) -> str:
    return f"{verb} INTO {table} VALUES ({', '.join('?' * columns)})"


def _values(row: KeyedRow, key: Key, boot_id: str) -> Parameters:
    """All columns of a row, in the order of the table's."""
    match row:
        case BlockRow():
            return (
                *key,
                row.since_ns,
                row.until_ns,
                row.mode,
                None if row.rule is None else to_bytes(row.rule),
                to_bytes(row.reason),
                row.level,
                render_json(row.ranges),
                _boot_of(row.netns, boot_id),
                render_json(row.ids),
            )
        case AllowanceRow():
            limit = (row.max_count, row.window_ns)
            return (*key, row.since_ns, row.until_ns, *limit, to_bytes(row.by), to_bytes(row.reason), row.everything)
        case SwitchRow():
            return (row.name, row.since_ns, row.until_ns, to_bytes(row.by))
        case EscalationRow():
            return (*key, row.level, row.last_ns)
        case FactRow():
            return (row.name, to_bytes(row.value))
        case WindowRow():
            return (*key, row.data, row.offset_ns, _boot_of(row.netns, boot_id))
        case IncidentRow():
            figures = (row.verdicts, row.connects, row.refused, row.peak_per_minute, row.destinations)
            rules = render_json(row.rules)
            more = (row.mode, row.is_over, render_json(row.tops))
            return (*key[:2], to_name(row.name), row.first_ns, row.last_ns, *figures, rules, row.told_ns, *more)
        case _:
            assert_never(row)


def _boot_of(netns: int | None, boot_id: str) -> str:
    """Cookies of other namespaces mean nothing after a reboot: what concerns them is bound to this boot."""
    return "" if netns is None else boot_id


def add_evidence(row: VerdictRow) -> Statement:
    """What was found out about a verdict that is in the history already."""
    return Statement(
        sql="UPDATE verdicts SET evidence = ? WHERE uid = ? AND time_ns = ? AND netns = ? AND rule = ?",
        parameters=(render_json(row.evidence), row.uid, row.time_ns, to_signed(row.netns), to_bytes(row.rule)),
    )


def put_watched(since_ns: int, until_ns: int) -> Statement:
    """A source saw connections from one time to another."""
    return Statement(sql="INSERT OR REPLACE INTO watched VALUES (?, ?)", parameters=(since_ns, until_ns))


def add_loss(wall_ns: int, kind: str, count: int) -> Statement:
    """Add to what was lost in the minute of a moment."""
    return Statement(
        sql=(
            "INSERT INTO losses VALUES (?, ?, ?, ?) ON CONFLICT (minute, kind) DO UPDATE SET"
            " count = count + excluded.count, last_ns = excluded.last_ns"
        ),
        parameters=(wall_ns // MINUTE_NS, kind, count, wall_ns),
    )


def add_outcome(
    hour: int, uid: int, address: bytes, port: int, *, connected: int, failed: int, error: str | None, error_ns: int
) -> Statement:
    """Add to what became of a user's connections to one place in one hour (hours since the epoch)."""
    return Statement(
        sql=(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hour, uid, address, port) DO UPDATE SET"
            " connected = connected + excluded.connected, failed = failed + excluded.failed,"
            " error = CASE WHEN excluded.error_ns >= error_ns THEN excluded.error ELSE error END,"
            " error_ns = max(error_ns, excluded.error_ns)"
        ),
        parameters=(hour, uid, address, port, connected, failed, error, error_ns),
    )


def add_own_address(
    hour: int, uid: int, address: bytes, *, connected: int, failed: int, first_ns: int, last_ns: int
) -> Statement:
    """Add to the connections that a user made from one of the host's own addresses in one hour (since the epoch)."""
    return Statement(
        sql=(
            "INSERT INTO own_addresses VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hour, uid, address) DO UPDATE SET"
            " connected = connected + excluded.connected, failed = failed + excluded.failed,"
            " first_ns = min(first_ns, excluded.first_ns), last_ns = max(last_ns, excluded.last_ns)"
        ),
        parameters=(hour, uid, address, connected, failed, first_ns, last_ns),
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
    hour: int, uid: int, address: bytes, port: int, script: bytes, *, first_ns: int, last_ns: int, connects: int,
    refused: int,
) -> Statement:  # fmt: skip
    """Add to where a user's script went in one hour (hours since the epoch)."""
    return Statement(
        sql=(
            "INSERT INTO destinations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (hour, uid, address, port, script) DO UPDATE SET"
            " first_ns = min(first_ns, excluded.first_ns), last_ns = max(last_ns, excluded.last_ns),"
            " connects = connects + excluded.connects,"
            " refused = refused + excluded.refused"
        ),
        parameters=(hour, uid, address, port, script, first_ns, last_ns, connects, refused),
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
