"""The process that reads whose accounts are, for `customers_apart.py`; and what it reads.

`python -P -m smtpguard.panels.customer_reader [COMMAND...]` is that process. It gives up all privileges but reading
where a panel's files are not root's, and writes a line of JSON, what is wrong, and a table (customer_table.py).
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from smtpguard.errors import DecodeError, GuardError, SourceError
from smtpguard.kernel.capabilities import apply_capabilities
from smtpguard.model import Customer
from smtpguard.panels import cpanel, directadmin, hestia, plesk, virtualmin
from smtpguard.panels.command import parse_accounts, run_program
from smtpguard.panels.customer_table import MAX_ACCOUNTS, MAX_BYTES, MAX_DOMAINS, CustomerTable, merge, render_table
from smtpguard.panels.customers_apart import Reading
from smtpguard.panels.known_panels import find_panel
from smtpguard.panels.panel_files import PanelFiles

_PRIORITY = 10
"""nice(2) value: nothing waits for it, and the guard's own is better than that of others."""
_FEW_DOMAINS = 500
"""Of those who have most, where all together are too many."""
_NAMED = 10
_SYSTEM = frozenset(range(1, 1000))
"""Uids and gids that no login of people's has: another one is trusted with nothing."""


class ReadCustomers(Protocol):
    """Reads a panel's files."""

    def __call__(self, files: PanelFiles, /) -> Iterable[tuple[str, Customer]]:
        """All accounts, by login name; one may come more than once."""
        ...


_READERS: dict[str, ReadCustomers] = {
    "cPanel": cpanel.read_customers,
    "DirectAdmin": directadmin.read_customers,
    "HestiaCP": hestia.read_customers,
    "Virtualmin": virtualmin.read_customers,
}


def read_here(command: Sequence[str] = (), *, root: Path = Path("/")) -> Reading:
    """The same in this process.

    Args:
        command: Its argv; empty for the panel.
        root: Where the host's file system is.

    Raises:
        GuardError: It can't be had; says why.
    """
    if command:
        try:
            found = merge(parse_accounts(run_program(command)))
        except DecodeError as error:
            raise SourceError(str(error), where=command[0]) from error
        return _render("command", found, [])
    panel = find_panel(root)
    if panel is None:
        return Reading(CustomerTable().text)
    if panel.has_command:
        printed = run_program((str(root / plesk.PROGRAM), *plesk.ARGUMENTS))
        return _render(panel.name, merge(plesk.parse_customers(printed.decode("utf-8", "surrogateescape"))), [])
    owners, groups = _find_owner(panel.owner, root)
    files = PanelFiles(root=root, owners=owners, groups=groups)
    found = merge(_READERS[panel.name](files))
    more = files.refused - len(files.problems)
    return _render(panel.name, found, [*files.problems, *([f"and {more} more"] if more > 0 else [])])


def _render(panel: str, found: dict[str, Customer], problems: list[str]) -> Reading:
    if len(found) > MAX_ACCOUNTS:
        problems.append(f"{len(found) - MAX_ACCOUNTS} accounts are too many and not known")
    text = render_table(panel, found)
    if len(text) > MAX_BYTES:
        problems.extend(_cut(found, len(text) - MAX_BYTES))
        text = render_table(panel, found)
    if len(text) > MAX_BYTES:
        raise SourceError(f"accounts and domains are more than {MAX_BYTES >> 20} MB", where=panel)
    return Reading(text, tuple(problems))


def _cut(found: dict[str, Customer], too_much: int) -> list[str]:
    """Forget domains of those that have most, so that nobody's many make others unknown; says whose."""
    sizes = {user: sum(map(len, customer.domains[:MAX_DOMAINS])) for user, customer in found.items()}
    cut: list[str] = []
    for user in sorted(sizes, key=lambda user: -sizes[user]):
        if too_much <= 0:
            break
        customer = found[user]
        found[user] = replace(customer, domains=customer.domains[:_FEW_DOMAINS])
        too_much -= sizes[user] - sum(map(len, found[user].domains))
        cut.append(user)
    named = [f"{user}: has too many domains, {_FEW_DOMAINS} are known" for user in cut[:_NAMED]]
    more = len(cut) - _NAMED
    return [*named, *([f"and {more} more have too many domains"] if more > 0 else [])]


def _find_owner(name: str, root: Path) -> tuple[frozenset[int], frozenset[int]]:
    """Uid and gid of a panel's system account, by /etc/passwd; nobody's where it has none, or one of people's."""
    with (root / "etc/passwd").open("rb") as file:
        for line in file:
            fields = line.split(b":")
            if name and len(fields) == 7 and fields[0] == name.encode() and fields[2].isdigit() and fields[3].isdigit():
                uid, gid = int(fields[2]), int(fields[3])
                return frozenset({uid} & _SYSTEM), frozenset({gid} & _SYSTEM)
    return frozenset(), frozenset()


def main() -> None:
    """The child."""
    command = sys.argv[1:]
    out = sys.stdout.buffer
    try:
        panel = None if command else find_panel()
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
        apply_capabilities({"DAC_READ_SEARCH"} if panel is not None and panel.needs_reading else ())
        reading = read_here(command)
        out.write(json.dumps({"problems": reading.problems}).encode() + b"\n" + reading.text)
    except GuardError as error:
        out.write(json.dumps({"error": str(error)}).encode() + b"\n")
    except MemoryError:
        out.write(json.dumps({"error": "there is not enough memory for it"}).encode() + b"\n")


if __name__ == "__main__":
    main()
