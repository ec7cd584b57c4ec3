"""doctor: what each answer of a host comes to, and that no check takes the others down with it."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smtpguard import doctor
from smtpguard.decode.netlink.audit import AuditStatus, parse_status
from smtpguard.decode.netlink.messages import HEADER
from smtpguard.doctor import examine
from smtpguard.doctor.accounts import check_old_numbers, check_shared, check_subordinate, judge_mail_servers
from smtpguard.doctor.audit import judge_audit
from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.doctor.installation import check_configuration, judge_directory, judge_fail2ban, judge_time
from smtpguard.doctor.kernel import CAPABILITIES, find_module, judge_bpf, judge_capabilities, judge_nflog, judge_nft
from smtpguard.doctor.metrics import check_metrics
from smtpguard.doctor.nat import find_in_iptables, find_in_nft, find_panel_hints, judge_nat, parse_nat_chains
from smtpguard.doctor.rules import judge_rules
from smtpguard.doctor.sites import parse_pools
from smtpguard.doctor.source_choice import judge_sources
from smtpguard.errors import ConfigError, DecodeError, GuardError, NoDaemonError
from smtpguard.settings import Rule, Settings

ALL = sum(1 << bit for bit in CAPABILITIES)
SYS_ADMIN = 1 << 21
PORTS = frozenset({25, 465, 587, 2525})


def is_like(finding: Finding, level: str, *words: str) -> bool:
    text = f"{finding.found} | {finding.means} | {finding.fix}"
    assert finding.level == level, finding
    for word in words:
        assert word in text, finding
    return True


# Capabilities, BPF, nftables


@pytest.mark.parametrize(
    ("mask", "level", "words"),
    [
        (ALL, "ok", ["all that are needed"]),
        ((1 << 64) - 1, "ok", []),
        (ALL & ~(1 << 39) & ~(1 << 38) | SYS_ADMIN, "ok", []),
        (ALL & ~(1 << 38), "bad", ["missing: CAP_PERFMON", "no process names"]),
        (ALL & ~(1 << 19), "bad", ["CAP_SYS_PTRACE", "no script"]),
        (ALL & ~(1 << 12), "fatal", ["CAP_NET_ADMIN", "nothing can be refused"]),
        (0, "fatal", ["CAP_NET_ADMIN", "CAP_BPF"]),
        (None, "unknown", []),
    ],
)
def test_capabilities(mask: int | None, level: str, words: list[str]) -> None:
    assert is_like(judge_capabilities(mask), level, *words)


def test_bpf() -> None:
    assert is_like(judge_bpf("/sys/fs/cgroup", [], "", wanted=True), "ok", "every way to open")
    assert is_like(judge_bpf("/sys/fs/cgroup", ["no process ids"], "", wanted=True), "note", "no process ids")
    assert is_like(judge_bpf(None, [], "not mounted", wanted=True), "bad", "not mounted", "setuid programs", "5.8")
    assert is_like(judge_bpf(None, [], "not mounted", wanted=False), "note", "not mounted")


def test_nflog() -> None:
    assert is_like(judge_nflog(available=True), "ok", "setuid programs", "containers")
    assert is_like(judge_nflog(available=False), "note", "no nfnetlink_log")
    assert is_like(judge_nflog(available=None), "unknown")


@pytest.mark.parametrize(
    ("library", "program", "module", "answer", "level", "word"),
    [
        (True, True, True, "", "ok", "libnftables and nf_tables"),
        (True, False, True, "", "ok", "libnftables"),
        (False, True, True, "", "note", "starts a process"),
        (False, False, True, "", "fatal", "neither libnftables nor"),
        (True, True, False, "", "fatal", "no nf_tables"),
        (True, True, None, "", "unknown", "only trying tells"),
        (True, True, True, "Operation not permitted", "bad", "Operation not permitted"),
    ],
)
def test_nft(*, library: bool, program: bool, module: bool | None, answer: str, level: str, word: str) -> None:
    assert is_like(judge_nft(library=library, program=program, module=module, answer=answer), level, word)


def test_modules_are_looked_for_and_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("U", (), {"release": "6.1.0"}))
    host = ExaminedHost(Settings(), root=tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "kallsyms").write_text("")
    assert find_module(host, "nf_tables") is None
    modules = tmp_path / "lib" / "modules" / "6.1.0"
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text("kernel/net/netfilter/nf_tables.ko.xz: kernel/x.ko\n")
    (modules / "modules.builtin").write_text("kernel/net/netfilter/nfnetlink_log.ko\n")
    assert find_module(host, "nf_tables") is True
    assert find_module(host, "nfnetlink_log") is True
    assert find_module(host, "nf_table") is False
    (modules / "modules.dep").write_text("")
    assert find_module(host, "nf_tables") is False
    (tmp_path / "proc" / "kallsyms").write_text("0000000000000000 T nft_do_chain\n")
    assert find_module(host, "nf_tables") is True


# Audit


def status(**changes: int) -> AuditStatus:
    fields = {"enabled": 1, "failure": 0, "pid": 0, "backlog_limit": 8192, "lost": 0, "backlog": 0, **changes}
    return AuditStatus(**{"backlog_wait_time": 0, **fields})


@pytest.mark.parametrize(
    ("given", "wanted", "level", "words"),
    [
        (status(enabled=0), False, "ok", ["off"]),
        (status(enabled=0), True, "bad", ["off", "audit.enable: true"]),
        (status(), False, "ok", ["on", "nobody but the kernel log", "io_uring"]),
        (status(pid=77), False, "ok", ["auditd (pid 77)"]),
        (status(lost=5), False, "note", ["5 records lost"]),
        (status(enabled=2), False, "note", ["locked until reboot"]),
        (status(backlog_wait_time=15000), False, "note", ["15000", "processes sleep", "--backlog_wait_time 0"]),
        (status(backlog_wait_time=15000), True, "bad", ["--backlog_wait_time 0"]),
        (None, False, "note", ["can't be asked: why"]),
        (None, True, "bad", ["can't be asked: why"]),
    ],
)
def test_audit(given: AuditStatus | None, wanted: bool, level: str, words: list[str]) -> None:
    assert is_like(judge_audit(given, "why", wanted=wanted), level, *words)


def test_audit_status_of_new_and_old_kernels() -> None:
    fields = (0x7F, 1, 1, 345, 0, 8192, 12, 3, 0x5F, 60000, 0)
    expected = status(failure=1, pid=345, lost=12, backlog=3, backlog_wait_time=60000)
    assert parse_status(struct.pack("=11I", *fields)) == expected
    old = parse_status(struct.pack("=8I", *fields[:8]))
    assert (old.lost, old.backlog_wait_time) == (12, None)
    with pytest.raises(DecodeError):
        parse_status(bytes(31))
    assert HEADER.size == 16


# Redirects

CHAINS = """table ip nat {
	chain OUTPUT {
		type nat hook output priority -100; policy accept;
	}

	chain SMTPOUTPUT {
	}
}
table inet filter {
	chain output {
		type filter hook output priority filter; policy accept;
	}
}
table ip6 other {
	chain o {
		type nat hook output priority dstnat;
	}
}
"""


def test_nat_chains() -> None:
    assert parse_nat_chains(CHAINS) == [("ip", "nat", "OUTPUT"), ("ip6", "other", "o")]
    assert parse_nat_chains("") == []


@pytest.mark.parametrize(
    ("rule", "ports"),
    [
        ("tcp dport { 25, 465, 8080 } meta skuid != 0 redirect to :25", {25, 465}),
        ("tcp dport 25 redirect", {25}),
        ("tcp dport 1-600 dnat to 127.0.0.1:25", {25, 465, 587}),
        ("tcp dport { 1-30, 2525 } counter packets 5 bytes 300 redirect to :26", {25, 2525}),
        ("tcp dport 25 accept", set()),
        ("udp dport 53 redirect", set()),
        ("tcp dport smtp redirect", set()),
        ("redirect to :25", set()),
    ],
)
def test_nft_redirects(rule: str, ports: set[int]) -> None:
    answers = {
        "list chains": CHAINS,
        "list chain ip nat OUTPUT": "table ip nat {\n chain OUTPUT {\n jump SMTPOUTPUT\n goto OUTPUT\n }\n}",
        "list chain ip nat SMTPOUTPUT": f"table ip nat {{\n chain SMTPOUTPUT {{\n {rule}\n }}\n}}",
    }

    def run(command: str) -> str:
        if command not in answers:
            raise NoDaemonError("no such chain")
        return answers[command]

    assert find_in_nft(run, PORTS) == ports


def test_endless_jumps_end() -> None:
    asked: list[str] = []

    def run(command: str) -> str:
        asked.append(command)
        return CHAINS if command == "list chains" else f"jump c{len(asked)}\n" * 3

    assert find_in_nft(run, PORTS) == set()
    assert len(asked) < 100


@pytest.mark.parametrize(
    ("line", "ports"),
    [
        ("-A OUTPUT -p tcp -m multiport --dports 25,465,587 -m owner ! --uid-owner 0 -j REDIRECT", {25, 465, 587}),
        ("-A SMTPOUTPUT -p tcp -m tcp --dport 25 -j DNAT --to-destination 127.0.0.1:25", {25}),
        ("-A OUTPUT -p tcp --dport 1:600 -j REDIRECT --to-ports 25", {25, 465, 587}),
        ("-A PREROUTING -p tcp --dport 25 -j REDIRECT", set()),
        ("-A OUTPUT -p tcp --dport 25 -j ACCEPT", set()),
        ("# comment --dport 25", set()),
    ],
)
def test_iptables_redirects(line: str, ports: set[int]) -> None:
    assert find_in_iptables(f"*nat\n{line}\nCOMMIT\n", PORTS) == ports


def test_panels(tmp_path: Path) -> None:
    host = ExaminedHost(Settings(), root=tmp_path)
    assert list(find_panel_hints(host)) == []
    (tmp_path / "var" / "cpanel").mkdir(parents=True)
    (tmp_path / "var" / "cpanel" / "smtpgidonlytweak").touch()
    (tmp_path / "etc" / "csf").mkdir(parents=True)
    (tmp_path / "etc" / "csf" / "csf.conf").write_text('# SMTP_BLOCK = "1"\nSMTP_REDIRECT = "1"\nSMTP_BLOCK = "0"\n')
    assert list(find_panel_hints(host)) == ["cPanel's SMTP Restrictions are on", "CSF has SMTP_REDIRECT on"]
    assert is_like(judge_nat({465, 25}, ["hint"]), "note", "ports 25 465 are redirected", "hint")
    assert is_like(judge_nat(set(), []), "ok")


# People


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(
        tmp_path,
        "etc/passwd",
        "root:x:0:0::/:\nwww-data:x:33:33::/:\nweb01:x:1001:1001::/:\nweb02:x:1002:1002::/:\nhosting:x:1003:1003::/:\n",
    )
    put(tmp_path, "etc/login.defs", "UID_MIN 1000\n")
    return tmp_path


def pool(name: str, user: str) -> str:
    return f"[{name}]\nuser = {user}\nlisten = /run/{name}.sock\n"


def test_shared_users_and_their_sites(root: Path) -> None:
    put(root, "etc/php/8.2/fpm/pool.d/a.conf", pool("shop.example", "www-data") + pool("blog.example", "www-data"))
    put(root, "etc/php/8.2/fpm/pool.d/b.conf", pool("web01", "web01") + pool("gone", "nobody-here"))
    put(root, "etc/php-fpm.d/c.conf", pool("one", "web02") + pool("two", "web02"))
    findings = list(check_shared(ExaminedHost(Settings(shared_users=frozenset({"www-data"})), root=root)))
    assert [finding.level for finding in findings] == ["bad", "note", "note"]
    assert is_like(findings[0], "bad", "www-data runs 2 PHP pools: blog.example, shop.example", "goes on sending")
    assert is_like(findings[1], "note", "web02 runs 2 PHP pools", "a block stops all")
    assert is_like(findings[2], "note", "1 users of PHP pools are no accounts")


def test_shared_user_that_may_be_blocked(root: Path) -> None:
    put(root, "etc/php-fpm.d/a.conf", pool("a", "hosting"))
    settings = Settings(shared_users=frozenset({"hosting"}), shared_block=frozenset({"hosting"}))
    assert is_like(next(iter(check_shared(ExaminedHost(settings, root=root)))), "note", "a block stops all of these")


def test_every_site_its_own_user(root: Path) -> None:
    put(root, "etc/php-fpm.d/a.conf", pool("a", "web01") + pool("b", "web02"))
    assert [f.level for f in check_shared(ExaminedHost(Settings(), root=root))] == ["ok"]


def test_pools_others_may_write_are_not_believed(root: Path) -> None:
    put(root, "etc/php-fpm.d/a.conf", pool("a", "www-data"))
    (root / "etc/php-fpm.d/a.conf").chmod(0o666)
    findings = list(check_shared(ExaminedHost(Settings(), root=root)))
    assert [finding.level for finding in findings] == ["ok", "unknown"]


def test_pools() -> None:
    text = b'[global]\nuser = x\n[a]\n;user = no\nuser = web01 ; why\n[b]\nuser="web02"\n[c]\nuser = $pool\n[d]\n'
    assert parse_pools(text) == [("a", "web01"), ("b", "web02")]
    assert parse_pools(b"user = x\n\xff\xfe") == []


def test_subordinate_uids(root: Path) -> None:
    assert is_like(next(iter(check_subordinate(ExaminedHost(Settings(), root=root)))), "ok", "0 ranges")
    put(root, "etc/nsswitch.conf", "passwd: files sss\nsubid: sss\n")
    assert is_like(next(iter(check_subordinate(ExaminedHost(Settings(), root=root)))), "bad", "takes them from sss")
    put(root, "etc/nsswitch.conf", "subid: files\n")
    put(root, "etc/subuid", "web01:100000:10\nweb02:100005:10\n")
    assert is_like(
        next(iter(check_subordinate(ExaminedHost(Settings(), root=root)))), "bad", "100005-100009 belongs to uids"
    )


def test_mail_servers() -> None:
    assert is_like(judge_mail_servers([]), "note", "exempt.users")
    assert is_like(judge_mail_servers([f"m{i} (x)" for i in range(12)]), "ok", "m0 (x)", "and 2 more")


# Places


def test_configuration() -> None:
    def judge(settings: Settings, problem: ConfigError | None = None, path: str | None = None) -> Finding:
        return next(iter(check_configuration(ExaminedHost(settings, problem=problem, path=path))))

    assert is_like(judge(Settings()), "note", "dry run (normal for the first days)", "Next: smtpguard blocks")
    assert is_like(judge(Settings(dry_run=False, path="/x")), "ok", "/x: enforcing")
    assert is_like(judge(Settings(dry_run=False, sources="none")), "fatal", "no connection is seen")
    assert is_like(judge(Settings(), ConfigError("bad\nworse", where="/x:3")), "fatal", "/x:3: bad", "does not start")
    assert judge(Settings(), ConfigError("bad"), "/a b.yaml").fix == "smtpguard check --config '/a b.yaml'"


def test_directories(tmp_path: Path) -> None:
    assert is_like(judge_directory("log", f"{tmp_path}/a/b/c.log", "lost"), "ok", "is made at the start")
    assert is_like(judge_directory("log", f"{tmp_path}/c.log", "lost"), "ok", "c.log")
    tmp_path.chmod(0o777)
    assert is_like(judge_directory("state", f"{tmp_path}/c.db", "forgotten"), "bad", "may write", "forgotten")
    tmp_path.chmod(0o700)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.statvfs", lambda _: type("S", (), {"f_bavail": 10, "f_frsize": 1_000_000}))
    assert is_like(judge_directory("log", f"{tmp_path}/c.log", "lost"), "bad", "10 MB are free", "lost")


FAIL2BAN: list[tuple[dict[str, object], str, str]] = [
    ({}, "ok", "runs, with the jail"),
    ({"runs": False}, "note", "does not run"),
    ({"runs": False, "needed": True}, "fatal", "nobody would be blocked"),
    ({"missing": ["jail.d/smtpguard.conf"]}, "note", "smtpguard setup"),
    ({"missing": ["jail.d/smtpguard.conf"], "needed": True}, "fatal", "smtpguard setup"),
    ({"is_installed": False}, "ok", "not needed"),
    ({"is_installed": False, "needed": True}, "fatal", "block.by: guard"),
]


@pytest.mark.parametrize(("given", "level", "word"), FAIL2BAN)
def test_fail2ban(given: dict[str, object], level: str, word: str) -> None:
    fields: dict[str, object] = {"is_installed": True, "missing": [], "runs": True, "needed": False, **given}
    assert is_like(judge_fail2ban(**fields), level, word)  # type: ignore[arg-type]


def test_time() -> None:
    assert is_like(judge_time(is_kept=True), "ok")
    assert is_like(judge_time(is_kept=False), "note", "chrony")


# Sources, and the whole


@pytest.mark.parametrize(
    ("setting", "usable", "level", "words"),
    [
        ("auto", ["bpf", "proc"], "ok", ["bpf", "every way"]),
        ("auto", ["proc"], "ok", ["proc", "short sessions"]),
        ("auto", [], "fatal", ["nobody is ever stopped"]),
        ("none", ["bpf"], "fatal", ["nothing is seen"]),
        (("proc", "bpf"), ["bpf", "proc"], "ok", ["proc, bpf", "every way"]),
        (("bpf", "proc"), ["proc"], "bad", ["not bpf", "short sessions"]),
        (("bpf",), ["proc"], "fatal", []),
    ],
)
def test_sources(setting: str | tuple[str, ...], usable: list[str], level: str, words: list[str]) -> None:
    assert is_like(judge_sources(setting, usable, {"bpf": "", "proc": "short sessions"}), level, *words)


@pytest.mark.parametrize("error", [OSError(13, "Permission denied"), NoDaemonError("gone"), ValueError("odd")])
def test_a_check_that_cannot_look_says_so(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: ExaminedHost) -> Iterator[Finding]:
        raise error

    def work(_: ExaminedHost) -> Iterator[Finding]:
        yield Finding(name="b", level="ok", found="x")

    checks: dict[str, Callable[[ExaminedHost], Iterator[Finding]]] = {"a": fail, "b": work}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    findings = examine(ExaminedHost(Settings()))
    assert [(finding.name, finding.level) for finding in findings[:2]] == [("a", "unknown"), ("b", "ok")]
    assert isinstance(error, OSError | GuardError | ValueError)


def test_customers_with_the_numbers_of_before(root: Path) -> None:
    lines = [
        "root:x:0:0::/root:/bin/bash",
        "old01:x:501:501::/home/old01:/bin/bash",
        "panel:x:502:502::/srv/panel:/sbin/nologin",
        "nologin:x:503:503::/home/nologin:/sbin/nologin",
        "daemon:x:504:504::/var/lib/daemon:/bin/sh",
        "early:x:101:101::/home/early:/bin/bash",
        "web01:x:1001:1001::/home/web01:/bin/bash",
    ]
    put(root, "etc/passwd", "\n".join(lines) + "\n")
    put(root, "var/cpanel/users/panel", "")
    (found,) = check_old_numbers(ExaminedHost(Settings(), root=root))
    assert is_like(found, "bad", "customers with a uid below 1000: old01, panel", "never refused")
    assert found.fix == "uid_min: 500 in the configuration"
    mended = ExaminedHost(Settings(uid_min=500), root=root)
    (found,) = check_old_numbers(mended)
    assert is_like(found, "ok", "below 500")
    standings = [mended.accounts.account(uid).standing for uid in (501, 502, 101, 1001)]
    assert standings == ["tenant", "tenant", "shared", "tenant"]


SHIPPED = Rule(name="volume", count="bytes", limit=1, window_ns=1)


@pytest.mark.parametrize(
    ("shipped", "outcomes", "level", "words"),
    [
        ({"volume"}, True, "ok", ["all 1 can be counted"]),
        ({"volume"}, False, "note", ["inactive: volume"]),
        ({"volume"}, None, "unknown", ["volume", "can't be looked at"]),
        (set[str](), False, "bad", ["can't be counted here: volume", "never exceeded"]),
    ],
)
def test_rules_that_need_bpf(shipped: set[str], outcomes: bool | None, level: str, words: list[str]) -> None:
    settings = Settings(rules=(SHIPPED,), shipped_rules=frozenset(shipped))
    (finding,) = judge_rules(settings, outcomes)
    assert is_like(finding, level, *words)


def test_a_file_of_metrics_needs_a_directory_of_roots(tmp_path: Path) -> None:
    def look(path: Path | None) -> Finding:
        settings = Settings(metrics_textfile=None if path is None else str(path))
        (finding,) = check_metrics(ExaminedHost(settings))
        return finding

    assert is_like(look(None), "ok", "not wanted")
    assert is_like(look(tmp_path / "smtpguard.prom"), "ok", "smtpguard.prom")
    assert is_like(
        look(tmp_path / "textfiles" / "smtpguard.prom"),
        "bad",
        "textfiles: not accessible: No such file",
        f"install -d -m 0755 {tmp_path}/textfiles",
        "Prometheus gets no figures",
    )
    (tmp_path / "theirs").mkdir(mode=0o777)
    (tmp_path / "theirs").chmod(0o777)
    assert is_like(look(tmp_path / "theirs" / "smtpguard.prom"), "bad", "everybody may write")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a directory is given away")
def test_a_directory_of_prometheus_itself_can_not_be_written_by_a_root_without_capabilities(tmp_path: Path) -> None:
    os.chown(tmp_path, 110, 110)
    (finding,) = check_metrics(ExaminedHost(Settings(metrics_textfile=str(tmp_path / "smtpguard.prom"))))
    assert is_like(finding, "bad", "belongs to uid 110: root may not write there", f"chown root {tmp_path}")
