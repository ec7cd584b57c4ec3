"""The daemon's snapshot as Prometheus's text format, by prometheus-client. Pure.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from smtpguard.notify.metric_families import (
    BLOCK_LISTS,
    CHANNELS,
    CUSTOMER,
    FAMILIES,
    NOTIFICATION_KINDS,
    PREFIX,
    RESULTS,
    Family,
)

Sent = Mapping[tuple[str, str, str], int]
"""Notifications by kind, channel and result."""
_KINDS = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


Listed = tuple[list[list[Any]], list[list[Any]]]
"""Rows of `listed` and of `listed_asked`; none where no block list is asked."""


def render_metrics(
    snapshot: Mapping[str, Any], *, sent: Sent, spools: Mapping[str, int], listed: Listed = ([], [])
) -> bytes:
    """The whole text.

    Args:
        snapshot: As the daemon collects it.
        sent: What this process has sent.
        spools: What it still has to send.
        listed: On which block lists this host is.
    """
    families = dict(snapshot["families"])
    families |= {name: rows for name, rows in zip(("listed", "listed_asked"), listed, strict=True) if rows}
    registry = CollectorRegistry()
    registry.register(_Snapshot({**snapshot, "families": families}, sent, spools))
    return generate_latest(registry)


class _Snapshot(Collector):
    """One moment's figures, in the order of FAMILIES."""

    def __init__(self, snapshot: Mapping[str, Any], sent: Sent, spools: Mapping[str, int]) -> None:
        self._families: Mapping[str, list[list[Any]]] = snapshot["families"]
        self._responses = snapshot["response_seconds"]
        known = [*product(NOTIFICATION_KINDS, CHANNELS, RESULTS), *((*CUSTOMER, result) for result in RESULTS)]
        self._sent = dict.fromkeys(known, 0) | dict(sent)
        self._spools = spools

    def collect(self) -> Iterator[Metric]:
        for family in (*FAMILIES, *BLOCK_LISTS):
            if family.kind == "histogram":
                yield self._histogram(family)
            elif family.name in self._families or family.name == "notifications_total":
                metric = _KINDS[family.kind](PREFIX + family.name, family.meaning, labels=family.labels)
                for *labels, value in self._rows(family.name):
                    metric.add_metric([str(label) for label in labels], value)
                yield metric

    def _rows(self, name: str) -> list[list[Any]]:
        if name == "notifications_total":
            return [[*labels, count] for labels, count in self._sent.items()]
        rows = self._families[name]
        return [*rows, *([what, count] for what, count in self._spools.items())] if name == "spool_entries" else rows

    def _histogram(self, family: Family) -> HistogramMetricFamily:
        total = 0
        buckets = []
        for end, count in self._responses["buckets"]:
            total += count
            buckets.append((str(end), total))
        return HistogramMetricFamily(
            PREFIX + family.name, family.meaning, buckets=buckets, sum_value=self._responses["sum"]
        )
