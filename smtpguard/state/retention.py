"""How long the state file keeps what: old history goes, and when room is short, the least telling history first.

In steps of a few thousand rows, so that no step holds the file for long. Running blocks, allowances and switches are
never touched. What one user does never costs another theirs: the rows of each user are bounded per day.
"""

import sqlite3

from smtpguard.settings import DAY_NS, HOUR_NS, MINUTE_NS

STEP_ROWS = 2000
"""At most so many rows of one table are deleted in one step: some 10 ms."""
MAX_DESTINATIONS_PER_DAY = 6000
"""Rows per user and day that are kept of where they went in which hour, and of what became of it: the busiest ones."""
MAX_OWN_ADDRESSES_PER_DAY = 24 * 64
"""The same of the host's own addresses: IPV6_FREEBIND lets a tenant claim any number."""
MEMORY_NS = 30 * DAY_NS
"""How long at least it is remembered who was blocked before (`escalation.forget`) and who has sent (`novel`)."""
_CROWDED: tuple[tuple[str, str, int, str, str], ...] = (
    # table, its column of time, how much of that is a day, what else names a user's row, what makes it worth keeping
    ("destinations", "hour", 24, "address, port, script", "connects, last_ns"),
    ("outcomes", "hour", 24, "address, port", "connected + failed, error_ns"),
    ("own_addresses", "hour", 24, "address", "connected, failed, last_ns"),
)

_AGES: tuple[tuple[str, str, str, int], ...] = (
    # table, its key, the column that says how old a row is, that column's unit in nanoseconds
    ("blocks", "uid, netns, name, source, kind", "until_ns", 1),
    ("allowances", "uid, name", "until_ns", 1),
    ("escalation", "uid, name", "last_ns", 1),
    ("seen", "uid, port", "last_ns", 1),
    ("verdicts", "id", "time_ns", 1),
    ("changes", "id", "time_ns", 1),
    ("incidents", "uid, netns, first_ns", "last_ns", 1),
    ("minutes", "minute, uid", "minute", MINUTE_NS),
    ("destinations", "hour, uid, address, port, script", "hour", HOUR_NS),
    ("outcomes", "hour, uid, address, port", "hour", HOUR_NS),
    ("own_addresses", "hour, uid, address", "hour", HOUR_NS),
    ("watched", "since_ns", "until_ns", 1),
    ("losses", "minute, kind", "minute", MINUTE_NS),
)
_ROOM = ("destinations", "outcomes", "own_addresses", "minutes", "verdicts", "incidents", "changes")
"""Whose oldest rows go when room is short, in this order."""


def delete_old(connection: sqlite3.Connection, *, now_ns: int, keep_ns: int) -> int:
    """Delete what is older than it is kept, and where users went beyond their share; in a transaction of the caller.

    Args:
        connection: The file.
        now_ns: Wall time.
        keep_ns: How long history is kept.

    Returns:
        How many rows were deleted.
    """
    deleted = sum(
        _delete_before(connection, table, key, column, (now_ns - _kept_ns(table, keep_ns)) // unit_ns)
        for table, key, column, unit_ns in _AGES
    )
    return deleted + _delete_rare(connection, now_ns // DAY_NS, MAX_DESTINATIONS_PER_DAY)


def _kept_ns(table: str, keep_ns: int) -> int:
    """How long a table's rows are kept: what rules ask of the past is no history, and short."""
    return max(keep_ns, MEMORY_NS) if table in ("escalation", "seen") else keep_ns


def delete_for_room(connection: sqlite3.Connection, *, now_ns: int) -> int:
    """Delete some of the oldest history; today's is thinned out evenly, user by user.

    Args:
        connection: The file.
        now_ns: Wall time.

    Returns:
        How many rows were deleted; 0 if there is nothing left to delete.
    """
    ages = {table: (key, column, unit_ns) for table, key, column, unit_ns in _AGES}
    today = now_ns // DAY_NS
    for table in _ROOM:
        key, column, unit_ns = ages[table]
        deleted = _delete_before(connection, table, key, column, today * DAY_NS // unit_ns)
        if deleted:
            return deleted
    share = MAX_DESTINATIONS_PER_DAY
    while share := share // 2:
        deleted = _delete_rare(connection, today, share)
        if deleted:
            return deleted
    return sum(_delete_before(connection, table, *ages[table][:2], now_ns) for table in _ROOM)


def _delete_before(connection: sqlite3.Connection, table: str, key: str, column: str, bound: int) -> int:
    sql = (
        f"DELETE FROM {table} WHERE ({key}) IN"  # noqa: S608 - names are constants of this module
        f" (SELECT {key} FROM {table} WHERE {column} < ? ORDER BY {column} LIMIT ?)"
    )
    return connection.execute(sql, (bound, STEP_ROWS)).rowcount


def _delete_rare(connection: sqlite3.Connection, today: int, share: int) -> int:
    """Thin out where users went today and yesterday, to `share` rows a user and day."""
    deleted = 0
    for table, column, a_day, key, worth in _CROWDED:
        most = min(share, MAX_OWN_ADDRESSES_PER_DAY) if table == "own_addresses" else share
        crowded = connection.execute(
            f"SELECT {column} / {a_day} AS d, uid, count(*) FROM {table} WHERE {column} >= ?"  # noqa: S608 - constants
            " GROUP BY d, uid HAVING count(*) > ?",
            ((today - 1) * a_day, most),
        ).fetchall()
        for day, uid, rows in crowded:
            if deleted >= STEP_ROWS:
                break
            theirs, named = f"{column} >= ? AND {column} < ? AND uid = ?", f"{column}, {key}"
            whose = (day * a_day, (day + 1) * a_day, uid)
            deleted += connection.execute(
                f"DELETE FROM {table} WHERE {theirs} AND ({named}) IN"  # noqa: S608 - constants
                f" (SELECT {named} FROM {table} WHERE {theirs} ORDER BY {worth} LIMIT ?)",
                (*whose, *whose, min(rows - most, STEP_ROWS)),
            ).rowcount
    return deleted
