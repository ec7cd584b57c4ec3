"""Which helpers and hooks the running kernel grants the program, found by trying: versions are never compared.

Distributions backport BPF features freely, and some depend on capabilities, so the only honest question is whether the
verifier takes a program that uses them.
"""

import errno
import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from smtpguard.errors import SourceError
from smtpguard.kernel.capabilities import read_held
from smtpguard.kernel.heap import give_back_memory
from smtpguard.sources.bpf.libbpf import BpfError, describe
from smtpguard.sources.bpf.objects import BpfObject

_log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_BTF = Path("/sys/kernel/btf/vmlinux")
_PROBE_RING_BYTES = 4096
OUTCOME_PROGRAM = "smtpguard_outcome"
ENTER_PROGRAM = "smtpguard_enter"
TELL_PROGRAMS = ("smtpguard_peer4", "smtpguard_peer6")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What this kernel, with these capabilities, lets the program do.

    Attributes:
        pid: The caller's process id; refused in this program type by kernels before 6.10.
        comm: The caller's name; needs CAP_PERFMON.
        netns: The network namespace; without it a container's uid is taken for the host's.
        outcome: What became of a connection; a sockops program.
        tell: A refused sender can be led to a responder; getpeername hooks, kernel 5.8.
        creator: Who made the socket; needs CAP_PERFMON and the kernel's type information (BTF).
        keys: Destinations and networks rules are enforced where connect() happens; needs CAP_PERFMON, or the verifier
            has too much to look at.
        storage: What is known of a socket is kept with the socket; else in a map, of which each user has a share.
    """

    pid: bool = True
    comm: bool = True
    netns: bool = True
    outcome: bool = True
    tell: bool = True
    creator: bool = True
    keys: bool = True
    storage: bool = True

    def missing(self) -> list[str]:
        """What will be lacking, for people."""
        texts = {
            "pid": "no process ids: this kernel refuses bpf_get_current_pid_tgid here",
            "comm": "no process names: CAP_PERFMON is lacking, or this kernel refuses bpf_get_current_comm here",
            "netns": "network namespaces are not told apart: a container's uid counts as the host's",
            "outcome": "no outcomes and bytes: this kernel refuses the sockops program",
            "tell": "block.verdict: tell refuses without a word: this kernel has no getpeername hooks for programs",
            "keys": "rules that count destinations or networks are judged by the daemon alone: no CAP_PERFMON, or"
            " this kernel does not take the program with them",
            "storage": "bytes and outcomes of at most 1,024 open sessions of a user are followed: this kernel keeps"
            " nothing with a socket",
            "creator": "a blocked user's socket in another user's hands passes: no BTF, or CAP_PERFMON is lacking",
        }
        return [text for name, text in texts.items() if not getattr(self, name)]


def list_preferences() -> list[Features]:
    """The sets of features to try, best first."""
    # Without CAP_PERFMON the verifier gives up on the keys only after seconds: not tried.
    keys = (True, False) if read_held().effective & {"PERFMON", "SYS_ADMIN"} else (False,)
    plain = [
        Features(
            pid=pid,
            comm=comm,
            netns=netns,
            outcome=outcome,
            tell=tell,
            creator=False,
            keys=with_keys,
            storage=storage,
        )
        for outcome, tell, netns, pid, comm in itertools.product((True, False), repeat=5)
        for storage in ((True, False) if outcome else (False,))
        for with_keys in keys
    ]
    best = [Features(keys=with_keys, storage=storage) for with_keys in keys for storage in (True, False)]
    return [*best, *plain] if _BTF.exists() else plain


def probe_features() -> Features:
    """What this kernel lets the program do: loads it once, attaches it nowhere, and lets go.

    Raises:
        GuardError: It does not load; says why.
    """
    loaded, features = load_object(_PROBE_RING_BYTES, list_preferences())
    loaded.close()
    return features


def probe_outcomes() -> bool:
    """Whether this kernel lets the program report what became of connections: loads the smallest one that does.

    Raises:
        PrivilegeError: A capability is lacking, so nobody knows.
    """
    bare = Features(pid=False, comm=False, netns=False, tell=False, creator=False, keys=False)
    try:
        loaded, _ = load_object(_PROBE_RING_BYTES, [bare])
    except SourceError:
        return False
    loaded.close()
    return True


def load_object(
    ring_bytes: int, preferences: Iterable[Features], sizes: Mapping[str, int] | None = None
) -> tuple[BpfObject, Features]:
    """Load the program with the first set of features that this kernel takes.

    Args:
        ring_bytes: Size of the event ring.
        preferences: Sets of features, best first.
        sizes: Most entries of other maps, by name.

    Raises:
        SourceError: It takes none of them.
        PrivilegeError: A capability is lacking.
    """
    failure: BpfError | None = None
    for features in preferences:
        name = "connect_creator" if features.creator else "connect"
        constants = bytes(
            [
                features.pid,
                features.comm,
                features.netns,
                features.outcome,
                features.tell,
                features.keys,
                features.storage,
            ]
        )
        try:
            loaded = BpfObject(
                (_HERE / f"{name}.bpf.o").read_bytes(),
                name,
                constants=constants,
                sizes={"events": ring_bytes, **(sizes or {})},
                autoload={OUTCOME_PROGRAM: features.outcome, ENTER_PROGRAM: features.keys}
                | dict.fromkeys(TELL_PROGRAMS, features.tell),
            )
        except BpfError as error:
            failure = error
            if error.errno == errno.EPERM:
                break
        else:
            give_back_memory()
            return loaded, features
    if failure is None:
        raise SourceError("no set of features to try", where="bpf")
    for line in getattr(failure, "__notes__", [])[-1:]:
        _log.debug("bpf: last attempt: %s", line)
    raise describe(
        failure,
        "this kernel does not load the BPF program",
        fix="it needs ring buffers (5.8, or EL 8) and cgroup/connect hooks; use another source",
    ) from failure
