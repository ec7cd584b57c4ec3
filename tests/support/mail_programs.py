"""Real programs that send mail or open connections to a mail port by name, as scripts on shared hosts do.

Each is a command that makes a number of connections to a host on port 25 and ends; what it needs is this machine's or
unpacked from Debian's packages, and what can't be had is named.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import UnavailableError, unpack

MESSAGE = "From: a@a.test\\nTo: b@b.test\\nSubject: x\\n\\nhello\\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One way to connect.

    Attributes:
        name: What it is called in tests.
        command: The command for a host name and a number of mails; None where it can't be had.
        lacks: What is missing, where it can't be had.
        environment: What it needs beyond the usual.
    """

    name: str
    command: Callable[[str, int], list[str]] | None
    lacks: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


PERL_SMTP = """
use Net::SMTP; my ($host, $count) = @ARGV;
for (1..$count) { my $s = Net::SMTP->new($host, Port => 25, Timeout => 20) or die "no: $@";
  $s->mail('a@a.test'); $s->to('b@b.test'); $s->data("x\\n"); $s->quit; }
"""
PERL_INET = """
use IO::Socket::INET; my ($host, $count, @more) = @ARGV;
for (1..$count) { my $s = IO::Socket::INET->new(PeerAddr => $host, PeerPort => 25, @more) or die "no: $@";
  my $banner = <$s>; close $s; }
"""
PYTHON_SMTP = """
import smtplib, sys
for _ in range(int(sys.argv[2])):
    with smtplib.SMTP(sys.argv[1], 25, timeout=20) as s:
        s.sendmail("a@a.test", ["b@b.test"], "x")
"""
PYTHON_THREADS = """
import smtplib, sys, threading
left = list(range(int(sys.argv[2])))
def work():
    while True:
        try: left.pop()
        except IndexError: return
        with smtplib.SMTP(sys.argv[1], 25, timeout=None) as s:
            s.sendmail("a@a.test", ["b@b.test"], "x")
threads = [threading.Thread(target=work) for _ in range(10)]
for t in threads: t.start()
for t in threads: t.join()
"""
PHP_FSOCKOPEN = """
[$_, $host, $count] = $argv;
for ($n = 0; $n < $count; $n++) { $s = fsockopen($host, 25, $code, $text, 20) or exit(1); fgets($s); fclose($s); }
"""
PHP_STREAM = """
[$_, $host, $count] = $argv;
for ($n = 0; $n < $count; $n++) { $s = stream_socket_client("tcp://$host:25", $code, $text, 20) or exit(1);
  fgets($s); fclose($s); }
"""
PHP_MAILER = """
// As PHPMailer: stream_socket_client first, then a whole dialogue; a refused port is tried once more by fsockopen.
[$_, $host, $count] = $argv;
function ask($s, $line) { fwrite($s, $line . "\\r\\n"); return fgets($s, 515); }
for ($n = 0; $n < $count; $n++) {
  $s = stream_socket_client("$host:25", $code, $text, 20, STREAM_CLIENT_CONNECT, stream_context_create([]));
  if (!$s) { $s = fsockopen($host, 25, $code, $text, 20); }
  fgets($s, 515); ask($s, 'EHLO x'); ask($s, 'MAIL FROM:<a@a.test>'); ask($s, 'RCPT TO:<b@b.test>'); ask($s, 'DATA');
  ask($s, "x\\r\\n."); ask($s, 'QUIT'); fclose($s); }
"""
NODE = """
const net = require('net'); const [host, count] = process.argv.slice(1);
const once = (left) => { if (!left) return; const s = net.connect(25, host);
  s.once('data', () => s.end('QUIT\\r\\n')); s.on('close', () => once(left - 1)); s.on('error', (e) => { throw e; }); };
once(Number(count));
"""
BASH = 'for ((n = 0; n < $2; n++)); do exec 3<>"/dev/tcp/$1/25" || exit 1; read -r -u 3 _; exec 3>&-; done'
CURL = (
    'for ((n = 0; n < $2; n++)); do printf "%b" "$3" | '
    'curl -sS --max-time 20 --mail-from a@a.test --mail-rcpt b@b.test -T - "smtp://$1:25" || exit 1; done'
)
OPENSSL = 'for ((n = 0; n < $2; n++)); do openssl s_client -connect "$1:25" </dev/null >/dev/null 2>&1; done; true'
MSMTP = (
    'for ((n = 0; n < $2; n++)); do printf "%b" "$3" | '
    'msmtp --host="$1" --port=25 --from=a@a.test --file=/dev/null --tls=off --auth=off b@b.test || exit 1; done'
)
SWAKS = (
    'for ((n = 0; n < $2; n++)); do swaks --silent 2 --server "$1" --port 25 --from a@a.test --to b@b.test '
    "</dev/null || exit 1; done"
)


