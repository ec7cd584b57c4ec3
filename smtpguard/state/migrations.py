"""The schema of the state file, one migration a version, each in a transaction of its own.

Times are nanoseconds since the epoch (wall time): the only clock that means anything after a reboot. Text that tenants
or people wrote (names, reasons, paths) is BLOB, as it need not be UTF-8; an empty one is "no name". `netns` is 0
for the namespace the guard watches. Needs nothing newer than SQLite 3.26 (RHEL 8).
"""

import sqlite3

from smtpguard.errors import StateError

_FIRST = """
CREATE TABLE blocks (
  uid INTEGER NOT NULL, netns INTEGER NOT NULL, name BLOB NOT NULL, source BLOB NOT NULL, kind TEXT NOT NULL,
  since_ns INTEGER NOT NULL, until_ns INTEGER NOT NULL, mode TEXT NOT NULL, rule BLOB, reason BLOB NOT NULL,
  level INTEGER NOT NULL, ranges TEXT NOT NULL, boot TEXT NOT NULL,
  PRIMARY KEY (uid, netns, name, source, kind)
) WITHOUT ROWID;

CREATE TABLE allowances (
  uid INTEGER NOT NULL, name BLOB NOT NULL, since_ns INTEGER NOT NULL, until_ns INTEGER NOT NULL,
  max_count INTEGER, window_ns INTEGER, by BLOB NOT NULL, reason BLOB NOT NULL,
  PRIMARY KEY (uid, name)
) WITHOUT ROWID;

CREATE TABLE switches (
  name TEXT NOT NULL PRIMARY KEY, since_ns INTEGER NOT NULL, until_ns INTEGER, by BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE escalation (
  uid INTEGER NOT NULL, name BLOB NOT NULL, level INTEGER NOT NULL, last_ns INTEGER NOT NULL,
  PRIMARY KEY (uid, name)
) WITHOUT ROWID;

CREATE TABLE windows (
  uid INTEGER NOT NULL, netns INTEGER NOT NULL, rule BLOB NOT NULL, data BLOB NOT NULL, offset_ns INTEGER NOT NULL,
  boot TEXT NOT NULL,
  PRIMARY KEY (uid, netns, rule)
) WITHOUT ROWID;

CREATE TABLE verdicts (
  id INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, uid INTEGER NOT NULL, netns INTEGER NOT NULL, name BLOB NOT NULL,
  rule BLOB NOT NULL, count INTEGER NOT NULL, max_count INTEGER NOT NULL, window_ns INTEGER NOT NULL,
  action TEXT NOT NULL, until_ns INTEGER, mode TEXT NOT NULL, why_dry BLOB NOT NULL, evidence TEXT NOT NULL
);
CREATE INDEX verdicts_by_uid ON verdicts (uid, time_ns);
CREATE INDEX verdicts_by_time ON verdicts (time_ns);

CREATE TABLE changes (
  id INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, uid INTEGER, name BLOB NOT NULL, event TEXT NOT NULL,
  by BLOB NOT NULL, until_ns INTEGER, reason BLOB NOT NULL
);
CREATE INDEX changes_by_uid ON changes (uid, time_ns);
CREATE INDEX changes_by_time ON changes (time_ns);

CREATE TABLE incidents (
  uid INTEGER NOT NULL, netns INTEGER NOT NULL, name BLOB NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
  verdicts INTEGER NOT NULL, connects INTEGER NOT NULL, refused INTEGER NOT NULL, peak_per_minute INTEGER NOT NULL,
  destinations INTEGER NOT NULL, rules TEXT NOT NULL, told_ns INTEGER,
  PRIMARY KEY (uid, netns, first_ns)
) WITHOUT ROWID;
CREATE INDEX incidents_by_time ON incidents (last_ns);

CREATE TABLE minutes (
  minute INTEGER NOT NULL, uid INTEGER NOT NULL, connects INTEGER NOT NULL, refused INTEGER NOT NULL,
  messages INTEGER NOT NULL, recipients INTEGER NOT NULL,
  PRIMARY KEY (minute, uid)
) WITHOUT ROWID;
CREATE INDEX minutes_by_uid ON minutes (uid, minute);

CREATE TABLE destinations (
  day INTEGER NOT NULL, uid INTEGER NOT NULL, address BLOB NOT NULL, port INTEGER NOT NULL, script BLOB NOT NULL,
  first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, connects INTEGER NOT NULL, refused INTEGER NOT NULL,
  PRIMARY KEY (day, uid, address, port, script)
) WITHOUT ROWID;
CREATE INDEX destinations_by_uid ON destinations (uid, day);

CREATE TABLE seen (
  uid INTEGER NOT NULL, port INTEGER NOT NULL, last_ns INTEGER NOT NULL,
  PRIMARY KEY (uid, port)
) WITHOUT ROWID;
"""

_IDS_OF_BLOCKS = """
ALTER TABLE blocks ADD COLUMN ids TEXT NOT NULL DEFAULT '[]';
"""

