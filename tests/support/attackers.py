"""What hostile tenants run, for more than one test."""

import sys

from tests.support.host import Host

FLOOD = """
import os, socket, sys, time
uid, seconds, address = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
os.setgroups([]); os.setgid(uid); os.setuid(uid)
end, count = time.monotonic() + seconds, 0
print("flooding", flush=True)
while time.monotonic() < end:
    for _ in range(100):
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex((address, 25))
            count += 1
print(count, flush=True)
"""
"""Connects at full speed: uid, seconds, address. Says `flooding`, and at its end how many they were."""

CROWD = """
import os, resource, socket, sys, time
main = os.getpid()
def stay():
    while os.getpid() == main or os.getppid() == main:
        time.sleep(0.1)
    os._exit(0)
role, uid, count, port, addresses = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
share = most - 100
if role != "connect":
    server = socket.create_server(("", port), backlog=4096)
    for first in range(0, count, share):
        if os.fork() == 0:
            server.settimeout(60)
            kept = [server.accept() for _ in range(min(share, count - first))]
            stay()
    server.close()
if role == "serve":
    print("open", flush=True)
    stay()
told, tell = os.pipe()
shares = [min(share, count - first) for first in range(0, count, share)]
for each in shares:
    if os.fork() == 0:
        os.setgroups([]); os.setgid(uid); os.setuid(uid)
        kept = []
        for number in range(each):
            client = socket.socket()
            client.connect((addresses[number % len(addresses)], port))
            kept.append(client)
        os.write(tell, b"x")
        stay()
for _ in shares:
    os.read(told, 1)
print("open", flush=True)
stay()
"""
"""Opens idle sessions and stays: role, uid, count, port, addresses. Says `open`."""


def begin_crowd(
    host: Host, uid: int, count: int, addresses: list[str], *, port: int = 25, at_peer: bool = False
) -> None:
    """Open so many idle sessions.

    Args:
        host: The guarded host.
        uid: Whose they are.
        count: How many.
        addresses: Where to, in turn.
        port: To which port.
        at_peer: Whether they are taken there, and not on the host itself.
    """
    args = [str(uid), str(count), str(port), *addresses]
    for role in ("serve", "connect") if at_peer else ("both",):
        words = [sys.executable, "-c", CROWD, role, *args]
        net = host.lab.peer if role == "serve" else None
        child = host.lab.start(words, net=net) if net else host.lab.start(words, inside=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"


def make_deep_folder(host: Host) -> tuple[str, str]:
    """A folder whose name is as long as they come and hostile: from where, and its path from there."""
    deep = host.lab.directory / "site"
    for part in range(12):
        deep = deep / (chr(97 + part) + "\x01" * 250)
    deep.mkdir(parents=True)
    # Nothing else there: the guard's files come and go.
    for path in (host.lab.directory, host.lab.directory / "site", *(host.lab.directory / "site").rglob("*")):
        path.chmod(0o755)
    return str(host.lab.directory), str(deep.relative_to(host.lab.directory))
