"""A real PHP-FPM for tests: unpacked, in the foreground, with its own configuration, pool and sockets."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smtpguard.demo.lab import Lab
from tests.fastcgi import begin, finish
from tests.servers import Unpacked, require
from tests.support.processes import list_children

PACKAGES = ("php8.2-cgi", "php8.2-cli", "php8.2-fpm", "php8.2-opcache")


def unpack_php() -> Unpacked:
    """PHP 8.2 with opcache; a skip where it can't be had."""
    return require(*PACKAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fpm:
    """A server that runs.

    Attributes:
        master: Its pid.
        path: Its socket.
        www: Folder for scripts, readable by everybody.
        uid: Whom its workers run as.
    """

    master: int
    path: Path
    www: Path
    uid: int

    def workers(self) -> list[int]:
        """Pids of the workers."""
        return list_children(self.master)

    def write(self, name: str, code: str) -> Path:
        """Put a script there."""
        script = self.www / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("<?php\n" + code)
        return script

    def give_to_pool(self) -> None:
        """Make all that was put there the tenant's own."""
        for path in (self.www, *self.www.rglob("*")):
            os.chown(path, self.uid, self.uid)

    def request(self, script: Path, **params: str) -> socket.socket:
        """Begin a request."""
        return begin(self.path, script, **params)

    def run(self, script: Path, **params: str) -> bytes:
        """A whole request."""
        return finish(self.request(script, **params))


@contextmanager
def running_fpm(
    folder: Path, uid: int, *, workers: int = 1, as_tenant: bool = False, lab: Lab | None = None
) -> Iterator[Fpm]:
    """PHP-FPM with opcache and one pool.

    Args:
        folder: Where everything goes; made readable for all.
        uid: The pool's.
        workers: How many.
        as_tenant: Whether the master itself runs as that uid, as a tenant's own would.
        lab: Where it runs, inside; None for right here.
    """
    php = unpack_php()
    if as_tenant:  # the checkout, and the unpacked tree with it, may lie below a folder that only root may enter
        php = Unpacked(root=Path(shutil.copytree(php.root, folder / "php", symlinks=True)), packages=php.packages)
    program = php.path("usr/sbin/php-fpm8.2")
    extension = next(php.root.glob("usr/lib/php/*/opcache.so"))
    www = folder / "www"
    www.mkdir()
    for path in (folder, www):
        path.chmod(0o777)
    listen = folder / "fpm.sock"
    config = folder / "fpm.conf"
    config.write_text(
        f"[global]\nerror_log = {folder}/error.log\ndaemonize = no\nsystemd_interval = 0\n"
        f"[site]\nlisten = {listen}\nuser = {uid}\ngroup = {uid}\npm = static\npm.max_children = {workers}\n"
        "clear_env = no\n"
    )
    argv = [str(program), "-n", "-y", str(config), "-R", "-d", f"zend_extension={extension}", "-d", "opcache.enable=1"]
    if lab is None:
        pid = _start(program, argv, php.environment(), uid if as_tenant else None)
    else:
        words = [f"{name}={value}" for name, value in php.environment().items() if os.environ.get(name) != value]
        pid = lab.start(["/usr/bin/env", *words, *argv], inside=True).pid
    try:
        server = Fpm(master=pid, path=listen, www=www, uid=uid)
        end = time.monotonic() + 20
        while not (listen.exists() and len(server.workers()) == workers):
            assert time.monotonic() < end, (folder / "error.log").read_text()
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), (folder / "error.log").read_text()
            time.sleep(0.01)
        yield server
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _start(program: Path, argv: list[str], environment: dict[str, str], uid: int | None) -> int:
    """Start a program, as somebody else if a uid is given; its pid."""
    handle = os.open(program, os.O_RDONLY)
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            if uid is not None:
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            # By descriptor: the checkout may lie below a folder that only root may enter.
            os.execve(handle, argv, environment)  # noqa: S606 - no shell, and the uid has just been given up
        finally:
            os._exit(127)
    os.close(handle)
    return pid


@contextmanager
def listening() -> Iterator[socket.socket]:
    """Where the scripts of tests connect to."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        server.settimeout(20)
        yield server


def run_php(program: str, *arguments: str, cwd: Path, **variables: str) -> "subprocess.Popen[bytes]":
    """PHP on the command line (`php8.2`), or as a CGI program (`php-cgi8.2`)."""
    php = unpack_php()
    argv = [str(php.path(f"usr/bin/{program}")), "-n", *arguments]
    return subprocess.Popen(argv, cwd=cwd, env=php.environment() | variables, stdout=subprocess.PIPE)
