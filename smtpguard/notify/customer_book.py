"""Which customers are to be told of a block, and when; who was told. A file of its own: a SIGKILL loses nothing.

A letter is one for each incident, waiting or dealt with; a mail is what went to one address for it. What was under way
when the process was killed is taken for sent: a customer rather hears nothing than twice. Beside the state, for root
alone, and kept for 40 days; what users see is in the state's history.
"""

import threading
from dataclasses import dataclass
from typing import Literal

from smtpguard.notify.own_file import open_own_file

MAX_WAITING = 500
"""Letters that wait; one for each user at most."""
_MAX_KEPT = 10_000
_CREATE = """
CREATE TABLE IF NOT EXISTS letters (
  incident TEXT PRIMARY KEY, uid INTEGER NOT NULL, user TEXT NOT NULL, begun_s REAL NOT NULL, due_s REAL NOT NULL,
  done_s REAL, outcome TEXT);
CREATE TABLE IF NOT EXISTS mails (
  incident TEXT NOT NULL, whom TEXT NOT NULL, uid INTEGER NOT NULL, address TEXT NOT NULL, mailbox TEXT NOT NULL,
  time_s REAL NOT NULL, result TEXT NOT NULL, is_noted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (incident, whom));
UPDATE mails SET result = 'perhaps' WHERE result = 'sending';
"""
Whom = Literal["customer", "reseller"]
Result = Literal["sent", "perhaps", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerLetter:
    """A customer who is to be told of an incident.

    Attributes:
        incident: Its name.
        uid, user: Whose it is; the user as the log writes them.
        begun_s: When the block began, seconds since the epoch.
        due_s: When they are told.
    """

    incident: str
    uid: int
    user: str
    begun_s: float
    due_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMail:
    """What went to one address.

    Attributes:
        incident, uid: Over which incident, of whom.
        whom: Whose address it is.
        address: It.
        result: Whether the mail server took it for certain.
    """

    incident: str
    uid: int
    whom: Whom
    address: str
    result: Result


class CustomerBook:
    """The file. Its methods may be called from any thread, and raise sqlite3.Error.

    Args:
        path: Where it is, or is made.

    Attributes:
        trouble: Why it is not kept as it should be; None if it is.
    """

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self._connection, self.trouble = open_own_file(path, _CREATE)

    def add(self, letter: CustomerLetter) -> bool:
        """Have a customer told; not again of the same incident, nor while another letter to them waits.

        Returns:
            False where there is no room.
        """
        values = (letter.incident, letter.uid, letter.user, letter.begun_s, letter.due_s)
        with self._lock, self._connection as connection:
            if self.count_waiting() >= MAX_WAITING:
                return False
            connection.execute(
                "INSERT OR IGNORE INTO letters (incident, uid, user, begun_s, due_s) SELECT ?, ?, ?, ?, ?"
                " WHERE NOT EXISTS (SELECT 1 FROM letters WHERE uid = ? AND user = ? AND outcome IS NULL)",
                (*values, letter.uid, letter.user),
            )
        return True

    def find_next(self) -> CustomerLetter | None:
        """The letter that is due first."""
        columns = "incident, uid, user, begun_s, due_s"
        query = f"SELECT {columns} FROM letters WHERE outcome IS NULL ORDER BY due_s, begun_s LIMIT 1"  # noqa: S608 - names
        with self._lock:
            row = self._connection.execute(query).fetchone()
        if row is None:
            return None
        incident, uid, user, begun_s, due_s = row
        return CustomerLetter(incident=incident, uid=uid, user=user, begun_s=begun_s, due_s=due_s)

    def postpone(self, incident: str, due_s: float) -> None:
        """Tell them later."""
        self._do("UPDATE letters SET due_s = ? WHERE incident = ?", due_s, incident)

    def finish(self, incident: str, outcome: str, now_s: float) -> None:
        """A letter is dealt with."""
        self._do("UPDATE letters SET outcome = ?, done_s = ? WHERE incident = ?", outcome, now_s, incident)

    def drop_waiting(self, outcome: str, now_s: float) -> int:
        """Nobody who waits is told; how many that were."""
        return self._do("UPDATE letters SET outcome = ?, done_s = ? WHERE outcome IS NULL", outcome, now_s)

    def begin_mail(self, letter: CustomerLetter, whom: Whom, address: str, mailbox: str, now_s: float) -> None:
        """From now on a mail may be on its way."""
        self._do(
            "INSERT INTO mails (incident, whom, uid, address, mailbox, time_s, result)"
            " VALUES (?, ?, ?, ?, ?, ?, 'sending')",
            *(letter.incident, whom, letter.uid, address, mailbox, now_s),
        )

    def end_mail(self, incident: str, whom: Whom, result: Result | None) -> None:
        """What came of it; None for nothing: it is not on its way."""
        if result is None:
            self._do("DELETE FROM mails WHERE incident = ? AND whom = ?", incident, whom)
        else:
            self._do("UPDATE mails SET result = ? WHERE incident = ? AND whom = ?", result, incident, whom)

    def find_result(self, incident: str, whom: Whom) -> str | None:
        """What came of the mail to somebody over an incident; None if there was none."""
        with self._lock:
            row = self._connection.execute(
                "SELECT result FROM mails WHERE incident = ? AND whom = ?", (incident, whom)
            ).fetchone()
        return None if row is None else str(row[0])

    def list_times(self, since_s: float) -> list[float]:
        """When mails went out since then, in order."""
        query = "SELECT time_s FROM mails WHERE time_s > ? AND result != 'refused' ORDER BY time_s"
        with self._lock:
            return [row[0] for row in self._connection.execute(query, (since_s,))]

    def count_to(self, since_s: float, *, mailbox: str, whom: Whom) -> int:
        """How many mails went to a mailbox since then, as that of a customer or of a reseller."""
        query = "SELECT count(*) FROM mails WHERE time_s > ? AND mailbox = ? AND whom = ?"
        with self._lock:
            return int(self._connection.execute(query, (since_s, mailbox, whom)).fetchone()[0])

    def count_about(self, since_s: float, *, uid: int, whom: Whom) -> int:
        """How many mails went out about a user since then."""
        query = "SELECT count(*) FROM mails WHERE time_s > ? AND uid = ? AND whom = ?"
        with self._lock:
            return int(self._connection.execute(query, (since_s, uid, whom)).fetchone()[0])

    def list_unnoted(self, since_s: float) -> list[SentMail]:
        """Mails since then that the state's history does not have yet."""
        query = (
            "SELECT incident, uid, whom, address, result FROM mails"
            " WHERE NOT is_noted AND time_s > ? AND result IN ('sent', 'perhaps') ORDER BY time_s LIMIT 100"
        )
        with self._lock:
            rows = self._connection.execute(query, (since_s,)).fetchall()
        return [
            SentMail(incident=incident, uid=uid, whom=whom, address=address, result=result)
            for incident, uid, whom, address, result in rows
        ]

    def note(self, mail: SentMail) -> None:
        """The history has it."""
        self._do("UPDATE mails SET is_noted = 1 WHERE incident = ? AND whom = ?", mail.incident, mail.whom)

    def count_waiting(self) -> int:
        """How many letters wait."""
        with self._lock:
            return int(self._connection.execute("SELECT count(*) FROM letters WHERE outcome IS NULL").fetchone()[0])

    def list_outcomes(self, most: int) -> list[tuple[str, str]]:
        """User and outcome of the last letters that were dealt with, the newest first."""
        query = "SELECT user, outcome FROM letters WHERE outcome IS NOT NULL ORDER BY done_s DESC LIMIT ?"
        with self._lock:
            return [(str(user), str(outcome)) for user, outcome in self._connection.execute(query, (most,))]

    def believe_clock(self, now_s: float) -> None:
        """Mails of a time to come were sent under a clock that was wrong: they are as if they were of now."""
        self._do("UPDATE mails SET time_s = ? WHERE time_s > ?", now_s, now_s)

    def forget_before(self, time_s: float) -> None:
        """Forget what was dealt with before, and what is more than the bound."""
        for table, column in (("letters", "done_s"), ("mails", "time_s")):
            self._do(f"DELETE FROM {table} WHERE {column} < ?", time_s)  # noqa: S608 - names
            newest = f"SELECT rowid FROM {table} ORDER BY {column} IS NULL DESC, {column} DESC LIMIT -1 OFFSET ?"  # noqa: S608
            self._do(f"DELETE FROM {table} WHERE rowid IN ({newest})", _MAX_KEPT)  # noqa: S608 - names

    def close(self) -> None:
        """No more."""
        with self._lock:
            self._connection.close()

    def _do(self, statement: str, *values: str | float) -> int:
        with self._lock, self._connection as connection:
            return connection.execute(statement, values).rowcount
