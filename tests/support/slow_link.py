"""A link with a delay between two network namespaces, where the kernel has no netem: two tun devices, and a thread that
carries each packet from one to the other some milliseconds later."""

import fcntl
import os
import select
import struct
import threading
import time
from collections import deque

from tests.support.netlab import inside, run

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


def open_tun(netns: str, name: str) -> int:
    """A tun device of a namespace; its descriptor."""
    with inside(netns):
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


class SlowLink:
    """The link; `delay_s` one way. Close it before the namespaces go."""

    def __init__(
        self, client: str, server: str, *, addresses: dict[str, tuple[str, ...]], delay_s: float = 0.005
    ) -> None:
        self._ends = [open_tun(client, "slow0"), open_tun(server, "slow0")]
        for netns in (client, server):
            for address in addresses[netns]:
                run("ip", "-n", netns, "address", "add", address, "dev", "slow0")
            run("ip", "-n", netns, "link", "set", "slow0", "mtu", "1400", "up")
        self._delay_s = delay_s
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        poll = select.poll()
        for descriptor in (*self._ends, self._stop):
            poll.register(descriptor, select.POLLIN)
        under_way: deque[tuple[float, int, bytes]] = deque()
        while True:
            wait_ms = None if not under_way else max(0.0, (under_way[0][0] - time.monotonic()) * 1000)
            for descriptor, _ in poll.poll(wait_ms):
                if descriptor == self._stop:
                    return
                other = self._ends[1 - self._ends.index(descriptor)]
                while True:
                    try:
                        packet = os.read(descriptor, 4096)
                    except BlockingIOError:
                        break
                    under_way.append((time.monotonic() + self._delay_s, other, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, descriptor, packet = under_way.popleft()
                os.write(descriptor, packet)

    def close(self) -> None:
        """End it."""
        os.eventfd_write(self._stop, 1)
        self._thread.join(10)
        for descriptor in (*self._ends, self._stop):
            os.close(descriptor)
