"""Listens to nftables until stdin ends; then prints, of each transaction, how many elements it added to which sets."""

import json
import select
import socket
import sys
from collections import Counter

from smtpguard.decode.netlink.messages import list_attributes, split_attributes, split_messages
from smtpguard.decode.netlink.nft_numbers import SUBSYSTEM, Kind

_NETLINK_NETFILTER, _GROUP_NFTABLES = 12, 7
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_NEWGEN = 15


def main() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 256 << 20)
        sock.bind((0, 0))
        sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        print("ready", flush=True)
        transactions: list[dict[str, int]] = []
        added: Counter[str] = Counter()
        while True:
            readable, _, _ = select.select([sock, sys.stdin], [], [])
            if sock in readable:
                for message in split_messages(sock.recv(1 << 20)):
                    if message.type == SUBSYSTEM << 8 | _NEWGEN:
                        transactions.append(dict(added))
                        added.clear()
                    elif message.type == SUBSYSTEM << 8 | Kind.NEWSETELEM:
                        attributes = split_attributes(message.body[4:])
                        name = bytes(attributes[2]).rstrip(b"\0").decode()
                        added[name] += len(list(list_attributes(attributes[3])))
            elif sys.stdin in readable:
                break
        print(json.dumps(transactions), flush=True)


if __name__ == "__main__":
    main()
