"""`try_connects.py ADDRESS`: for each line of [uid, port] pairs on stdin, a line that says what refused each, or "".

The socket is made with the user's file system uid, which is what nftables looks at, and connected as the user, which is
what BPF looks at; nothing else of the user is needed. BPF answers with EPERM, nftables with a reset; where
packets are dropped nobody answers.
"""

import json
import os
import socket
import sys


def main() -> None:
    address = sys.argv[1]
    for line in sys.stdin:
        print(json.dumps([find_refusal(uid, address, port) for uid, port in json.loads(line)]), flush=True)


def find_refusal(uid: int, address: str, port: int) -> str:
    os.setresuid(uid, uid, 0)
    try:
        with socket.socket() as sock:
            sock.settimeout(5)
            sock.connect((address, port))
    except ConnectionRefusedError:
        return "nft"
    except PermissionError:
        return "bpf"
    except TimeoutError:
        return "nobody answers"
    finally:
        os.setresuid(0, 0, 0)
    return ""


if __name__ == "__main__":
    main()
