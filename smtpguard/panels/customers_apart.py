"""Has whose accounts are read in a process of its own: 20,000 files are nothing for the guard's memory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from smtpguard.errors import SourceError
from smtpguard.interpreter import module_argv, module_environment

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read.

    Attributes:
        text: A table of accounts.
        problems: What of them is not in it and why, for people.
    """

    text: bytes
    problems: tuple[str, ...] = ()


def read_apart(command: Sequence[str] = (), *, timeout_s: float = TIMEOUT_S) -> Reading:
    """What the panel of this host, or a command, says, read in a child; may take as long.

    Args:
        command: Its argv; empty for the panel.
        timeout_s: How long at most.

    Raises:
        GuardError: It can't be had; says why.
    """
    import subprocess  # a host without a panel never needs it

    try:
        done = subprocess.run(
            module_argv("smtpguard.panels.customer_reader", *command),
            env=module_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=True,
        )
        head, _, text = done.stdout.partition(b"\n")
        told = json.loads(head)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SourceError(f"whose accounts are can't be read: {type(error).__name__}") from error
    if "error" in told:
        raise SourceError(told["error"])
    return Reading(text, tuple(told["problems"]))
