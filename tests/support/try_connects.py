"""`try_connects.py ADDRESS PORT`: for each line of uids on stdin, one line that says for each whether it was refused.

The socket is made with the user's file system uid, which is what nftables looks at; nothing else of the user is needed.
"""

import json
import os
import socket
import sys


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    for line in sys.stdin:
        print(json.dumps([is_refused(uid, address, port) for uid in json.loads(line)]), flush=True)


def is_refused(uid: int, address: str, port: int) -> bool:
    os.seteuid(uid)
    try:
        sock = socket.socket()
    finally:
        os.seteuid(0)
    with sock:
        sock.settimeout(5)
        try:
            sock.connect((address, port))
        except ConnectionRefusedError:
            return True
    return False


if __name__ == "__main__":
    main()
