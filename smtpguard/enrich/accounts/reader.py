"""Reads the host's account files again in a thread: 20,000 accounts take half a second, and the loop must not wait.

The thread makes a whole new `AccountDirectory` and compares; the loop takes it over in one step. Until then the old one
holds.
"""

import contextlib
import os
import threading

from smtpguard.enrich.accounts.directory import AccountDirectory, Renewal
from smtpguard.kernel.lasting_thread import start_thread


class AccountReader:
    """One reading at a time.

    Args:
        accounts: What is kept up to date. Only the loop's thread may change it.
    """

    def __init__(self, accounts: AccountDirectory) -> None:
        self._accounts = accounts
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._found: Renewal | None = None

    @property
    def is_reading(self) -> bool:
        """Whether a reading is under way."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self) -> None:
        """Read, unless it is being read. Raises ThreadError."""
        if not self.is_reading:
            self._thread = start_thread("accounts", self._run)

    def fileno(self) -> int:
        """Readable when `take` has something."""
        return self._wake

    def take(self) -> frozenset[int]:
        """Take over what was read; the uids whose account is another. Empty if there is nothing, or it is outdated."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            found, self._found = self._found, None
        return frozenset() if found is None else self._accounts.adopt(found)

    def close(self) -> None:
        """Forget a reading that is under way; it ends by itself."""
        with self._lock:
            if self._wake >= 0:
                os.close(self._wake)
            self._wake = -1

    def _run(self) -> None:
        found = self._accounts.renew(self._accounts.settings)
        with self._lock:
            self._found = found
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
