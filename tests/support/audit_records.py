"""Audit records as the kernel and auditd write them, for tests: lines of one event, and what should come of them."""

import ipaddress
from dataclasses import dataclass, field

SECOND = 1_771_400_000
SYSCALL_TAIL = (
    'ARCH={arch} SYSCALL=connect AUID="unset" UID="{user}" GID="{user}" EUID="{user}" SUID="{user}" FSUID="{user}" '
    'EGID="{user}" SGID="{user}" FSGID="{user}"'
)


@dataclass(kw_only=True)
class Event:
    """One system call with an address; `lines()` are its records."""

    serial: int = 1001
    millis: int = 0
    port: int = 25
    address: str = "192.0.2.1"
    arch: str = "c000003e"
    syscall: int = 42
    exit_value: int | None = -115
    a: tuple[int, int, int, int] = (3, 0x7FFE01, 0x10, 0)
    pid: int = 4711
    uid: int = 1001
    euid: int | None = None
    comm: bytes = b"php-fpm"
    exe: bytes = b"/usr/sbin/php-fpm8.2"
    node: str = ""
    enriched: bool = False
    lower: bool = False
    user: str = "web01"
    saddr: str | None = None
    between: list[str] = field(default_factory=list)

    @property
    def stamp(self) -> str:
        return f"audit({SECOND + self.millis // 1000}.{self.millis % 1000:03d}:{self.serial})"

    @property
    def time_ns(self) -> int:
        return SECOND * 10**9 + self.millis * 10**6

    @property
    def packed(self) -> bytes:
        ip = ipaddress.ip_address(self.address)
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            return ip.ipv4_mapped.packed
        return ip.packed

    def head(self, kind: str) -> str:
        node = f"node={self.node} " if self.node else ""
        return f"{node}type={kind} msg={self.stamp}: "

    def result(self) -> str:
        if self.exit_value is None:
            return ""
        return f" success={'no' if self.exit_value < 0 else 'yes'} exit={self.exit_value}"

    def ids(self) -> str:
        euid = self.uid if self.euid is None else self.euid
        return (
            f"uid={self.uid} gid={self.uid} euid={euid} suid={euid} fsuid={euid} "
            f"egid={self.uid} sgid={self.uid} fsgid={self.uid}"
        )

    def call(self) -> str:
        a0, a1, a2, a3 = self.a
        line = (
            f"{self.head('SYSCALL')}arch={self.arch} syscall={self.syscall}{self.result()} "
            f"a0={a0:x} a1={a1:x} a2={a2:x} a3={a3:x} items=0 ppid=1 pid={self.pid} auid=4294967295 {self.ids()} "
            f'tty=(none) ses=4294967295 comm={text(self.comm)} exe={text(self.exe)} key="smtp"'
        )
        return line + self.tail(SYSCALL_TAIL.format(arch="x86_64", user=self.user))

    def uring_call(self, op: int = 16) -> str:
        return (
            f"{self.head('URINGOP')}uring_op={op}{self.result()} items=0 ppid=1 pid={self.pid} {self.ids()} key=(null)"
        )

    def tail(self, value: str) -> str:
        return f"\x1d{value}" if self.enriched else ""

    def sockaddr_digits(self) -> str:
        ip = ipaddress.ip_address(self.address.partition("%")[0])
        if ip.version == 4:
            return f"0200{self.port:04X}{ip.packed.hex().upper()}{'0' * 16}"
        return f"0A00{self.port:04X}00000000{ip.packed.hex().upper()}00000000"

    def sockaddr(self) -> str:
        ip = ipaddress.ip_address(self.address)
        digits = self.sockaddr_digits() if self.saddr is None else self.saddr
        family = "inet" if ip.version == 4 else "inet6"
        tail = self.tail(f"SADDR={{ saddr_fam={family} laddr={self.address} lport={self.port} }}")
        return f"{self.head('SOCKADDR')}saddr={digits.lower() if self.lower else digits}{tail}"

    def proctitle(self) -> str:
        return f"{self.head('PROCTITLE')}proctitle=7068702D66706D3A20706F6F6C"

    def lines(self) -> list[str]:
        return [self.call(), *self.between, self.sockaddr(), self.proctitle()]


def text(value: bytes) -> str:
    """How the kernel writes untrusted text: quoted, or in hex when it holds anything odd."""
    if all(0x21 <= byte < 0x7F and byte != 0x22 for byte in value):
        return f'"{value.decode("ascii")}"'
    return value.hex().upper()


def unix_lines(serial: int, path: bytes = b"/run/mysqld/mysqld.sock", *, node: str = "") -> list[str]:
    """The records of a connect() to an AF_UNIX socket, which nobody wants."""
    event = Event(serial=serial, node=node, saddr="0100" + path.hex().upper() + "00")
    return [
        event.call().replace("items=0", "items=1"),
        event.sockaddr(),
        f'{event.head("CWD")}cwd="/home/web01/htdocs"',
        f'{event.head("PATH")}item=0 name="{path.decode("latin-1")}" inode=2 dev=00:18 nametype=NORMAL',
        event.proctitle(),
    ]


def log(lines: list[str], end: str = "\n") -> bytes:
    return "".join(line + end for line in lines).encode("latin-1")
