"""`knock.py UID ADDRESS`: as a user, connects to closed ports as lines `PORT COUNT PER_S` (0: no pause) on stdin say.

Answers each line with the nanoseconds of a connect(): of its CPU, what interrupts take meanwhile included, and by the
clock.
"""

import contextlib
import os
import socket
import sys
import time


def knock(target: tuple[str, int], count: int, per_s: int) -> tuple[int, int]:
    cpu = wall = 0
    for _ in range(count):
        if per_s:
            time.sleep(1 / per_s)
        begun, wall_begun = time.process_time_ns(), time.perf_counter_ns()
        with socket.socket() as sock, contextlib.suppress(ConnectionRefusedError):
            sock.connect(target)
        wall += time.perf_counter_ns() - wall_begun
        cpu += time.process_time_ns() - begun
    return cpu // count, wall // count


def main() -> None:
    uid, address = int(sys.argv[1]), sys.argv[2]
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    for line in sys.stdin:
        port, count, per_s = (int(word) for word in line.split())
        print(*knock((address, port), count, per_s), flush=True)


if __name__ == "__main__":
    main()
