"""nftables' own language: libnftables in this process, or the `nft` program. For commands, which list and look.

libnftables asks the name service for each uid and reads everybody's sets, so a running guard keeps away from it. It
answers in words, so failures are told apart by them; those were read off nft 1.0.6 and the kernel's errno texts, which
do not change with the locale here (no setlocale in process, LC_ALL=C for the program).
"""

import errno
import os
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from smtpguard.errors import EnforceError, PrivilegeError
from smtpguard.kernel.nft.socket import NftError

COMMAND_TIMEOUT_S = 20.0
_CAP_NET_ADMIN = 12
_MAX_ANSWER = 300
_MAX_OWN_PIDS = 64


class TextNft(Protocol):
    """Something that runs commands of nft's language, all or nothing.

    Attributes:
        in_process: Whether it needs no program and no file once it has run a first command.
    """

    in_process: bool

    def run(self, text: str) -> str:
        """Run one transaction, or one `list` command; its output.

        Raises:
            NftError: It was refused.
            PrivilegeError: CAP_NET_ADMIN is missing.
        """
        ...


class LibraryNft:
    """libnftables in this process, one context per thread (shared by four threads one crashed).

    Network namespace: the thread's at its first call.
    """

    in_process = True

    def __init__(self) -> None:
        try:
            import nftables
        except ImportError as error:
            from smtpguard.interpreter import install_command

            fix = install_command("oxl-libnftables", debian="python3-nftables")
            raise EnforceError("the Python binding of libnftables is missing", fix=fix) from error
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
        own_pids: Of the last calls.
    """

    in_process = False

    def __init__(self, argv: Sequence[str] = ("nft",)) -> None:
        self._argv = tuple(argv)
        self.own_pids: deque[int] = deque(maxlen=_MAX_OWN_PIDS)

    def run(self, text: str) -> str:
        """Run it as `nft -f -`."""
        import subprocess  # commands alone come here, and a guard whose nft compiler fails

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


def open_text_nft() -> TextNft:
    """libnftables, else the program.

    Raises:
        EnforceError: Neither is there. (The program's absence shows at its first use.)
    """
    try:
        return LibraryNft()
    except EnforceError:
        return CommandNft()


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
    lines = [line.strip() for line in answer.strip().splitlines()]
    first = next((line for line in lines if "Error:" in line), lines[0] if lines else "nft failed without a word")
    code = next((code for words, code in _CODES.items() if words in answer), 0)
    return NftError(first[:_MAX_ANSWER], code=code)


_CODES = {
    "No such file": errno.ENOENT,
    "element does not exist": errno.ENOENT,
    "interval overlaps": errno.EEXIST,
    "File exists": errno.EEXIST,
    "Too many open files in system": errno.ENFILE,
    "not supported": errno.EOPNOTSUPP,
    "Device or resource busy": errno.EBUSY,
}
