"""What the kernel and our capabilities allow: BPF, NFLOG, nftables. See facts in each docstring for what goes unseen.

Nothing is attached, no rule is written, and no module is loaded: where asking would load one, its file is looked for.
"""

import os
import shutil
from collections.abc import Iterator

from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.errors import GuardError
from smtpguard.interpreter import install_command

CAPABILITIES: dict[int, tuple[str, str]] = {
    12: ("NET_ADMIN", "nothing can be refused: no nftables, no attached BPF program"),
    39: ("BPF", "the BPF program can't be loaded"),
    38: ("PERFMON", "BPF events have no process names"),
    19: ("SYS_PTRACE", "no process, no script behind a connection"),
    2: ("DAC_READ_SEARCH", "scripts in tenants' directories are not found"),
    37: ("AUDIT_READ", "the source audit can't listen"),
    30: ("AUDIT_CONTROL", "the source audit can't set its rules"),
}
"""Bit of linux/capability.h to name and what its lack means."""
_SYS_ADMIN = 21
_STANDS_FOR = frozenset({38, 39})
"""CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON (capabilities(7))."""
UNSEEN_BY_NFT = (
    "SMTP of setuid programs, of sockets that root made for a user, and of containers with a network of their own"
)


def check_capabilities(host: ExaminedHost) -> Iterator[Finding]:
    """What this process may do; a service may be allowed less (CapabilityBoundingSet=)."""
    text = host.read("proc/self/status") or ""
    words = [line.split()[1] for line in text.splitlines() if line.startswith("CapEff:")]
    yield judge_capabilities(int(words[0], 16) if words else None)


def judge_capabilities(mask: int | None) -> Finding:
    """What a set of effective capabilities lacks.

    Args:
        mask: Bits as in CapEff of proc_pid_status(5); None if not known.
    """
    name = "capabilities"
    if mask is None:
        return Finding(name=name, level="unknown", found="the kernel does not say", means="try and see")
    has_admin = bool(mask >> _SYS_ADMIN & 1)
    lacking = [
        (title, means)
        for bit, (title, means) in CAPABILITIES.items()
        if not mask >> bit & 1 and not (has_admin and bit in _STANDS_FOR)
    ]
    if not lacking:
        return Finding(name=name, level="ok", found="all that are needed")
    return Finding(
        name=name,
        level="fatal" if any(title == "NET_ADMIN" for title, _ in lacking) else "bad",
        found="missing: " + ", ".join(f"CAP_{title}" for title, _ in lacking),
        means="; ".join(means for _, means in lacking),
        fix="run as root; in a container, give it these",
    )


def check_bpf(host: ExaminedHost) -> Iterator[Finding]:
    """The source bpf: sees every way to open a connection, and refuses it where it is opened."""
    from smtpguard.sources.bpf.cgroup import read_cgroup
    from smtpguard.sources.bpf.features import Features, probe_features

    features: Features | None = None
    problem = ""
    cgroup: str | None = None
    try:
        features = probe_features()
        cgroup = str(read_cgroup(host.settings.cgroup))
    except GuardError as error:
        problem = str(error)
    wanted = host.settings.sources == "auto" or "bpf" in host.settings.sources
    yield judge_bpf(cgroup, features.missing() if features else [], problem, wanted=wanted)


def judge_bpf(cgroup: str | None, missing: list[str], problem: str, *, wanted: bool) -> Finding:
    """Whether the source bpf can be had.

    Args:
        cgroup: Where it would be attached; None if that could not be found.
        missing: What the kernel does not let it ask.
        problem: Why it can't be had; "" if it can.
        wanted: Whether the configuration asks for it.
    """
    if problem:
        return Finding(
            name="bpf",
            level="bad" if wanted else "note",
            found=problem,
            means="without bpf, limits are kept by nftables alone; unseen and not refused there: " + UNSEEN_BY_NFT,
            fix="a kernel from 5.8 (EL 8 and later have it), cgroup v2 mounted, libbpf1 installed, CAP_BPF",
        )
    if missing:
        return Finding(name="bpf", level="note", found=f"loads; attaches to {cgroup}", means="; ".join(missing))
    return Finding(
        name="bpf", level="ok", found=f"loads; attaches to {cgroup}", means="every way to open a connection is seen"
    )


def is_loaded(host: ExaminedHost, name: str) -> bool:
    """Whether a part of the kernel is there already: built in, or a module that is loaded.

    Args:
        host: What is looked at.
        name: Module name with underscores.
    """
    if (host.root / "sys/module" / name).is_dir():
        return True
    symbol = _SYMBOLS.get(name)
    if symbol is None:
        return False
    # A part that is built in and takes no parameters shows itself nowhere else; 5 to 15 MB, 0.05 s.
    with (host.root / "proc/kallsyms").open("rb") as lines:
        return any(symbol in line for line in lines)


