"""Does something redirect users' SMTP to the local mail server? CSF and cPanel do, by NAT in the output hook.

Our chain at -150 and BPF see the original destination, so limits and refusals hold; but such mail then leaves as the
mail server's. Rules are listed, never changed; iptables is asked only where its nat table is in use.
"""

import re
import shutil
import subprocess
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.doctor.kernel import is_loaded
from smtpguard.errors import GuardError

MAX_CHAINS = 64
TIMEOUT_S = 10.0
_TABLE = re.compile(r"^\s*table (\S+) (\S+) \{")
_CHAIN = re.compile(r"^\s*chain (\S+) \{")
_NAT_OUTPUT = re.compile(r"\btype nat hook output\b")
_JUMP = re.compile(r"\b(?:jump|goto) (\S+)")
_NFT_PORTS = re.compile(r"\bdport (\{[^}]*\}|\S+)")
_NFT_TARGET = re.compile(r"\b(?:redirect|dnat)\b")
_IPTABLES_PORTS = re.compile(r"--dports? (\S+)")
_IPTABLES_TARGET = re.compile(r"-j (?:REDIRECT|DNAT)\b")
Chain = tuple[str, str, str]


def check_nat(host: ExaminedHost) -> Iterator[Finding]:
    """Redirections of SMTP ports in nftables, iptables, and by panels' settings."""
    hints = list(find_panel_hints(host))
    redirected: set[int] = set()
    if host.root == Path("/"):
        redirected = read_redirected(host)
    yield judge_nat(redirected, hints)


def judge_nat(redirected: Collection[int], hints: list[str]) -> Finding:
    """What redirections mean.

    Args:
        redirected: Guarded ports that some rule sends elsewhere.
        hints: Settings of panels that make such rules.
    """
    name = "redirects"
    if not redirected and not hints:
        return Finding(name=name, level="ok", found="no rule redirects users' SMTP")
    found = [f"ports {' '.join(map(str, sorted(redirected)))} are redirected by a nat rule"] if redirected else []
    return Finding(
        name=name,
        level="note",
        found="; ".join([*found, *hints]),
        means=(
            "users' SMTP may end at the local mail server, which sends it on as its own; counting and refusing come "
            "before that, but destinations are those the user asked for"
        ),
    )


def find_panel_hints(host: ExaminedHost) -> Iterator[str]:
    """Settings of cPanel and CSF that keep users from speaking SMTP."""
    if (host.root / "var/cpanel/smtpgidonlytweak").exists():
        yield "cPanel's SMTP Restrictions are on"
    text = host.read("etc/csf/csf.conf") or ""
    for key in ("SMTP_BLOCK", "SMTP_REDIRECT"):
        if re.search(rf'^\s*{key}\s*=\s*"1"', text, re.MULTILINE):
            yield f"CSF has {key} on"


def read_redirected(host: ExaminedHost) -> set[int]:
    """Guarded ports that a nat rule of the output hook sends elsewhere.

    Args:
        host: What is looked at.
    """
    ports = host.settings.ports
    found: set[int] = set()
    if is_loaded(host, "nf_tables"):  # asking would load it otherwise
        from smtpguard.kernel.nft.text import open_text_nft

        found |= find_in_nft(open_text_nft().run, ports)
        found |= find_in_iptables(_run("iptables-nft-save", "-t", "nat"), ports)
        found |= find_in_iptables(_run("ip6tables-nft-save", "-t", "nat"), ports)
    for family, program in (("ip", "iptables-legacy-save"), ("ip6", "ip6tables-legacy-save")):
        names = Path(f"/proc/net/{family}_tables_names")
        if names.exists() and "nat" in names.read_text().split():
            found |= find_in_iptables(_run(program, "-t", "nat"), ports)
    return found


def _run(*argv: str) -> str:
    """Output of a program that lists; "" if it is not here."""
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    return done.stdout


def find_in_iptables(text: str, ports: Collection[int]) -> set[int]:
    """Guarded ports that rules as iptables-save(8) writes them send elsewhere.

    Args:
        text: Its output.
        ports: The guarded ports.
    """
    found: set[int] = set()
    for line in text.splitlines():
        match = _IPTABLES_PORTS.search(line)
        if match and _IPTABLES_TARGET.search(line) and not line.startswith("-A PREROUTING"):
            found |= _among(match[1].split(","), ":", ports)
    return found


class RunNft(Protocol):
    """Runs commands of nft's language."""

    def __call__(self, text: str, /) -> str:
        """What a command prints. Raises EnforceError."""
        ...


def find_in_nft(run: RunNft, ports: Collection[int]) -> set[int]:
    """Guarded ports that nftables' nat chains of the output hook, and chains these jump to, send elsewhere.

    Chains are listed one by one: a whole ruleset may have sets of a hundred thousand elements.

    Args:
        run: Runs a command of nft's language.
        ports: The guarded ports.
    """
    found: set[int] = set()
    waiting = deque(parse_nat_chains(run("list chains")))
    seen: set[Chain] = set()
    while waiting and len(seen) < MAX_CHAINS:
        chain = waiting.popleft()
        if chain in seen:
            continue
        seen.add(chain)
        try:
            text = run(f"list chain {' '.join(chain)}")
        except GuardError:
            continue  # gone meanwhile, or of a kind that this nft can't show
        for line in text.splitlines():
            waiting.extend((*chain[:2], target) for target in _JUMP.findall(line))
            match = _NFT_PORTS.search(line)
            if match and _NFT_TARGET.search(line):
                found |= _among(match[1].strip("{}").replace(",", " ").split(), "-", ports)
    return found


def parse_nat_chains(text: str) -> list[Chain]:
    """Family, table and name of the nat chains of the output hook.

    Args:
        text: Output of `nft list chains`.
    """
    chains: list[Chain] = []
    table: tuple[str, str] | None = None
    name = ""
    for line in text.splitlines():
        if match := _TABLE.match(line):
            table = (match[1], match[2])
        elif match := _CHAIN.match(line):
            name = match[1]
        elif table and _NAT_OUTPUT.search(line):
            chains.append((*table, name))
    return chains


def _among(words: list[str], dash: str, ports: Collection[int]) -> set[int]:
    """Guarded ports among ports and ranges of them."""
    found: set[int] = set()
    for word in words:
        first, _, last = word.partition(dash)
        if first.isdigit() and (not last or last.isdigit()):
            found |= {port for port in ports if int(first) <= port <= int(last or first)}
    return found
