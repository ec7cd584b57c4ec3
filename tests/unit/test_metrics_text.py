"""From a snapshot to the text that node_exporter serves: all names of the contract, from the first time, at zero."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from prometheus_client.parser import text_string_to_metric_families

from smtpguard.daemon.outlet.frames import HelperSettings
from smtpguard.notify.metric_families import BLOCK_LISTS, FAMILIES, PREFIX
from smtpguard.notify.metrics_duty import MetricsDuty
from smtpguard.notify.metrics_text import render_metrics
from tests.support.metrics import read_samples, snapshot_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
CONTRACT = (
    "build_info{version,source,mode} start_time_seconds guarding dry_run breaker_tripped "
    "connects_total{sensor,port,result} direct_smtp_egress_findings_total{sensor} messages_total{mta} "
    "recipients_total{mta} verdicts_total{rule,action,mode} refusals_total{by} blocks{kind,mode} out_of_step "
    "losses_total{sensor,reason} part_failures_total{part} response_seconds last_event_timestamp_seconds "
    "notifications_total{kind,channel,result} spool_entries{what} user_connects_total{user}"
)
HOSTILE = 'web"01\\\n{}'


def test_the_names_and_labels_are_the_contracts() -> None:
    shown = [f.name + ("{" + ",".join(f.labels) + "}" if f.labels else "") for f in FAMILIES]
    assert shown == CONTRACT.split()


def test_every_family_has_series_from_the_first_time_and_none_is_created() -> None:
    text = render_metrics(snapshot_of(), sent={}, spools={"webhook": 0}).decode()
    assert "_created" not in text
    assert re.findall(r"(?m)^(?!#|smtpguard_)(.+)$", text) == []
    found = {family.name: family for family in text_string_to_metric_families(text)}
    for family in FAMILIES:
        if family.name != "user_connects_total":
            metric = found[PREFIX + family.name.removesuffix("_total")]
            assert metric.type == family.kind
            assert metric.documentation == family.meaning
            assert metric.samples, family.name
            named = {*metric.samples[0].labels} - {"le"}
            assert named == {*family.labels}
    assert not any("user_connects" in name for name in found)
    spools = {sample.labels["what"]: sample.value for sample in found["smtpguard_spool_entries"].samples}
    assert spools == {"event-log": 0, "journal": 0, "state": 0, "webhook": 0}


def test_block_lists_have_series_where_they_are_named() -> None:
    text = render_metrics(snapshot_of(), sent={}, spools={}).decode()
    assert "smtpguard_listed" not in text
    lists = Mock(list_series=lambda: ([["zen.example", "203.0.113.5", 0]], [["zen.example", 1]]))
    text = render_metrics(snapshot_of(), sent={}, spools={}, listed=lists.list_series()).decode()
    assert 'smtpguard_listed{address="203.0.113.5",zone="zen.example"} 0.0' in text
    assert 'smtpguard_listed_asked{zone="zen.example"} 1.0' in text


def test_a_histogram_adds_up() -> None:
    given = snapshot_of() | {"response_seconds": {"buckets": [[0.001, 2], [0.01, 3], ["+Inf", 1]], "sum": 7.5}}
    (metric,) = [
        family
        for family in text_string_to_metric_families(render_metrics(given, sent={}, spools={}).decode())
        if family.name == "smtpguard_response_seconds"
    ]
    assert [(sample.name.rpartition("_")[2], sample.labels.get("le"), sample.value) for sample in metric.samples] == [
        ("bucket", "0.001", 2), ("bucket", "0.01", 5), ("bucket", "+Inf", 6), ("count", None, 6), ("sum", None, 7.5),
    ]  # fmt: skip


def test_whatever_a_label_holds_it_is_one_label() -> None:
    given = snapshot_of(user_connects_total=[[HOSTILE, 3]])
    families = text_string_to_metric_families(
        render_metrics(given, sent={("digest", "mail", "sent"): 4}, spools={}).decode()
    )
    samples = {sample.name: sample for family in families for sample in family.samples if sample.value in (3, 4)}
    assert samples["smtpguard_user_connects_total"].labels == {"user": HOSTILE}
    assert samples["smtpguard_notifications_total"].labels == {"kind": "digest", "channel": "mail", "result": "sent"}


def test_the_daemon_loads_nothing_of_it_and_the_process_only_where_a_file_is_wanted() -> None:
    program = "import sys, smtpguard.daemon.service; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "smtpguard.daemon.serve.metrics_snapshot" in loaded
    assert not {name for name in loaded if name.startswith(("prometheus_client", "smtpguard.notify"))}
    program = "import sys, smtpguard.notify.helper; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {name for name in loaded if name.startswith("prometheus_client")}


def duty_of(**values: Any) -> MetricsDuty:  # noqa: ANN401 - values of Settings
    duty = MetricsDuty()
    duty.configure(
        HelperSettings(
            state_path="/nowhere", control_socket="/x", values={f"metrics_{k}": v for k, v in values.items()}
        )
    )
    return duty


def test_the_duty_writes_what_comes_and_takes_it_away(tmp_path: Path) -> None:
    path = tmp_path / "smtpguard.prom"
    duty = duty_of(textfile=str(path))
    duty.take("occasion", {})
    assert not path.exists()
    duty.take("snapshot", snapshot_of())
    assert path.stat().st_mode & 0o7777 == 0o644
    duty.configure(
        HelperSettings(
            state_path="/nowhere", control_socket="/x", values={"metrics_textfile": str(tmp_path / "other.prom")}
        )
    )
    assert not path.exists()
    duty.take("snapshot", snapshot_of())
    report = duty.report()
    assert (report["troubles"], report["written"]) == ([], 2)
    assert re.fullmatch(r".*/other\.prom written 2 times, \d+\.\d MB", report["text"])
    duty.close()
    assert list(tmp_path.iterdir()) == []
    assert duty.report() == {}


def test_what_was_sent_and_what_waits_is_shown_beside_the_daemons_figures(tmp_path: Path) -> None:
    path = tmp_path / "smtpguard.prom"
    outbox = Mock(totals={("blind", "mail", "given-up"): 2}, count_waiting=Mock(return_value=7))
    duty = MetricsDuty(outbox)
    duty.configure(HelperSettings(state_path="/nowhere", control_socket="/x", values={"metrics_textfile": str(path)}))
    duty.take("snapshot", snapshot_of())
    found = read_samples(path)
    assert {labels for labels, count in found["smtpguard_notifications_total"].items() if count} == {
        ("mail", "blind", "given-up")
    }
    assert found["smtpguard_spool_entries"]["notifications",] == 7


def test_figures_of_users_are_for_a_group_alone(tmp_path: Path) -> None:
    path = tmp_path / "smtpguard.prom"
    duty = duty_of(textfile=str(path), users=True, group="nobody-has-this-group")
    duty.take("snapshot", snapshot_of(user_connects_total=[["web01", 3]]))
    assert not path.exists()
    assert "no group 'nobody-has-this-group'" in duty.report()["troubles"][0]
    taken = duty.report()["taken"]
    duty.take("snapshot", snapshot_of())
    assert duty.report()["taken"] == taken + 1, (
        "a report that stays the same is not sent, and a silent process is ended"
    )


@pytest.mark.parametrize("family", [*FAMILIES, *BLOCK_LISTS], ids=lambda family: family.name)
def test_the_document_has_each_series(family: Any) -> None:  # noqa: ANN401
    labels = ", ".join(f"`{label}`" for label in family.labels) or " "
    row = f"| `{PREFIX}{family.name}` | {family.kind} | {labels} | {family.meaning} |"
    assert " ".join(row.split()) in " ".join(DOCUMENT.read_text("utf-8").split())
