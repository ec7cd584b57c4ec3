"""`python -m smtpguard.demo.client`: a tenant's program of the laboratory. Becomes a user and opens connections.

`connect` opens connections at a rate and prints one JSON object: how many came through, how many were refused and
with which error, and the number of the first refused one. `session` opens one connection, prints `open`, talks every
50 ms and prints `reset ERRNO` when it breaks, or `alive` at the end.
"""

import argparse
import errno
import json
import socket
import sys
import time
from collections import Counter

from smtpguard.demo import namespaces

_TIMEOUT_S = 5
_MADE_UP_S = 0.01


def _open(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(_TIMEOUT_S)
    try:
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _deliver(sock: socket.socket) -> None:
    """One mail, as a spam script would send it."""
    for line in (
        b"EHLO shop.example\r\nMAIL FROM:<a@example>\r\nRCPT TO:<b@example>\r\nDATA\r\n",
        b"Hi\r\n.\r\nQUIT\r\n",
    ):
        sock.sendall(line)
    while sock.recv(4096):
        pass


def connect(args: argparse.Namespace) -> dict[str, object]:
    """Open `count` connections at `rate` a second; the outcome of each is counted."""
    outcome: Counter[str] = Counter()
    first_refused: int | None = None
    passed: list[int] = []
    start = due = time.monotonic()
    for number in range(args.count):
        if args.rate and number:
            # What the machine made late for longer is not made up for: that would be a burst at full speed.
            due = max(due + 1 / args.rate, time.monotonic() - _MADE_UP_S)
            time.sleep(max(0.0, due - time.monotonic()))
        try:
            with _open(args.to[number % len(args.to)], args.port) as sock:
                if args.deliver:
                    _deliver(sock)
            outcome["ok"] += 1
            passed.append(number)
        except OSError as error:
            outcome[errno.errorcode.get(error.errno or 0, type(error).__name__)] += 1
            if first_refused is None:
                first_refused = number
    return {
        "ok": outcome.pop("ok", 0),
        "errors": dict(outcome),
        "refused": outcome.total(),
        "first_refused": first_refused,
        "passed": passed if args.list_passed else None,
        "seconds": round(time.monotonic() - start, 6),
    }


def session(args: argparse.Namespace) -> str:
    """Keep one connection open and talking for `seconds`."""
    with _open(args.to[0], args.port) as sock:
        print("open", flush=True)  # noqa: T201 - a program of its own
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            try:
                sock.sendall(b"NOOP\r\n")
                if not sock.recv(4096):
                    return "closed"
            except OSError as error:
                return f"reset {errno.errorcode.get(error.errno or 0, type(error).__name__)}"
            time.sleep(0.05)
    return "alive"


def main() -> None:
    """Become the user, do it, say what happened."""
    parser = argparse.ArgumentParser(prog="smtpguard.demo.client", description=__doc__)
    parser.add_argument("what", choices=["connect", "session"])
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--port", type=int, default=25)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0, help="connections a second; 0 is as fast as it goes")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--deliver", action="store_true", help="hand over a mail each time")
    parser.add_argument("--list-passed", action="store_true")
    parser.add_argument("to", nargs="+", help="literal addresses, taken in turn")
    args = parser.parse_args()
    if args.uid:
        namespaces.become(args.uid)
    if args.what == "session":
        print(session(args), flush=True)  # noqa: T201 - a program of its own
    else:
        json.dump(connect(args), sys.stdout)


if __name__ == "__main__":
    main()
