"""A tenant's program that lies about itself: `hostile.py --uid N --comm HEX --cwd HEX ADDRESS PORT`.

Takes a process name and a working directory of arbitrary bytes, connects, and stays until it is ended, so that
whoever looks at it finds the lie.
"""

import argparse
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

PR_SET_NAME = 15


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--comm", default="")
    parser.add_argument("--cwd", default="")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    if args.cwd:
        path = os.fsdecode(bytes.fromhex(args.cwd))
        Path(path).mkdir(0o755)
        os.chdir(path)
    os.setgroups([])
    os.setgid(args.uid)
    os.setuid(args.uid)
    if args.comm:
        ctypes.CDLL(None).prctl(PR_SET_NAME, ctypes.c_char_p(bytes.fromhex(args.comm)), 0, 0, 0)
    with socket.socket() as sock:
        sock.connect((args.address, args.port))
        sys.stdout.write("connected\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
