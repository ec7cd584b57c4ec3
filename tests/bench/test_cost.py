"""What the running daemon adds to a connect(), by sensor, beside the bare connect() in the same run.

The daemon comes and goes, so that each round has all variants: a shared machine's own pace wanders. What it costs the
daemon is not in these figures, only what the tenant's own program pays.
"""

import json
import statistics
import sys
from pathlib import Path

import pytest

from smtpguard.demo.lab import PEER4
from tests.support.host import SPAMMER, Host

pytestmark = [pytest.mark.bench, pytest.mark.kernel]

GUARDED, OTHER = 26, 81
"""Two ports where nobody listens; the first is guarded."""
ROUNDS, CONNECTS = 3, 250
RULE = {"name": "many", "count": "connections", "limit": 1_000_000, "window": "1h", "action": "warn"}
BAR_US = 0.5


def knock(host: Host) -> dict[int, float]:
    """CPU microseconds of a connect(), by port."""
    words = [str(SPAMMER[1]), PEER4, str(CONNECTS), str(GUARDED), str(OTHER)]
    done = host.lab.run([sys.executable, str(Path(__file__).with_name("knock.py")), *words], inside=True)
    assert done.returncode == 0, done.stderr
    return {int(port): ns / 1000 for port, ns in json.loads(done.stdout).items()}


def test_cost_of_a_connect_with_the_daemon() -> None:
    found: dict[tuple[str, int], list[float]] = {}
    with Host(rules=[RULE], ports=[GUARDED]) as host:
        for _ in range(ROUNDS):
            for variant in ("unguarded", "bpf", "unguarded", "nflog"):
                if variant != "unguarded":
                    host.configure(sources=[variant])
                    host.start()
                for port, cost in knock(host).items():
                    found.setdefault((variant, port), []).append(cost)
                if variant != "unguarded":
                    host.stop()
                    host.nft("flush", "ruleset")
    best = {key: min(costs) for key, costs in found.items()}
    for (variant, port), cost in best.items():
        bare = best["unguarded", port]
        name = "guarded port" if port == GUARDED else "another port"
        spread = statistics.median(found[variant, port])
        print(f"{variant:10} {name}: {cost:6.2f} us  x{cost / bare:.2f}  {cost - bare:+.2f} us (median {spread:.2f})")
    for variant in ("bpf", "nflog"):
        assert best[variant, OTHER] - best["unguarded", OTHER] < 3 * BAR_US + 0.1 * best["unguarded", OTHER]
