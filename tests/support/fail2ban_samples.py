"""Reads the samples for fail2ban's filters: `# failJSON:` above each log line, as fail2ban's own tests have it."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "golden" / "data" / "fail2ban"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One log line and what the filter has to make of it.

    Attributes:
        line: The line.
        match: Whether it is a failure at all.
        id: The failure id.
        uid: What reaches the action as <F-UID>.
        time: Seconds since the epoch; None where the line carries no date of its own.
        refused: A connection that was refused already, which the shipped jail leaves out.
    """

    line: str
    match: bool
    id: str | None = None
    uid: str | None = None
    time: float | None = None
    refused: bool = False


def read_samples(name: str) -> list[Sample]:
    """All samples of a filter."""
    samples = []
    expected: dict[str, object] | None = None
    for text in (DATA / name).read_text(encoding="ascii").splitlines():
        if text.startswith("# failJSON: "):
            expected = json.loads(text.removeprefix("# failJSON: "))
        elif text and not text.startswith("#"):
            assert expected is not None, f"no failJSON above {text!r}"
            samples.append(_build(text, expected))
            expected = None
    assert samples
    return samples


def _build(line: str, expected: dict[str, object]) -> Sample:
    time = expected.get("time")
    return Sample(
        line=line,
        match=expected["match"] is True,
        id=_text(expected.get("id")),
        uid=_text(expected.get("uid")),
        time=datetime.fromisoformat(str(time)).timestamp() if time else None,
        refused=expected.get("refused") is True,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