def _script(*argv: str) -> Callable[[str, int], list[str]]:
    return lambda host, count: [*argv, host, str(count)]


def _shell(text: str) -> Callable[[str, int], list[str]]:
    return lambda host, count: ["bash", "-c", text, "bash", host, str(count), MESSAGE]


def _here(name: str, program: str, command: Callable[[str, int], list[str]]) -> Program:
    """A way that needs a program of this machine."""
    there = shutil.which(program) is not None
    return Program(name=name, command=command if there else None, lacks="" if there else f"no {program} here")


def _unpacked(package: str, ways: Mapping[str, Callable[[str, int], list[str]]]) -> list[Program]:
    """Ways that need a package of Debian's; this machine's program if it has it."""
    if shutil.which(package.removesuffix("-cli")):
        return [Program(name=name, command=command) for name, command in ways.items()]
    try:
        tree = unpack(*PHP) if package == "php-cli" else unpack(package)
    except UnavailableError as error:
        return [Program(name=name, command=None, lacks=str(error)) for name in ways]
    root = readable(tree.root)
    changed = {
        name: value.replace(str(tree.root), root)
        for name, value in tree.environment().items()
        if os.environ.get(name) != value
    }
    return [Program(name=name, command=command, environment=changed) for name, command in ways.items()]


def readable(root: Path) -> str:
    """Where tenants can run it from: the checkout may be below a directory that is root's alone."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in (root, *root.parents)):
        return str(root)
    copy = Path(tempfile.mkdtemp(prefix="smtpguard-programs-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    shutil.copytree(root, copy / "root", symlinks=True)
    copy.chmod(0o755)
    return str(copy / "root")


PHP = ("php8.2-cgi", "php8.2-cli", "php8.2-fpm", "php8.2-opcache")


def list_programs() -> list[Program]:
    """All of them, those too that can't be had."""
    php = shutil.which("php") or "php8.2"
    return [
        _here("perl Net::SMTP", "perl", _script("perl", "-e", PERL_SMTP)),
        _here("perl IO::Socket::INET", "perl", _script("perl", "-e", PERL_INET)),
        _here(
            "perl IO::Socket::INET Timeout", "perl", lambda h, n: ["perl", "-e", PERL_INET, h, str(n), "Timeout", "20"]
        ),
        _here("python smtplib", "python3", _script("python3", "-c", PYTHON_SMTP)),
        _here("python threads", "python3", _script("python3", "-c", PYTHON_THREADS)),
        _here("curl", "curl", _shell(CURL)),
        _here("openssl s_client", "openssl", _shell(OPENSSL)),
        _here("node", "node", _script("node", "-e", NODE)),
        _here("bash /dev/tcp", "bash", _shell(BASH)),
        *_unpacked(
            "php-cli",
            {
                "php fsockopen": _script(php, "-r", PHP_FSOCKOPEN),
                "php stream_socket_client": _script(php, "-r", PHP_STREAM),
                "php as PHPMailer": _script(php, "-r", PHP_MAILER),
            },
        ),
        *_unpacked("msmtp", {"msmtp": _shell(MSMTP)}),
        *_unpacked("swaks", {"swaks": _shell(SWAKS)}),
    ]
