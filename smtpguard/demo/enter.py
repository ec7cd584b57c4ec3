"""`python .../enter.py [--net PATH] [--cgroup PATH] [--bind TARGET=SOURCE]... -- PROGRAM [ARGUMENT]...`: run it inside.

Joins a cgroup and a network namespace, lays files such as passwd over the host's in a private mount namespace, then
executes the program. A program of its own, so that the laboratory needs no code between fork and exec. It is run
thousands of times by the tests: argparse, pathlib, signal and `-m` would take two thirds of its 25 ms.
"""

import os
import sys

from smtpguard.demo import namespaces

_SIGKILL = 9


def enter(words: list[str]) -> list[str]:
    """Enter what the arguments name; returns the program and its own arguments."""
    end = words.index("--")
    given = [*zip(words[:end:2], words[1:end:2], strict=True)]
    namespaces.die_with_parent(_SIGKILL)
    for option, path in given:
        if option == "--cgroup":
            namespaces.enter_cgroup(path)
        elif option == "--net":
            namespaces.enter_net(path)
    binds = dict(pair.split("=", 1) for option, pair in given if option == "--bind")
    if binds:
        namespaces.bind_files(binds)
    return words[end + 1 :]


def main() -> None:
    """Read the arguments, enter, execute."""
    program = enter(sys.argv[1:])
    os.execvp(program[0], program)  # noqa: S606 - the point of this program


if __name__ == "__main__":
    main()
