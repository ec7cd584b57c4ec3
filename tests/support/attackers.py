"""What hostile tenants run, for more than one test."""

import subprocess
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
uid, count, addresses = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
server = socket.create_server(("", 25), backlog=4096)
share = most - 100
for first in range(0, count, share):
    if os.fork() == 0:
        server.settimeout(20)
        kept = [server.accept() for _ in range(min(share, count - first))]
        stay()
server.close()
while count > share:  # the rest is another process's
    count -= share
    if os.fork() == 0:
        count = share
        break
os.setgroups([]); os.setgid(uid); os.setuid(uid)
kept = []
for number in range(count):
    client = socket.socket()
    client.connect((addresses[number % len(addresses)], 25))
    kept.append(client)
if os.getpid() == main:
    print("open", flush=True)
stay()
"""
"""Opens idle sessions to port 25 of this host and stays: uid, count, addresses. Says `open`."""


def begin_crowd(host: Host, uid: int, count: int, addresses: list[str]) -> None:
    """Open so many idle sessions."""
    words = [sys.executable, "-c", CROWD, str(uid), str(count), *addresses]
    child = host.lab.start(words, inside=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"


def make_deep_folder(host: Host) -> tuple[str, str]:
    """A folder whose name is as long as they come and hostile: from where, and its path from there."""
    deep = host.lab.directory / "site"
    for part in range(12):
        deep = deep / (chr(97 + part) + "\x01" * 250)
    deep.mkdir(parents=True)
    subprocess.run(["chmod", "-R", "755", str(host.lab.directory)], check=True)
    return str(host.lab.directory), str(deep.relative_to(host.lab.directory))
