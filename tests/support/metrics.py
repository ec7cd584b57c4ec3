"""A daemon's snapshot of metrics, as tests need it without a daemon; and what is read of the file."""

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from smtpguard.daemon.record.metric_totals import BUCKETS_S


def snapshot_of(**families: list[list[Any]]) -> dict[str, Any]:
    """One with every family; some are others."""
    found: dict[str, list[list[Any]]] = {
        "build_info": [["0.1.0", "bpf", "enforce", 1]],
        "start_time_seconds": [[1_700_000_000.5]],
        "guarding": [[1]],
        "dry_run": [[0]],
        "breaker_tripped": [[0]],
        "connects_total": [["bpf", "25", "allowed", 0], ["bpf", "25", "refused", 0]],
        "direct_smtp_egress_findings_total": [["bpf", 0]],
        "messages_total": [["postfix", 0], ["exim", 0]],
        "recipients_total": [["postfix", 0], ["exim", 0]],
        "verdicts_total": [["mx-fanout", "block", "enforce", 0]],
        "refusals_total": [["block", 0]],
        "blocks": [["block", "enforce", 0]],
        "out_of_step": [[0]],
        "losses_total": [["bpf", "lost", 0]],
        "part_failures_total": [["journal", 0]],
        "last_event_timestamp_seconds": [[0]],
        "spool_entries": [["event-log", 0], ["journal", 0], ["state", 0]],
    }
    buckets: list[list[float | str]] = [[end, 0] for end in (*BUCKETS_S, "+Inf")]
    return {"families": found | families, "response_seconds": {"buckets": buckets, "sum": 0}}


def read_samples(path: Path) -> dict[str, dict[tuple[str, ...], float]]:
    """The file's samples: name to values of labels, in the order of their names, to the value."""
    return parse_samples(path.read_text("ascii"))


def parse_samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """The same of a text."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            found.setdefault(sample.name, {})[tuple(labels[name] for name in sorted(labels))] = sample.value
    return found
