"""What a child compiled and we send is what nft itself would have loaded; the child can do little else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.actions.nft.enforcer import NftEnforcer, read_templates
from smtpguard.actions.nft.render import render_ruleset
from smtpguard.errors import EnforceError
from smtpguard.kernel.capabilities import read_held
from smtpguard.kernel.nft.compiler import Compiler
from smtpguard.kernel.nft.socket import NftError
from tests.support.host import wait_for
from tests.support.netlab import NetnsNft, run
from tests.support.processes import has_ended
from tests.unit.test_nft_render import TOPICS

pytestmark = pytest.mark.kernel

OWN_TEXT = """
table inet smtpguard {
	counter mine { packets 5 bytes 6 }
	set blocked { type uid; flags interval,timeout; comment "of our own"; }
	map lists { type inet_service : verdict; elements = { 25 : drop, 26 : accept }; }
	set hosts { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 comment "a net", 198.51.100.7 }; }
	chain output {
		type filter hook output priority -150; policy accept;
		tcp dport { 25, 465, 2000-2999 } meta skuid { 1001, 2000-2999 } counter packets 7 bytes 8 comment "both sorts"
		ip daddr . tcp dport { 192.0.2.1 . 25, 192.0.2.2 . 587 } accept
		tcp dport vmap { 25 : jump aside, 465 : drop }
		ip daddr @hosts tcp dport vmap @lists
		counter name tcp dport map { 25 : "mine", 26 : "mine" }
		ct state established limit rate 5/second burst 7 packets log prefix "seen " group 7
		meta skuid 0 tcp flags & (fin|syn) == syn reject with tcp reset
	}
	chain aside { ip6 daddr { 2001:db8::/32, ::1 } counter reject with icmpx admin-prohibited; }
}
"""


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    name = f"sgk-{os.urandom(3).hex()}"
    run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        run("ip", "netns", "delete", name)


@pytest.fixture(scope="module")
def nft(netns: str) -> NetnsNft:
    return NetnsNft(netns)


def load_by_nft(netns: str, text: str) -> str:
    prefix = ["nsenter", f"--net=/run/netns/{netns}", "nft"]
    subprocess.run([*prefix, "flush", "ruleset"], check=True, timeout=20)
    subprocess.run([*prefix, "-f", "-"], input=text, text=True, check=True, timeout=20)
    return read_ruleset(netns)


def read_ruleset(netns: str) -> str:
    command = ["nsenter", f"--net=/run/netns/{netns}", "nft", "-n", "-s", "list", "ruleset"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


@pytest.mark.parametrize("topic", TOPICS)
def test_the_table_is_the_one_that_nft_makes_of_the_text(topic: str, netns: str, nft: NetnsNft) -> None:
    spec, exemptions = TOPICS[topic]
    expected = load_by_nft(netns, render_ruleset(spec, exemptions, read_templates()))
    enforcer = NftEnforcer(spec, nft=nft, exemptions=exemptions)
    for found in (False, True):
        if not found:
            nft.run("flush ruleset")
        enforcer.ensure()
        nft.run("flush set inet smtpguard alive" if spec.cap else "")  # the guard's sign of life, which ends by itself
        assert read_ruleset(netns) == expected
    enforcer.remove()
    assert read_ruleset(netns) == ""


def test_an_administrators_text_is_sent_as_it_is(netns: str, nft: NetnsNft) -> None:
    expected = load_by_nft(netns, OWN_TEXT)
    nft.run("flush ruleset")
    for _ in range(2):
        nft.transact(nft.compile("smtpguard", OWN_TEXT).render())
        assert read_ruleset(netns) == expected
    nft.run("flush ruleset")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("table inet smtpguard { nonsense }", NftError, "syntax error"),
        ("table inet other { }", EnforceError, "No such file|other"),
        ("table inet smtpguard { }\ntable ip other { }", EnforceError, "other"),
        ("table inet smtpguard { chain c { meta skuid www-data accept; } ; }", NftError, "User does not exist"),
        ("table inet smtpguard { chain c { jump { accept; } ; } ; }", EnforceError, "without a name"),
        ("", EnforceError, "No such file"),
    ],
)
def test_what_cannot_be_compiled_is_said(nft: NetnsNft, text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        nft.compile("smtpguard", text)
    assert nft.compile("smtpguard", OWN_TEXT).chains == ("output", "aside"), "the next one is not confused"


def test_the_child_is_nobody_in_an_empty_place_with_one_capability() -> None:
    compiler = Compiler()
    compiler.start()
    try:
        compiler.compile("smtpguard", OWN_TEXT)
        pid = compiler._pid
        held = read_held(pid)
        assert held.effective == held.permitted == {"NET_ADMIN"}
        assert held.no_new_privileges
        assert not held.bounding - {"NET_ADMIN", "SYS_CHROOT", "SETUID", "SETGID"}
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Uid:\t65535\t65535\t65535\t65535" in status
        assert list(Path(f"/proc/{pid}/root/").iterdir()) == []
        assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        assert "libnftables" in Path(f"/proc/{pid}/maps").read_text()
    finally:
        compiler.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(EnforceError, match="nobody compiles"):
        compiler._ask({})


def test_the_child_ends_with_whoever_started_it() -> None:
    program = """
from smtpguard.kernel.nft.compiler import Compiler
compiler = Compiler()
compiler.start()
compiler.compile("t", "table inet t { }")
print(compiler._pid, flush=True)
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    wait_for(lambda: has_ended(done.stdout.strip()))
