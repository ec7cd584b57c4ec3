"""The laboratory: a guarded host and its peer as two network namespaces, a sub-cgroup, and accounts of its own.

Nothing of it has a name in the system and nothing outlives it: the namespaces belong to holder processes that die with
us, the accounts are files laid over /etc/passwd inside a mount namespace, and only the empty cgroup directory has to
be removed. Needs root and iproute2.

```
   guarded host  192.0.2.1, 2001:db8:1::1  ---veth---  peer  192.0.2.2, 2001:db8:1::2
                                                        and every address of 198.18.0.0/15 and 2001:db8:2::/48
```
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from smtpguard.demo.holder import Holder
from smtpguard.errors import GuardError
from smtpguard.interpreter import module_environment
from smtpguard.sources.bpf.cgroup import find_cgroup_root

HOST4, PEER4 = "192.0.2.1", "192.0.2.2"
HOST6, PEER6 = "2001:db8:1::1", "2001:db8:1::2"
ANY4, ANY6 = "198.18.0.0/15", "2001:db8:2::/48"
"""Networks of which the peer answers every address, so that traffic can fan out."""
BLACKHOLE4 = "203.0.113.0/24"
"""A network that swallows everything."""

HOSTS_OWN = ("/etc/smtpguard", "/var/log/smtpguard", "/var/lib/smtpguard")
"""The host's own guard's files: inside there are none."""
NAME_SERVICES = ("/run/nscd", "/run/systemd/userdb")
"""Where programs would ask for accounts before or beside the files: inside nobody answers there."""
_NAMES = "passwd: files\ngroup: files\nshadow: files\nsubid: files\nhosts: files dns\n"
"""nsswitch.conf(5) inside. The accounts are files; a directory server that is slow would be asked for each of them."""

_COMMAND_TIMEOUT_S = 20
_ENTER = str(Path(__file__).with_name("enter.py"))


def _is_systems(uid: int) -> bool:
    return uid < 1000 or uid == 65_534


def _write_over(path: Path, content: bytes) -> None:
    """Write a file of lines anew in its place: who reads it meanwhile finds all of it, maybe with empty lines."""
    path.touch()
    with path.open("r+b", buffering=0) as file:
        file.write(content.ljust(path.stat().st_size, b"\n"))
        file.truncate(len(content))


def _list_addresses(link: str, address4: str, address6: str) -> tuple[str, ...]:
    return (
        "link set lo up",
        f"address add {address4}/24 dev {link}",
        f"address add {address6}/64 dev {link} nodad",
        f"link set {link} up",
    )


class Lab:
    """A guarded host and its peer. Use as a context manager.

    Args:
        accounts: Login name to uid of the accounts that exist inside, besides the host's own below UID_MIN.
        groups: Group name to its members.
        subuids: Lines of /etc/subuid: login name to (first, count).

    Attributes:
        directory: A private directory of root's for configuration, log and state.
        cgroup: The sub-cgroup to guard; None where cgroup v2 is not mounted.
    """

    def __init__(
        self,
        accounts: Mapping[str, int] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        subuids: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self._accounts = dict(accounts or {})
        self._groups = dict(groups or {})
        self._subuids = dict(subuids or {})
        self._children: list[subprocess.Popen[Any]] = []
        self._holders: list[Holder] = []
        self._binds: dict[str, str] = {}
        self.directory = Path()
        self.cgroup: str | None = None
        self.host = self.peer = ""

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise GuardError("the laboratory makes network namespaces", fix="run as root")
        if shutil.which("ip") is None:
            raise GuardError("the command `ip` is missing", fix="install iproute2")
        self.directory = Path(tempfile.mkdtemp(prefix="smtpguard-lab-"))
        try:
            self._make_cgroup()
            self._make_network()
            self._write_accounts()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _make_cgroup(self) -> None:
        root = find_cgroup_root()
        if root is not None:
            path = Path(root, f"smtpguard-lab-{os.getpid()}-{secrets.token_hex(3)}")
            path.mkdir()
            self.cgroup = str(path)

    def _make_network(self) -> None:
        host, peer = Holder(), Holder()
        self._holders = [host, peer]
        self.host, self.peer = host.path, peer.path
        local = (f"route add local {ANY4} dev lo", f"route add local {ANY6} dev lo")
        self._ip_batch(
            self.host,
            f"link add sg0 type veth peer name sg1 netns {peer.pid}",
            *_list_addresses("sg0", HOST4, HOST6),
            f"route add {ANY4} via {PEER4}",
            f"route add {BLACKHOLE4} via {PEER4}",
            f"route add {ANY6} via {PEER6}",
        )
        self._ip_batch(self.peer, *_list_addresses("sg1", PEER4, PEER6), *local)

    def _write_accounts(self) -> None:
        def system_part(path: str) -> str:
            lines = Path(path).read_text("utf-8", "replace").splitlines(keepends=True)
            return "".join(line for line in lines if line.count(":") >= 2 and _is_systems(int(line.split(":")[2])))

        passwd = "".join(f"{n}:x:{u}:{u}:laboratory:/nonexistent:/bin/sh\n" for n, u in self._accounts.items())
        group = "".join(f"{n}:x:{u}:\n" for n, u in self._accounts.items())
        group += "".join(f"{n}:x:{60000 + i}:{','.join(m)}\n" for i, (n, m) in enumerate(self._groups.items()))
        files = {
            "/etc/passwd": system_part("/etc/passwd") + passwd,
            "/etc/group": system_part("/etc/group") + group,
            "/etc/subuid": "".join(f"{n}:{first}:{count}\n" for n, (first, count) in self._subuids.items()),
            "/etc/nsswitch.conf": _NAMES,
        }
        for target, text in files.items():
            self.lay_over(target, text)
        nothing = self.directory / "nothing"
        nothing.mkdir(0o700)
        self._binds |= {target: str(nothing) for target in (*HOSTS_OWN, *NAME_SERVICES) if Path(target).is_dir()}

    def lay_over(self, target: str, text: str) -> None:
        """Make a file's content another one inside the laboratory; programs that run already see later changes too.

        Args:
            target: The host's file, which stays as it is; one that it has not can't be laid over.
            text: What programs inside read from now on. The first time it must be said before they start.
        """
        source = self.directory / Path(target).name
        _write_over(source, text.encode())
        if Path(target).exists():
            self._binds[target] = str(source)

    def lay_directory_over(self, target: str, source: Path) -> None:
        """Make a directory another one for programs that are started from now on.

        Args:
            target: The host's directory, which stays as it is.
            source: What programs inside see there.
        """
        self._binds[target] = str(source)

    def read(self, target: str) -> str:
        """What programs inside read in a file that is laid over the host's."""
        return (self.directory / Path(target).name).read_text("utf-8")

    def ip(self, net: str, *words: str) -> None:
        """Run `ip` in a namespace; raises GuardError with its words."""
        self._run_ip(net, words, "")

    def _ip_batch(self, net: str, *commands: str) -> None:
        """Several in one process."""
        self._run_ip(net, ("-batch", "-"), "".join(f"{command}\n" for command in commands))

    @staticmethod
    def _run_ip(net: str, words: Sequence[str], text: str) -> None:
        argv = ["nsenter", f"--net={net}", "ip", *words]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise GuardError(f"{' '.join(argv)}: {done.stderr.strip()}")

    def argv(self, words: Sequence[str], *, net: str | None = None, inside: bool = False) -> list[str]:
        """The argument list that runs a program in the laboratory.

        Args:
            words: Program and arguments.
            net: Namespace, `lab.host` if None.
            inside: Whether it joins the guarded cgroup, as tenants' processes do.
        """
        binds = [word for pair in self._binds.items() for word in ("--bind", "=".join(pair))]
        cgroup = ["--cgroup", self.cgroup] if inside and self.cgroup else []
        enter = [sys.executable, "-P", _ENTER, "--net", net or self.host]
        return [*enter, *cgroup, *binds, "--", *words]

    def start(
        self,
        words: Sequence[str],
        *,
        net: str | None = None,
        inside: bool = False,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program in the laboratory; it is ended with it."""
        child = self._open(self.argv(words, net=net, inside=inside), stdout=stdout, stderr=stderr)
        self._children.append(child)
        return child

    def run(
        self, words: Sequence[str], *, net: str | None = None, inside: bool = False, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the laboratory to its end."""
        argv = self.argv(words, net=net, inside=inside)
        with self._open(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            try:
                stdout, stderr = child.communicate(timeout=timeout_s)
            except BaseException:
                child.kill()
                raise
        return subprocess.CompletedProcess(argv, child.returncode, stdout, stderr)

    def _open(
        self, argv: Sequence[str], *, stdout: int | IO[Any] | None, stderr: int | IO[Any] | None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            cwd="/",
            env=module_environment(),
        )

    def close(self) -> None:
        """End every process, remove cgroup and directory."""
        for child in self._children:
            if child.poll() is None:
                child.terminate()
        for child in self._children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child.stdout is not None:
                child.stdout.close()
        for holder in self._holders:
            holder.close()
        self._children, self._holders = [], []
        self._remove_cgroup()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _remove_cgroup(self) -> None:
        if self.cgroup is None:
            return
        # A process that was just reaped stays listed for milliseconds, on a busy machine for seconds.
        for _ in range(1000):
            try:
                Path(self.cgroup).rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.01)
        self.cgroup = None
