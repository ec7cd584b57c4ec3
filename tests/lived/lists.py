"""Who is refused, by the guard's list and by the kernel's sets, and whether both say the same."""

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from smtpguard.model import NS
from tests.lived.model import HEARING_S

Blocks = Mapping[tuple[int, str], float]
"""(uid, kind) to its end, in seconds of our clock."""
_KINDS = {"blocked": "block", "throttled": "throttle"}


def parse_listed(items: Iterable[dict[str, Any]], to_real: Callable[[int], int]) -> Blocks:
    """What `blocks` answered.

    Args:
        items: Its rows.
        to_real: The daemon's wall clock to ours.
    """
    rows: dict[tuple[int, str], float] = {}
    for row in items:
        if row["kind"] in ("block", "throttle") and row["mode"] == "enforce" and row["netns"] is None:
            key = (row["uid"], row["kind"])
            rows[key] = max(rows.get(key, 0), to_real(round(row["until"] * NS)) / NS)
    return rows


def read_held(net: str) -> Blocks:
    """What the sets hold in a network namespace, those of single ports too; nothing where there is no table."""
    argv = ["nsenter", f"--net={net}", "nft", "-j", "list", "table", "inet", "smtpguard"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    now_s = time.time()
    held: dict[tuple[int, str], float] = {}
    if done.returncode != 0:
        return held
    for found in [part["set"] for part in json.loads(done.stdout)["nftables"] if "set" in part]:
        kind = _KINDS.get(found["name"].partition("_")[0])
        for element in found.get("elem", []) if kind is not None else ():
            value = element["elem"]
            if kind is not None and isinstance(value["val"], int):
                end_s = now_s + value["expires"] + 0.5  # whole seconds, rounded down
                held[value["val"], kind] = max(held.get((value["val"], kind), 0), end_s)
    return held


Difference = tuple[int, str, str]
"""Of whom, of which kind, and in what."""


def compare_lists(before: Blocks, held: Blocks, after: Blocks) -> dict[Difference, str]:
    """How the guard's list and the kernel's sets differ; what began or ended meanwhile may be in one alone.

    Args:
        before: (uid, kind) to its end, by the guard, before the kernel was asked.
        held: The same, by the kernel.
        after: As before, asked for afterwards.
    """
    now_s = time.time()
    stood = {key: end_s for key, end_s in after.items() if abs(before.get(key, 0) - end_s) < HEARING_S}
    found = {
        (*key, "listed"): f"{key} is listed for {end_s - now_s:.1f} s more and not in the kernel"
        for key, end_s in stood.items()
        if key not in held and end_s > now_s + HEARING_S
    }
    found |= {
        (*key, "held"): f"{key} is in the kernel for {end_s - now_s:.1f} s more and not listed"
        for key, end_s in held.items()
        if key not in before and key not in after
    }
    return found | {
        (*key, "end"): f"{key} ends in {end_s - now_s:.1f} s by the list, in {held[key] - now_s:.1f} s by the kernel"
        for key, end_s in stood.items()
        if key in held and abs(held[key] - end_s) > 1
    }
