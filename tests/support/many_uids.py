"""One connection from each of many uids: `many_uids.py FIRST COUNT ADDRESS PORT`. Prints how many came through."""

import os
import socket
import sys


def main() -> None:
    first, count, address, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    passed = 0
    for uid in range(first, first + count):
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket() as sock:
                os._exit(sock.connect_ex((address, port)) != 0)
        _, status = os.waitpid(pid, 0)
        passed += status == 0
    print(passed)


if __name__ == "__main__":
    main()
