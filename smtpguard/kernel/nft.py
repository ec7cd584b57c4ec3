"""Hands nft's language to the kernel: by libnftables in this process, else by the `nft` program. Decides nothing.

libnftables answers in text only, so failures are told apart by their words; those were read off nft 1.0.6 and the
kernel's errno texts, which do not change with the locale here (no setlocale in process, LC_ALL=C for the program).
The contexts of libnftables are not thread safe (shared by four threads one crashed): each thread has its own.
"""

import os
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from smtpguard.errors import EnforceError, PrivilegeError
from smtpguard.kernel.nft_wire import ElementWriter, NewElement

COMMAND_TIMEOUT_S = 20.0
_CAP_NET_ADMIN = 12
_MAX_ANSWER = 300
_MAX_OWN_PIDS = 64


class NftError(EnforceError):
    """nft or the kernel refused a transaction; nothing of it was done.

    Attributes:
        missing: A table, set, chain or element is not there.
        present: It is there already, or in another shape.
        overlap: An interval overlaps with one that is there.
        full: The set has no room.
    """

    def __init__(self, answer: str, *, where: str | None = None, fix: str | None = None) -> None:
        lines = [line.strip() for line in answer.strip().splitlines()]
        first = next((line for line in lines if "Error:" in line), lines[0] if lines else "nft failed without a word")
        super().__init__(first[:_MAX_ANSWER], where=where, fix=fix)
        self.missing = "No such file" in answer or "element does not exist" in answer
        self.overlap = "interval overlaps" in answer
        self.present = "File exists" in answer
        self.full = "Too many open files in system" in answer
        self.unsupported = "not supported" in answer or "Device or resource busy" in answer


class Nft(Protocol):
    """Something that runs commands of nft's language, all or nothing."""

    def run(self, text: str) -> str:
        """Run one transaction, or one `list` command; its output.

        Raises:
            NftError: It was refused.
            PrivilegeError: CAP_NET_ADMIN is lacking.
        """
        ...

    def create(self, table: str, name: str, elements: Sequence[NewElement]) -> bool:
        """The fast way to put new elements into a uid set; False if that did not work, and `run` is to be asked."""
        ...


class LibraryNft:
    """libnftables in this process, one context per thread. Network namespace: the thread's at its first call."""

    def __init__(self) -> None:
        try:
            import nftables
        except ImportError as error:
            raise EnforceError(
                "the Python binding of libnftables is missing", fix="pip install oxl-libnftables"
            ) from error
        self._factory = nftables.Nftables
        self._threads = threading.local()
        self._checked = False
        try:
            self._context()
        except (OSError, AttributeError) as error:
            raise EnforceError(
                f"libnftables.so.1 can't be loaded: {error}", fix="apt-get install libnftables1, or nftables on EL"
            ) from error

    def run(self, text: str) -> str:
        """Run it in this thread's context."""
        if not self._checked:
            # Without the capability libnftables itself writes to stderr, where a command's one line is to be.
            if not _has_net_admin():
                raise _refused("Operation not permitted")
            self._checked = True
        code, output, answer = self._context().cmd(text)
        if code != 0:
            raise _refused(answer)
        return str(output)

    def create(self, table: str, name: str, elements: Sequence[NewElement]) -> bool:
        """By nfnetlink without libnftables: 25 us where that takes 200."""
        writer = getattr(self._threads, "writer", None)
        if writer is None:
            try:
                writer = self._threads.writer = ElementWriter()
            except OSError:
                return False
        return bool(writer.create(table, name, elements))

    def _context(self) -> Any:  # noqa: ANN401 - the binding has no types
        context = getattr(self._threads, "context", None)
        if context is None:
            context = self._threads.context = self._factory()
        return context


class CommandNft:
    """The `nft` program: some 1 ms a call, for hosts without the library.

    Args:
        argv: The program; a prefix such as nsenter(1)'s takes it into another network namespace.

    Attributes:
        own_pids: Of the last calls, to tell our own changes from others' when the kernel tells them.
    """

    def __init__(self, argv: Sequence[str] = ("nft",)) -> None:
        self._argv = tuple(argv)
        self.own_pids: deque[int] = deque(maxlen=_MAX_OWN_PIDS)

    def run(self, text: str) -> str:
        """Run it as `nft -f -`."""
        command = [*self._argv, "-f", "-"]
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise EnforceError(f"there is no program {command[0]}", fix="install the package nftables") from None
        self.own_pids.append(child.pid)
        with child:
            try:
                output, answer = child.communicate(text, timeout=COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                raise EnforceError(f"nft gave no answer within {COMMAND_TIMEOUT_S:.0f} s") from None
        if child.returncode != 0:
            raise _refused(answer or output)
        return output

    def create(self, table: str, name: str, elements: Sequence[NewElement]) -> bool:
        """No faster way: the program may work in another network namespace than we."""
        del table, name, elements
        return False


def open_nft() -> tuple[Nft, str | None]:
    """The best way to nft on this host, and what is lacking for a better one (for `doctor`).

    Raises:
        EnforceError: Neither the library nor the program is there. (The program's absence shows at its first use.)
    """
    try:
        return LibraryNft(), None
    except EnforceError as error:
        return CommandNft(), f"{error}; each change costs an nft process, some 2 ms"


def render_remove(table: str) -> str:
    """Commands that delete a table, whether or not it is there, and nothing else."""
    return f"table inet {table} {{ }}\ndelete table inet {table}\n"


def _has_net_admin() -> bool:
    """Whether this process may try; capabilities(7), CapEff in proc_pid_status(5)."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:
        return True
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "ffffffff")
    return bool(int(mask, 16) >> _CAP_NET_ADMIN & 1)


def _refused(answer: str) -> NftError | PrivilegeError:
    if "Operation not permitted" in answer:
        return PrivilegeError("nftables may not be changed or read", fix="run as root, or with CAP_NET_ADMIN")
    return NftError(answer)
