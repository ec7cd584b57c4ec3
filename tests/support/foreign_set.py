"""`foreign_set.py COUNT RATE`: somebody else's set of so many intervals, one of them changed RATE times a second.

Says "ready" when it is filled. A line `heal UID` on stdin: deletes our table, and says after how many seconds it is
back with this uid in it; `bulk COUNT`: adds so many at once, and says how long that took. Ends with stdin.
"""

import subprocess
import sys
import threading
import time

from smtpguard.decode.netlink.nft_numbers import Kind, render_delete_table, render_names
from smtpguard.kernel.nft.access import NetlinkNft, NftError, read_set
from smtpguard.kernel.nft.wire import render_create, render_delete

TABLE, NAME = "foreign", "listed"
CHUNK = 50_000


def main() -> None:
    count, rate = int(sys.argv[1]), float(sys.argv[2])
    text = f"table inet {TABLE} {{\n\tset {NAME} {{\n\t\ttype ipv4_addr; flags interval;\n\t}}\n}}\n"
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
    way = NetlinkNft()
    for begin in range(0, count, CHUNK):
        numbers = range(begin, min(begin + CHUNK, count))
        way.transact(render_create(TABLE, NAME, ((16 * n + 1, 16 * n + 9, None, "") for n in numbers), 4))
    threading.Thread(target=change, args=(1 / rate,), daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        what, number = line.split()
        print(heal(way, int(number)) if what == "heal" else fill_at_once(way, int(number)), flush=True)


def change(pause_s: float) -> None:
    way = NetlinkNft()
    while True:
        way.transact(render_create(TABLE, NAME, [(0xFFFF_FF00, 0xFFFF_FF0F, None, "")], 4))
        time.sleep(pause_s)
        way.transact(render_delete(TABLE, NAME, [(0xFFFF_FF00, 0xFFFF_FF0F)], 4))
        time.sleep(pause_s)


def fill_at_once(way: NetlinkNft, count: int) -> float:
    """Seconds of one transaction of so many elements."""
    changes = render_create(
        TABLE, NAME, ((0x8000_0000 + 16 * n, 0x8000_0009 + 16 * n, None, "") for n in range(count)), 4
    )
    begun = time.monotonic()
    way.transact(changes)
    return time.monotonic() - begun


def heal(way: NetlinkNft, uid: int) -> float:
    begun = time.monotonic()
    way.transact(render_delete_table("smtpguard"))
    while time.monotonic() < begun + 10:
        try:
            way.get(Kind.GETSET, render_names("smtpguard", "blocked"), dump=False)
            if any(first <= uid <= last for first, last, *_ in read_set(way, "smtpguard", "blocked")):
                return time.monotonic() - begun
        except NftError:
            pass
        time.sleep(0.001)
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
