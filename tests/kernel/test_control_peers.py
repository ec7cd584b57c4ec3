"""Who may use the control socket: real users and groups, judged by the kernel's word."""

import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from smtpguard.control import admission
from smtpguard.control import connection as control_connection
from smtpguard.control import server as control
from smtpguard.control.answer import Answer
from smtpguard.control.client import ask
from smtpguard.control.connection import Peer
from smtpguard.control.protocol import Json
from smtpguard.control.server import ControlServer
from smtpguard.errors import NoDaemonError, PrivilegeError
from smtpguard.model import NS
from tests.fakes.namespaces import run_forked

pytestmark = pytest.mark.kernel

MEMBER, STRANGER, GROUP = 61011, 61012, 61050


def handle(peer: Peer, verb: str, args: Json) -> Answer:
    del args
    return {"verb": verb, "uid": peer.uid, "name": peer.name}


@pytest.fixture
def path() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="smtpguard-test-")
    Path(directory).chmod(0o755)
    yield f"{directory}/control.sock"
    shutil.rmtree(directory)


@pytest.fixture
def server(path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlServer]:
    monkeypatch.setattr(control, "read_gid", lambda group: {"operators": GROUP}[group])
    server = ControlServer(
        path, group="operators", verbs=["status", "blocks"], handler=handle, names={MEMBER: "op"}.get
    )
    server.open()
    stopping = threading.Event()

    def loop() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            while not stopping.is_set():
                if selector.select(0.02):
                    server.serve(0)

    thread = threading.Thread(target=loop)
    thread.start()
    yield server
    stopping.set()
    thread.join()
    server.close()


def become(uid: int, gid: int, groups: Sequence[int] = ()) -> None:
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def test_root_may_do_everything(server: ControlServer, path: str) -> None:
    assert ask(path, "off")["uid"] == 0
    assert server.stats.refused == 0


@pytest.mark.parametrize(("gid", "groups"), [(GROUP, []), (MEMBER, [GROUP]), (MEMBER, [*range(62_000, 62_200), GROUP])])
def test_a_member_may_do_what_is_listed(server: ControlServer, path: str, gid: int, groups: list[int]) -> None:
    def body() -> None:
        become(MEMBER, gid, groups)
        assert ask(path, "status") == {"verb": "status", "uid": MEMBER, "name": "op"}
        for verb in ("off", "unblock", "allow", ""):
            with pytest.raises(PrivilegeError, match="for root"):
                ask(path, verb)

    run_forked(body)
    assert server.stats.refused == 4


@pytest.mark.usefixtures("server")
def test_a_stranger_does_not_even_connect(path: str) -> None:
    def body() -> None:
        become(STRANGER, STRANGER)
        with pytest.raises(PrivilegeError, match="not for this user"):
            ask(path, "status")

    run_forked(body)


def test_without_a_group_only_root_connects_and_a_reload_changes_that(server: ControlServer, path: str) -> None:
    def refused() -> None:
        become(MEMBER, GROUP)
        with pytest.raises(PrivilegeError):
            ask(path, "status")

    def welcome() -> None:
        become(MEMBER, GROUP)
        assert ask(path, "unblock")["uid"] == MEMBER
        with pytest.raises(PrivilegeError):
            ask(path, "status")

    server.configure(group=None, verbs=["status"])
    run_forked(refused)
    server.configure(group="operators", verbs=["unblock"])
    run_forked(welcome)


def test_a_member_who_floods_leaves_room_for_root(
    server: ControlServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_connection, "IDLE_NS", 600 * NS)  # who is let in stays, however long this takes

    def body() -> None:
        become(MEMBER, GROUP)
        held = []
        for _ in range(200):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            held.append(connection)
        for connection in held[admission.MAX_CLIENTS_OF_UID :]:
            connection.settimeout(20)
            assert b"too many connections" in connection.recv(4096)
        for connection in held[: admission.MAX_CLIENTS_OF_UID]:
            connection.settimeout(0)
            with pytest.raises(BlockingIOError):
                connection.recv(4096)

    run_forked(body)
    assert server.stats.busy == 200 - admission.MAX_CLIENTS_OF_UID
    assert ask(path, "status")["uid"] == 0


def test_a_tenant_can_not_stand_in_for_the_daemon(path: str) -> None:
    directory = Path(path).parent
    directory.chmod(0o777)
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        become(STRANGER, STRANGER)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        os.write(write_fd, b"x")
        while True:
            signal.pause()  # until the parent ends us
    try:
        assert os.read(read_fd, 1) == b"x"
        with pytest.raises(PrivilegeError, match=f"belongs to uid {STRANGER}"):
            ask(path, "status")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(read_fd)
        os.close(write_fd)
    with pytest.raises(NoDaemonError):
        ask(path, "status")


def test_asking_imports_nothing_heavy() -> None:
    script = (
        "import sys, smtpguard.control.client;"
        "heavy = {'sqlite3', 'selectors', 'subprocess', 'asyncio', 'yaml', 'rich', 'jsonschema', 'logging', 'ctypes'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout in ("[]\n", "['selectors']\n")  # socket itself needs selectors
