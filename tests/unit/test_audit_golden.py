"""Records as kernel 6.18 and auditd 3.0.9 wrote them, of every way to connect: what comes of them."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from smtpguard.decode.audit.decoder import AuditDecoder
from smtpguard.decode.audit.retries import Retries
from smtpguard.text import render_address, render_escaped

DATA = Path(__file__).parent.parent / "golden" / "data" / "audit"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.log")), ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_recorded_logs(path: Path, size: int, check_golden: Callable[[str, str], None]) -> None:
    decoder = AuditDecoder(ports=(25,), sensor="replay", retries=Retries())
    data = path.read_bytes()
    connects = [c for start in range(0, len(data), size) for c in decoder.feed(data[start : start + size])]
    connects += decoder.finish()
    lines = [
        json.dumps(
            {
                name: value if isinstance(value, int | str) else render_escaped(value)
                for name, value in asdict(connect).items()
                if value is not None and name not in {"address", "sensor", "credits"}
            }
            | {"address": render_address(connect.address)}
        )
        for connect in connects
    ]
    lines.append(json.dumps({name: count for name, count in asdict(decoder.counters).items() if count}))
    check_golden(f"audit/{path.stem}.jsonl", "\n".join(lines) + "\n")
