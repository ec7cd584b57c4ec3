"""Makes an audit log of a busy web host, with the truth about its mail connections beside it.

`python audit_corpus.py OUT.log --megabytes 500` writes OUT.log and OUT.log.truth, one JSON list a line. The mix and the
layout are those of a shared host that audits connect() (kernel 6.18, auditd 3.0.9): most connects go to local sockets,
a fifth to web servers and databases, one in twenty to mail ports; a few events' records alternate with their
neighbour's. Quick enough to be run for each benchmark: 100 MB a second.
"""

import argparse
import ipaddress
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAIL_PORTS = (25, 465, 587, 2525)
_START_MS = 1_771_500_000_000
_PROGRAMS = (
    (b'"php-fpm"', b'"/usr/sbin/php-fpm8.2"'),
    (b'"lsphp"', b'"/usr/local/lsws/lsphp81/bin/lsphp"'),
    (b'"perl"', b'"/usr/bin/perl"'),
    (b'"sendmail"', b'"/usr/sbin/sendmail"'),
    (b"6D61696C206A6F62", b'"/usr/bin/python3.11"'),  # "mail job"
)
_LOCAL = (b"/run/mysqld/mysqld.sock", b"/var/run/nscd/socket", b"/run/systemd/journal/socket", b"/run/redis/redis.sock")
_TITLE = b"7068702D66706D3A20706F6F6C20777777"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What the log is made of.

    Attributes:
        seed: Of the generator.
        local: Share of connects to local sockets.
        other: Share of connects to ports that are no mail ports.
        mail: Share of connects to mail ports; the rest are records of other kinds.
        interleaved: Share of events whose records alternate with those of the next.
        enriched: Whether auditd's ENRICHED parts are there.
        users: How many users there are.
    """

    seed: int = 1
    local: float = 0.70
    other: float = 0.20
    mail: float = 0.05
    interleaved: float = 0.02
    enriched: bool = False
    users: int = 500


Truth = tuple[int, int, int, int, int, str, str, str]
"""Milliseconds since the epoch, uid, euid, pid, port, address in hex (mapped: 4 bytes), comm, exe."""


def make_events(mix: Mix) -> Iterator[tuple[list[bytes], Truth | None]]:
    """Events without end: the lines of each, and the truth about it if it is a connect to a mail port."""
    draw = random.Random(mix.seed)
    chance, pick, bits = draw.random, draw.choice, draw.getrandbits
    millis, serial = _START_MS, 2_000_000
    while True:
        serial += 1
        millis += chance() < 0.4
        stamp = b"msg=audit(%d.%03d:%d): " % (millis // 1000, millis % 1000, serial)
        share = chance()
        if share >= mix.local + mix.other + mix.mail:
            yield [_unrelated(draw, stamp)], None
            continue
        uid = 1000 + int(chance() * mix.users)
        pid = 300 + bits(22)
        comm, exe = pick(_PROGRAMS)
        euid = 0 if chance() < 0.01 else uid
        outcome = chance()
        result = b"yes exit=0" if outcome < 0.3 else b"no exit=-115" if outcome < 0.9 else b"no exit=-111"
        local = share < mix.local
        call = (
            b"type=SYSCALL %barch=c000003e syscall=42 success=%b a0=%x a1=7ffd%08x a2=%x a3=%x items=%d ppid=%d pid=%d "
            b"auid=4294967295 uid=%d gid=%d euid=%d suid=%d fsuid=%d egid=%d sgid=%d fsgid=%d tty=(none) ses=42 "
            b'comm=%b exe=%b key="smtp-8123"'
        ) % (stamp, result, 3 + bits(5), bits(32), 110 if local else 16, bits(4), local, 1 + bits(15), pid, uid, uid,
             euid, euid, euid, uid, uid, uid, comm, exe)  # fmt: skip
        if mix.enriched:
            call += b'\x1dARCH=x86_64 SYSCALL=connect AUID="unset" ' + b" ".join(
                b'%b="u%d"' % (name, uid)
                for name in (b"UID", b"GID", b"EUID", b"SUID", b"FSUID", b"EGID", b"SGID", b"FSGID")
            )
        title = b"type=PROCTITLE %bproctitle=%b" % (stamp, _TITLE + b"00" * bits(4))
        if local:
            path = pick(_LOCAL)
            saddr = b"type=SOCKADDR %bsaddr=0100%b00" % (stamp, path.hex().upper().encode())
            cwd = b'type=CWD %bcwd="/home/u%d/public_html"' % (stamp, uid)
            name = (
                b'type=PATH %bitem=0 name="%b" inode=%d dev=00:18 mode=0140666 ouid=0 ogid=0 rdev=00:00 '
                b"nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0"
            ) % (stamp, path, bits(16))
            if mix.enriched:
                saddr += b"\x1dSADDR={ saddr_fam=local path=%b }" % path
                name += b'\x1dOUID="root" OGID="root"'
            yield [call, saddr, cwd, name, title], None
            continue
        port = pick(MAIL_PORTS) if share >= mix.local + mix.other else pick((443, 443, 80, 3306, 53))
        saddr, address = _address(draw, port)
        line = b"type=SOCKADDR %bsaddr=%b" % (stamp, saddr)
        if mix.enriched:
            line += _enriched_address(saddr, port)
        truth = None
        if port in MAIL_PORTS:
            truth = (millis, uid, euid, pid, port, address.hex(), _plain(comm), _plain(exe))
        yield [call, line, title], truth


def _unrelated(draw: random.Random, stamp: bytes) -> bytes:
    if draw.random() < 0.5:
        return b"type=CRED_DISP %bpid=%d uid=0 auid=0 ses=%d msg='op=PAM:setcred grantors=pam_permit acct=\"root\" exe=\"/usr/sbin/cron\" hostname=? addr=? terminal=cron res=success'" % (stamp, draw.getrandbits(15), draw.getrandbits(12))  # fmt: skip # noqa: E501
    return b"type=SERVICE_STOP %bpid=1 uid=0 auid=4294967295 ses=4294967295 msg='unit=phpsessionclean comm=\"systemd\" exe=\"/usr/lib/systemd/systemd\" hostname=? addr=? terminal=? res=success'" % stamp  # fmt: skip # noqa: E501


def _address(draw: random.Random, port: int) -> tuple[bytes, bytes]:
    """The hex digits of a sockaddr, and the address as the decoder should give it."""
    upper = draw.random() < 0.9
    kind = draw.random()
    if kind < 0.78:
        packed = address = draw.getrandbits(31).to_bytes(4, "big") if kind > 0.02 else bytes([127, 0, 0, 1])
        text = f"0200{port:04x}{packed.hex()}{'0' * 16}"
    else:
        address = draw.getrandbits(31).to_bytes(4, "big")
        packed = bytes(10) + b"\xff\xff" + address
        if kind > 0.80:
            packed = address = bytes.fromhex("20010db8") + draw.randbytes(12)
        text = f"0a00{port:04x}00000000{packed.hex()}00000000"
    return (text.upper() if upper else text).encode(), address


def _enriched_address(saddr: bytes, port: int) -> bytes:
    raw = bytes.fromhex(saddr.decode())
    address = ipaddress.ip_address(raw[4:8] if raw[0] == 2 else raw[8:24])
    family = "inet" if raw[0] == 2 else "inet6"
    return f"\x1dSADDR={{ saddr_fam={family} laddr={address} lport={port} }}".encode()


def _plain(text: bytes) -> str:
    return text.strip(b'"').decode() if text.startswith(b'"') else bytes.fromhex(text.decode()).decode()


def write_corpus(path: Path, megabytes: float, mix: Mix) -> list[Truth]:
    """Write a log of that size; returns the truth, in the order of the events."""
    draw = random.Random(mix.seed + 1)
    truth: list[Truth] = []
    held: list[bytes] = []
    size, wanted = 0, int(megabytes * 1e6)
    with path.open("wb", buffering=1 << 20) as file:
        for lines, fact in make_events(mix):
            if fact:
                truth.append(fact)
            out = lines
            if held:
                out = []
                both = [held, lines]
                while both:
                    side = both[0] if len(both) == 1 or draw.random() < 0.6 else both[1]
                    out.append(side.pop(0))
                    both = [rest for rest in both if rest]
                held = []
            elif draw.random() < mix.interleaved:
                held = lines
                continue
            size += file.write(b"\n".join(out) + b"\n")
            if size >= wanted and not held:
                break
    return truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=500)
    parser.add_argument("--enriched", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    truth = write_corpus(args.out, args.megabytes, Mix(seed=args.seed, enriched=args.enriched))
    beside = args.out.with_name(args.out.name + ".truth")
    beside.write_text("".join(json.dumps(fact) + "\n" for fact in truth), "ascii")
    print(f"{args.out.stat().st_size} bytes, {len(truth)} connects to mail ports")


if __name__ == "__main__":
    main()
