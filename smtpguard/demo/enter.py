"""`python -m smtpguard.demo.enter`: run a program inside the laboratory.

Joins a cgroup and a network namespace, lays files such as passwd over the host's in a private mount namespace, then
executes the program. A program of its own, so that the laboratory needs no code between fork and exec.
"""

import argparse
import os
import signal

from smtpguard.demo import namespaces


def main() -> None:
    """Read the arguments, enter, execute."""
    parser = argparse.ArgumentParser(prog="smtpguard.demo.enter", description=__doc__)
    parser.add_argument("--net", help="path of the network namespace")
    parser.add_argument("--cgroup", help="cgroup v2 directory to join")
    parser.add_argument(
        "--bind", action="append", default=[], metavar="TARGET=SOURCE", help="file or directory to lay over another"
    )
    parser.add_argument("argv", nargs="+")
    args = parser.parse_args()
    namespaces.die_with_parent(signal.SIGKILL)
    if args.cgroup:
        namespaces.enter_cgroup(args.cgroup)
    if args.net:
        namespaces.enter_net(args.net)
    if args.bind:
        namespaces.bind_files(dict(pair.split("=", 1) for pair in args.bind))
    os.execvp(args.argv[0], args.argv)  # noqa: S606 - the point of this program


if __name__ == "__main__":
    main()