def find_module(host: ExaminedHost, name: str) -> bool | None:
    """Whether a kernel module is there: loaded, built in, or on disk to be loaded; None if nobody can say.

    Args:
        host: What is looked at.
        name: Module name with underscores.
    """
    if is_loaded(host, name):
        return True
    folder = f"lib/modules/{os.uname().release}"
    known = False
    for index in ("modules.builtin", "modules.dep"):
        text = host.read(f"{folder}/{index}", 8 << 20)
        if text is not None:
            known = True
            if any(line.split(":")[0].endswith(f"/{name}.ko{end}") for line in text.splitlines() for end in _ENDS):
                return True
    return False if known else None


_SYMBOLS = {"nf_tables": b" nft_do_chain", "nfnetlink_log": b" nfulnl_log_packet"}
_ENDS = ("", ".xz", ".zst", ".gz")


def check_nflog(host: ExaminedHost) -> Iterator[Finding]:
    """The source nflog: sees what leaves through the output hook, with the socket maker's uid."""
    yield judge_nflog(available=find_module(host, "nfnetlink_log"))


def judge_nflog(*, available: bool | None) -> Finding:
    """Whether the source nflog can be had.

    Args:
        available: Whether the kernel has it; None if nobody can say.
    """
    if available:
        return Finding(name="nflog", level="ok", found="the kernel has it", means="not seen by it: " + UNSEEN_BY_NFT)
    if available is None:
        found = "not loaded, and no list of this kernel's modules is here"
        return Finding(name="nflog", level="unknown", found=found, means="it may be built in; only trying tells")
    return Finding(
        name="nflog",
        level="note",
        found="this kernel has no nfnetlink_log",
        means="where bpf is not available, the next source is audit or the log",
        fix="install the kernel's extra modules (linux-modules-extra, kernel-modules)",
    )


def check_nft(host: ExaminedHost) -> Iterator[Finding]:
    """nftables: refuses by uid sets whose elements the kernel ends itself, daemon or no daemon."""
    from smtpguard.decode.netlink.nft_numbers import INET, Kind
    from smtpguard.errors import EnforceError
    from smtpguard.kernel.nft.access import open_nft
    from smtpguard.kernel.nft.text import LibraryNft

    try:
        LibraryNft()
    except EnforceError:
        library = False
    else:
        library = True
    answer = ""
    if is_loaded(host, "nf_tables"):
        try:
            open_nft().get(Kind.GETTABLE, INET, dump=True)
        except GuardError as error:
            answer = str(error)
    program = shutil.which("nft") is not None
    yield judge_nft(library=library, program=program, module=find_module(host, "nf_tables"), answer=answer)
    if not answer and (library or program) and is_loaded(host, "nf_tables"):
        yield from _judge_ruleset(host)


def _judge_ruleset(host: ExaminedHost) -> Iterator[Finding]:
    """Whether the ruleset compiles, an administrator's own one too; nothing where it does."""
    from smtpguard.actions.nft.render import build_spec
    from smtpguard.actions.nft.table import OwnTable

    try:
        OwnTable(build_spec(host.settings)).compile()
    except GuardError as error:
        yield Finding(
            name="nftables ruleset",
            level="bad",
            found=str(error),
            means="no table can be loaded: nobody is refused by nftables",
            fix="compare the files below /etc/smtpguard/nft with the shipped ones",
        )


def judge_nft(*, library: bool, program: bool, module: bool | None, answer: str) -> Finding:
    """Whether nftables can be used.

    Args:
        library: libnftables and its Python binding load.
        program: There is an `nft` program.
        module: The kernel has nf_tables; None if nobody can say.
        answer: What went wrong when the kernel was asked; "" if nothing.
    """
    name = "nftables"
    if not (library or program):
        return Finding(
            name=name,
            level="fatal",
            found="neither libnftables nor the nft program is here",
            means="the ruleset can't be compiled: blocks would not outlive the daemon, open sessions would live on",
            fix="apt-get install libnftables1, or dnf install nftables",
        )
    if answer:
        return Finding(
            name=name,
            level="bad",
            found=f"the kernel refused to list tables: {answer}",
            means="blocks can't be kept in nftables",
            fix="run as root, or with CAP_NET_ADMIN",
        )
    if module is False:
        return Finding(
            name=name,
            level="fatal",
            found="this kernel has no nf_tables",
            means="blocks would not outlive the daemon, and open sessions would not be ended",
            fix="a kernel with CONFIG_NF_TABLES",
        )
    if not library:
        return Finding(
            name=name,
            level="note",
            found="the nft program, without libnftables",
            means="each ruleset compiled starts a process, and names in nft files of your own are looked up",
            fix="install libnftables (Debian: libnftables1; EL: nftables), then "
            + install_command("oxl-libnftables", debian="python3-nftables"),
        )
    if module is None:
        found = "libnftables is here; whether this kernel has nf_tables only trying tells"
        return Finding(name=name, level="unknown", found=found)
    return Finding(name=name, level="ok", found="libnftables and nf_tables")
