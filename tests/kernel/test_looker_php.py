"""Which PHP script made a connection, against a real PHP-FPM 8.2."""

import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from smtpguard.enrich.looker import Attribution
from smtpguard.enrich.looker.inspect_process import look
from smtpguard.enrich.looker.php_binary import PhpBinaries
from smtpguard.enrich.looker.php_fpm import FpmReader, find_slot, is_genuine, read_suspended_ns
from smtpguard.enrich.looker.php_memory import ProcessMemory, UnreadableError, parse_maps, read_shared_device
from smtpguard.enrich.looker.procfs import MAX_MAPS, Process
from smtpguard.enrich.looker.protocol import Question
from tests.fastcgi import finish
from tests.php import Fpm, listening, run_php, running_fpm, unpack_php
from tests.support.host import wait_for
from tests.support.processes import read_process
from tests.victims import map_hanging, random_uid, victim

pytestmark = pytest.mark.kernel

CONNECT = '$t = hrtime(true); $s = stream_socket_client("tcp://127.0.0.1:PORT"); fwrite($s, getmypid()." $t\\n");'
WAIT = "fgets($s);"
_ACCEPT = {"x86_64": 43, "aarch64": 202}[platform.machine()]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not tmp_path: a worker's uid must be able to enter it."""
    path = Path(tempfile.mkdtemp(prefix="sg-php-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def fpm(folder: Path) -> Iterator[Fpm]:
    (folder / "site").mkdir()
    with running_fpm(folder / "site", random_uid()) as server:
        yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A connection a script made: of which process, when, and the other end of it."""

    pid: int
    time_ns: int
    peer: socket.socket

    def let_go(self) -> None:
        self.peer.sendall(b"221 bye\r\n")
        self.peer.close()


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def meet(server: socket.socket) -> Met:
    """The next connection; its time is what the script's own clock said just before it."""
    peer, _ = server.accept()
    with peer.makefile("rb") as stream:
        pid, *moment = map(int, stream.readline().split())
    return Met(pid=pid, time_ns=moment[0] + read_suspended_ns() if moment else now_ns(), peer=peer)


@contextmanager
def connected(fpm: Fpm, server: socket.socket, script: Path, **params: str) -> Iterator[Met]:
    """A request whose script has connected and waits for an answer."""
    request = fpm.request(script, **params)
    met = meet(server)
    yield met
    met.let_go()
    assert b"done" in finish(request)


def ask(met: Met, uid: int, *, reader: FpmReader | None = None, later_ns: int = 0) -> Attribution:
    question = Question(pid=met.pid, uids=(uid,), time_ns=met.time_ns + later_ns)
    return look(question, lambda _known: None, reader or FpmReader())


def code(server: socket.socket, *, wait: bool = True) -> str:
    return CONNECT.replace("PORT", str(server.getsockname()[1])) + (WAIT if wait else "")


def test_the_line_that_connects_is_named_through_include_and_method(fpm: Fpm) -> None:
    with listening() as server:
        plugin = fpm.write("wp/plugins/x/send.php", "\n\nclass Mailer { function send($to) {\n" + code(server) + "}}\n")
        index = fpm.write("index.php", f'include "{plugin}";\n(new Mailer)->send("x");\necho "done";')
        params = {"REQUEST_URI": "/perma/link?token=secret", "REQUEST_METHOD": "POST", "QUERY_STRING": "token=secret"}
        with connected(fpm, server, index, **params) as met:
            found = ask(met, fpm.uid)
    assert (found.attr, found.script) == ("live", bytes(plugin) + b":5")
    assert found.stack == (b"Mailer::send %s:5" % bytes(plugin), b"{main} %s:3" % bytes(index))
    assert found.request == b"POST shop.example/perma/link"
    assert found.client == b"192.0.2.9"
    assert found.cwd == bytes(index.parent)
    assert b"secret" not in repr(found).encode()


def test_evaluated_code_is_named_by_the_file_it_stands_in(fpm: Fpm) -> None:
    with listening() as server:
        inner = code(server).replace("\\", "\\\\").replace("$", "\\$").replace('"', '\\"')
        script = fpm.write("evil.php", f'\n\neval("\n\n{inner}");\necho "done";')
        with connected(fpm, server, script) as met:
            found = ask(met, fpm.uid)
    assert (found.attr, found.script) == ("live", bytes(script) + b":4")
    assert found.stack == (b"{main} %s:4" % bytes(script),) * 2


def test_a_script_that_deletes_itself_is_told_by_what_is_left(fpm: Fpm) -> None:
    with listening() as server:
        dropper = fpm.write("dropper.php", f"unlink(__FILE__);\n{code(server)}")
        index = fpm.write("index2.php", f'include "{dropper}";\necho "done";')
        with connected(fpm, server, index) as met:
            found = ask(met, fpm.uid)
    assert (found.attr, found.script) == ("live", bytes(index) + b":2")
    assert found.stack[0] == b"{main} %s:3" % bytes(dropper)


def test_just_after_the_request_the_slot_still_knows(fpm: Fpm) -> None:
    with listening() as server:
        script = fpm.write("quick.php", code(server, wait=False) + 'echo "done";')
        request = fpm.request(script)
        met = meet(server)
        assert b"done" in finish(request)
        met.peer.close()
        found = ask(met, fpm.uid)
        assert (found.attr, found.script) == ("slot", bytes(script))
        assert found.stack == ()


def test_a_later_request_is_never_named_for_an_earlier_event(fpm: Fpm) -> None:
    with listening() as server:
        guilty = fpm.write("guilty.php", code(server, wait=False) + 'echo "done";')
        innocent = fpm.write("shop/innocent.php", code(server) + 'echo "done";')
        request = fpm.request(guilty)
        first = meet(server)
        assert b"done" in finish(request)
        with connected(fpm, server, innocent) as second:
            assert second.pid == first.pid
            found = ask(first, fpm.uid)
            assert (found.script, found.stack, found.cwd, found.why) == (None, (), None, "gone")
            assert ask(second, fpm.uid).script == bytes(innocent) + b":2"


def is_idle(worker: int) -> bool:
    """Whether it waits in accept(2) for the next request."""
    return read_process(worker, "syscall").split()[:1] == [b"%d" % _ACCEPT]


def test_an_event_after_the_request_is_not_its(fpm: Fpm) -> None:
    with listening() as server:
        script = fpm.write("early.php", code(server, wait=False) + 'echo "done";')
        (worker,) = fpm.workers()
        wait_for(lambda: is_idle(worker))
        request = fpm.request(script)
        met = meet(server)
        finish(request)
        wait_for(lambda: is_idle(worker))  # it may be kept from writing down that it is done
        found = ask(met, fpm.uid, later_ns=now_ns() - met.time_ns)
        assert (found.script, found.why) == (None, "gone")


def test_a_program_that_the_script_started_leads_to_the_script(fpm: Fpm) -> None:
    with listening() as server:
        port = server.getsockname()[1]
        program = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo $$ >&3; read -r x <&3"
        script = fpm.write("shell.php", f"exec(\"bash -c '{program.replace('$', chr(92) + '$')}'\");\necho 'done';")
        with connected(fpm, server, script) as met:
            assert met.pid not in fpm.workers()
            found = ask(met, fpm.uid)
    assert (found.attr, found.script) == ("live", bytes(script) + b":2")
    assert found.proc == b"bash"


def test_another_users_event_is_not_looked_up_in_this_users_worker(fpm: Fpm) -> None:
    with listening() as server:
        script = fpm.write("mine.php", code(server) + 'echo "done";')
        with connected(fpm, server, script) as met:
            assert ask(met, fpm.uid + 1) == Attribution(why="foreign")


def test_a_tenants_own_fpm_is_not_believed(folder: Path) -> None:
    (folder / "own").mkdir()
    with running_fpm(folder / "own", random_uid(), as_tenant=True) as fpm, listening() as server:
        script = fpm.write("a.php", code(server) + 'echo "done";')
        with connected(fpm, server, script) as met:
            with Process(met.pid) as worker, Process(fpm.master) as master:
                assert not is_genuine(worker, master)
            found = ask(met, fpm.uid)
    assert (found.attr, found.script, found.stack) == ("live", None, ())


def test_the_master_is_recognised_by_more_than_its_title(fpm: Fpm) -> None:
    (pid,) = fpm.workers()
    with Process(pid) as worker, Process(fpm.master) as master, Process(os.getpid()) as other:
        assert is_genuine(worker, master)
        assert not is_genuine(worker, other)
        assert not is_genuine(worker, worker)


def test_a_version_that_is_not_proven_is_left_alone(fpm: Fpm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.enrich.looker.php_fpm.LAYOUTS", {(8, 1): None})
    with listening() as server:
        script = fpm.write("version.php", code(server) + 'echo "done";')
        with connected(fpm, server, script) as met:
            found = ask(met, fpm.uid)
    assert (found.attr, found.script) == ("live", None)
    assert found.cwd == bytes(script.parent), "the directory is all there is, and it is kept"


def test_binaries_are_read_once_and_only_if_they_are_roots(folder: Path) -> None:
    program = unpack_php().path("usr/sbin/php-fpm8.2")
    copy = folder / "php-fpm"
    shutil.copy(program, copy)
    binaries = PhpBinaries()
    for path, owner, known in ((program, 0, True), (copy, 0, True), (copy, 61050, False)):
        os.chown(path, owner, -1)
        fd = os.open(path, os.O_RDONLY)
        binary = binaries.read(fd)
        os.close(fd)
        assert (binary is not None) is known
        assert binary is None or binary.version == (8, 2)


def test_the_command_line_php_is_a_guess(folder: Path) -> None:
    with listening() as server:
        script = folder / "cron.php"
        script.write_text("<?php " + code(server))
        process = run_php("php8.2", "-d", "memory_limit=64M", "cron.php", "-f", "x", cwd=folder)
        met = meet(server)
        found = ask(met, 0)
        met.let_go()
        assert process.communicate(timeout=20)[0] == b""
    assert (found.attr, found.script, found.stack) == ("guess", bytes(script), ())


def test_the_classic_cgi_program_is_told_by_its_environment(folder: Path) -> None:
    with listening() as server:
        script = folder / "form.php"
        script.write_text("<?php " + code(server) + 'echo "done";')
        variables = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "REDIRECT_STATUS": "200",
            "REQUEST_METHOD": "GET",
            "SCRIPT_FILENAME": str(script),
        }
        process = run_php("php-cgi8.2", cwd=folder, **variables)
        met = meet(server)
        found = ask(met, 0)
        met.let_go()
        assert b"done" in process.communicate(timeout=20)[0]
    assert (found.attr, found.script) == ("live", bytes(script))


def test_every_connection_under_load_names_its_own_script(fpm: Fpm) -> None:
    """Scripts in turn, each asked about while it waits and once it has ended: never another one's name."""
    reader = FpmReader()
    with listening() as server:
        scripts = [fpm.write(f"load/{n}.php", code(server, wait=n % 2 == 0) + 'echo "done";') for n in range(8)]
        for turn in range(40):
            script = scripts[turn % len(scripts)]
            request = fpm.request(script)
            met = meet(server)
            found = [ask(met, fpm.uid, reader=reader)]
            if turn % 2 == 0:
                assert found[0].attr == "live"
                met.peer.sendall(b"221\r\n")
            finish(request)
            met.peer.close()
            found.append(ask(met, fpm.uid, reader=reader))
            named = {(one.script or b"").partition(b":")[0] for one in found}
            assert named == {bytes(script)}


def test_pages_of_other_file_systems_are_not_touched(tmp_path: Path) -> None:
    """A page that its server never hands over: reading it would hang for ever."""
    with victim(61007, lambda: map_hanging(tmp_path)) as (pid, _), Process(pid) as process:
        raw = process.read(b"maps", MAX_MAPS)
        (line,) = [line for line in raw.splitlines() if line.endswith(b"/page")]
        address = int(line.partition(b"-")[0], 16)
        regions = parse_maps(raw, process.link(b"exe") or b"", read_shared_device())
        fd = process.open(b"mem")
        try:
            with pytest.raises(UnreadableError):
                ProcessMemory(fd, regions).read(address, 8)
            assert find_slot(ProcessMemory(fd, regions), regions, pid) is None
        finally:
            os.close(fd)
        assert read_shared_device() == b"00:01"
