"""What is to be told and has not been yet, and what was told: a file of its own, so that a SIGKILL loses nothing.

SQLite, one transaction for each occasion; a power cut alone may lose the last ones (synchronous = NORMAL). It is
bounded: messages by number, the file by size; what has no room is dropped and counted. A file that can't be used is set
aside and begun anew; where none can be had, memory has to do.
"""

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from smtpguard.notify.own_file import MAX_PAGES, open_own_file

MAX_MESSAGES = 1000
"""For each channel: 30 an hour for a day are 720, if nothing can be sent. One that is full is in nobody's way."""
_PAGES_EACH = 8192
"""A message with the longest paths and twenty others in it is 30 kB."""
_MAX_TOLD = 50_000
_COLUMNS = "id, channel, thread, kind, made_s"
_CREATE = """
CREATE TABLE IF NOT EXISTS messages (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, channel TEXT NOT NULL, thread TEXT NOT NULL,
  kind TEXT NOT NULL, body TEXT NOT NULL, made_s REAL NOT NULL, UNIQUE (id, channel));
CREATE TABLE IF NOT EXISTS told (name TEXT PRIMARY KEY, time_s REAL NOT NULL, at_once INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """Something for one channel.

    Attributes:
        seq: Its place in the order; 0 until it is in the file.
        id: Its own for ever, the same on all channels.
        channel: To whom.
        thread: What it belongs to: messages of one thread are sent in order.
        kind: See settings.notify.Kind.
        body: What is sent, as JSON.
        made_s: When it was made, seconds since the epoch.
    """

    id: str
    channel: str
    thread: str
    kind: str
    body: str
    made_s: float
    seq: int = 0


class Spool:
    """The file. Its methods may be called from any thread.

    Args:
        path: Where it is, or is made.

    Attributes:
        trouble: Why it is not kept as it should be; None if it is.
        dropped: Messages that had no room.
    """

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self.dropped = 0
        self._connection, self.trouble = open_own_file(path, _CREATE)

    def add(
        self,
        messages: Iterable[Letter] = (),
        *,
        told: Mapping[str, bool] | None = None,
        facts: Mapping[str, object] | None = None,
        now_s: float = 0,
    ) -> None:
        """Keep all of it, or nothing. Raises sqlite3.Error.

        Args:
            messages: To be sent. Those that are there already are passed over.
            told: Names of what is dealt with; whether it was told at once.
            facts: Name to JSON value.
            now_s: Seconds since the epoch.
        """
        with self._lock, self._connection as connection:
            counts = dict(connection.execute("SELECT channel, count(*) FROM messages GROUP BY channel").fetchall())
            for message in messages:
                if counts.get(message.channel, 0) >= MAX_MESSAGES:
                    self.dropped += 1
                    continue
                done = connection.execute(
                    f"INSERT OR IGNORE INTO messages ({_COLUMNS}, body) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - names
                    (message.id, message.channel, message.thread, message.kind, message.made_s, message.body),
                )
                counts[message.channel] = counts.get(message.channel, 0) + done.rowcount
            rows = [(name, now_s, at_once) for name, at_once in (told or {}).items()]
            connection.executemany("INSERT OR REPLACE INTO told VALUES (?, ?, ?)", rows)
            values = [(name, json.dumps(value)) for name, value in (facts or {}).items()]
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", values)

    def list_waiting(self, channel: str) -> list[Letter]:
        """What is to be sent on a channel, in order; without bodies."""
        query = f"SELECT seq, {_COLUMNS} FROM messages WHERE channel = ? ORDER BY seq"  # noqa: S608 - names
        with self._lock:
            rows = self._connection.execute(query, (channel,)).fetchall()
        return [
            Letter(seq=seq, id=name, channel=to, thread=thread, kind=kind, made_s=made_s, body="")
            for seq, name, to, thread, kind, made_s in rows
        ]

    def read_body(self, seq: int) -> str | None:
        """What is sent; None if it is gone."""
        with self._lock:
            row = self._connection.execute("SELECT body FROM messages WHERE seq = ?", (seq,)).fetchone()
        return None if row is None else str(row[0])

    def remove(self, seq: int) -> None:
        """It was sent, or is given up."""
        with self._lock, self._connection as connection:
            connection.execute("DELETE FROM messages WHERE seq = ?", (seq,))

    def keep_channels(self, channels: Iterable[str]) -> None:
        """Forget what was for channels that are no more."""
        kept = list(channels)
        marks = ", ".join("?" * len(kept))
        with self._lock, self._connection as connection:
            connection.execute(f"DELETE FROM messages WHERE channel NOT IN ({marks})", kept)  # noqa: S608 - marks
        with self._lock:
            self._connection.execute(f"PRAGMA max_page_count = {max(MAX_PAGES, _PAGES_EACH * len(kept))}")

    def count_waiting(self) -> int:
        """How many messages wait."""
        with self._lock:
            return int(self._connection.execute("SELECT count(*) FROM messages").fetchone()[0])

    def was_told(self, name: str) -> bool:
        """Whether something is dealt with."""
        with self._lock:
            return self._connection.execute("SELECT 1 FROM told WHERE name = ?", (name,)).fetchone() is not None

    def count_at_once(self, since_s: float) -> int:
        """How many messages were made since then that could not wait."""
        query = "SELECT count(*) FROM told WHERE at_once AND time_s > ?"
        with self._lock:
            return int(self._connection.execute(query, (since_s,)).fetchone()[0])

    def count_named(self, prefix: str, since_s: float) -> int:
        """How much with a name that begins so is dealt with since then.

        Args:
            prefix: Ends with a space.
            since_s: Seconds since the epoch.
        """
        query = "SELECT count(*) FROM told WHERE name >= ? AND name < ? AND time_s > ?"
        with self._lock:
            return int(self._connection.execute(query, (prefix, f"{prefix[:-1]}!", since_s)).fetchone()[0])

    def read_fact(self, name: str) -> Any:  # noqa: ANN401 - a JSON value
        """A value; None if there is none."""
        with self._lock:
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def believe_clock(self, now_s: float) -> None:
        """What is of a time to come was kept by a clock that was wrong: it is as if it were of now."""
        with self._lock, self._connection as connection:
            connection.execute("UPDATE told SET time_s = ? WHERE time_s > ?", (now_s, now_s))
            connection.execute("UPDATE messages SET made_s = ? WHERE made_s > ?", (now_s, now_s))

    def forget_before(self, time_s: float) -> None:
        """Forget what was told before, and what is more than the bound."""
        with self._lock, self._connection as connection:
            connection.execute("DELETE FROM told WHERE time_s < ?", (time_s,))
            connection.execute(
                "DELETE FROM told WHERE name IN (SELECT name FROM told ORDER BY time_s DESC LIMIT -1 OFFSET ?)",
                (_MAX_TOLD,),
            )

    def close(self) -> None:
        """No more."""
        with self._lock:
            self._connection.close()
