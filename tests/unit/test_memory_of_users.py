"""What a user takes in the engine: a host has a thousand of them, and the daemon 40 MB (tests/bench/test_daemon.py)."""

import gc
import tracemalloc

from smtpguard.policy.engine import Engine
from tests.support.policy import People, connect
from tests.support.simulation import shipped_settings

USERS = 1000
MAX_BYTES = 5500
"""Of one user with eight attempts at two ports under the shipped rules, and their account: 4,800 today, once 6,600."""


def bring(engine: Engine, first_uid: int, users: int) -> None:
    for number in range(users):
        for turn in range(8):
            address = bytes([198, 18, number % 256, turn])
            port = 25 if turn % 2 else 587
            assert not engine.feed(connect(number / 100 + turn / 1000, first_uid + number, port=port, address=address))
        if number % 100 == 99:
            engine.memory.export()


def test_a_user_takes_five_kilobytes() -> None:
    engine = Engine(settings=shipped_settings(), directory=People(), why_exempt=lambda _: None)
    tracemalloc.start()
    try:
        bring(engine, 1001, 100)  # what all of them share
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        bring(engine, 62_000, USERS)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    each = (after - before) / USERS
    print(f"\na user takes {each:.0f} bytes")
    assert each < MAX_BYTES