_FACTS = """
CREATE TABLE facts (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""

_PORTS_OF_BLOCKS = """
CREATE TABLE blocks_of_ports (
  uid INTEGER NOT NULL, netns INTEGER NOT NULL, name BLOB NOT NULL, source BLOB NOT NULL, kind TEXT NOT NULL,
  ports TEXT NOT NULL, since_ns INTEGER NOT NULL, until_ns INTEGER NOT NULL, mode TEXT NOT NULL, rule BLOB,
  reason BLOB NOT NULL, level INTEGER NOT NULL, ranges TEXT NOT NULL, boot TEXT NOT NULL, ids TEXT NOT NULL,
  PRIMARY KEY (uid, netns, name, source, kind, ports)
) WITHOUT ROWID;
INSERT INTO blocks_of_ports SELECT uid, netns, name, source, kind, '', since_ns, until_ns, mode, rule, reason, level,
  ranges, boot, ids FROM blocks;
DROP TABLE blocks;
ALTER TABLE blocks_of_ports RENAME TO blocks;
"""
"""`ports` is empty for all, else the ports in order, joined by commas: other ports are another row. The
columns of the key come first: quick_check of SQLite 3.40 takes them for the first ones."""

_EVERYTHING = """
ALTER TABLE allowances ADD COLUMN everything INTEGER NOT NULL DEFAULT 1;
"""
"""What was allowed before was allowed everything."""

_RECORD = """
ALTER TABLE changes ADD COLUMN details TEXT NOT NULL DEFAULT '{}';
ALTER TABLE incidents ADD COLUMN mode TEXT NOT NULL DEFAULT 'dry-run';
ALTER TABLE incidents ADD COLUMN is_over INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN tops TEXT NOT NULL DEFAULT '{}';
CREATE TABLE outcomes (
  day INTEGER NOT NULL, uid INTEGER NOT NULL, address BLOB NOT NULL, port INTEGER NOT NULL,
  connected INTEGER NOT NULL, failed INTEGER NOT NULL, error TEXT, error_ns INTEGER NOT NULL,
  PRIMARY KEY (day, uid, address, port)
) WITHOUT ROWID;
CREATE INDEX outcomes_by_uid ON outcomes (uid, day);
CREATE TABLE own_addresses (
  day INTEGER NOT NULL, uid INTEGER NOT NULL, address BLOB NOT NULL, connected INTEGER NOT NULL,
  last_ns INTEGER NOT NULL,
  PRIMARY KEY (day, uid, address)
) WITHOUT ROWID;
CREATE TABLE watched (since_ns INTEGER NOT NULL PRIMARY KEY, until_ns INTEGER NOT NULL) WITHOUT ROWID;
"""
"""`outcomes` and `own_addresses` say what became of connections that were let through; `watched` from when to when a
source saw them: what lies between is not known."""

_PLACES_BY_HOUR = """
ALTER TABLE destinations RENAME COLUMN day TO hour;
UPDATE destinations SET hour = first_ns / 3600000000000;
ALTER TABLE outcomes RENAME COLUMN day TO hour;
UPDATE outcomes SET hour = hour * 24;
"""
"""A day of 24 hours begins at midnight UTC, and the administrator's does not; theirs may have 23 or 25."""

_OWN_BY_HOUR = """
DROP TABLE own_addresses;
CREATE TABLE own_addresses (
  hour INTEGER NOT NULL, uid INTEGER NOT NULL, address BLOB NOT NULL, connected INTEGER NOT NULL,
  failed INTEGER NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
  PRIMARY KEY (hour, uid, address)
) WITHOUT ROWID;
CREATE INDEX own_addresses_by_uid ON own_addresses (uid, hour);
"""
"""By the hour, because a block list says when. The table was empty until then: nothing told of addresses."""

_LOSSES = """
CREATE TABLE losses (
  minute INTEGER NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL, last_ns INTEGER NOT NULL,
  PRIMARY KEY (minute, kind)
) WITHOUT ROWID;
"""

MIGRATIONS: tuple[str, ...] = (
    _FIRST,
    _IDS_OF_BLOCKS,
    _FACTS,
    _PORTS_OF_BLOCKS,
    _EVERYTHING,
    _RECORD,
    _PLACES_BY_HOUR,
    _OWN_BY_HOUR,
    _LOSSES,
)
"""SQL that leads from version N to N + 1. Append only: files out there hold every version."""

VERSION = len(MIGRATIONS)


class NewerVersionError(StateError):
    """The file was written by a newer smtpguard; it is left as it is."""


def check_version(connection: sqlite3.Connection, newest: int = VERSION) -> int:
    """The version a file holds; 0 for a new one.

    Raises:
        NewerVersionError: The file is newer than this program.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > newest:
        raise NewerVersionError(f"its version is {version}, this program knows {newest}")
    return version


def migrate(connection: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> int:
    """Bring the schema up to date; a migration that fails leaves its predecessor's schema.

    Args:
        connection: In autocommit mode (isolation_level None).
        migrations: All migrations, oldest first.

    Returns:
        How many were run.

    Raises:
        NewerVersionError: The file is newer than this program.
        sqlite3.Error: What SQLite said.
    """
    begun = check_version(connection, len(migrations))
    for version, script in enumerate(migrations[begun:], start=begun + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # executescript() would commit first; the statements hold no literal semicolons.
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    return len(migrations) - begun
