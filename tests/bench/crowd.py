"""Many users, a few connections each: `crowd.py COUNT`. Forked, because each becomes somebody else for good."""

import os
import socket
import sys

FIRST_UID = 62_000
CONNECTIONS = 8


def main() -> None:
    for number in range(int(sys.argv[1])):
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setgid(FIRST_UID + number)
            os.setuid(FIRST_UID + number)
            for turn in range(CONNECTIONS):
                with socket.socket() as sock:
                    sock.connect((f"198.18.{number % 256}.{turn}", 25 if turn % 2 else 587))
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
