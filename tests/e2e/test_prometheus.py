"""What is shipped for Prometheus and Grafana, by the real promtool and the real Prometheus of Debian's package."""

import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpguard.notify.metric_families import BLOCK_LISTS, FAMILIES, PREFIX
from smtpguard.notify.metrics_text import Listed, render_metrics
from smtpguard.notify.text_file import TextFile
from smtpguard.resources import shipped
from tests import servers
from tests.support.metrics import parse_samples, snapshot_of

GOLDEN = Path(__file__).parents[1] / "golden" / "prometheus"
RULES = "prometheus/smtpguard.rules.yml"
END_S = 1_700_003_600
_NAME = re.compile(rf"\b{PREFIX}[a-z_]+")


@pytest.fixture(scope="module")
def programs() -> Path:
    """Where promtool and prometheus are: 19 MB, without what Debian's web pages of it need."""
    return servers.require("prometheus", alone=True).path("usr/bin")


def run(argv: list[object], text: str = "") -> str:
    done = subprocess.run(
        [str(word) for word in argv], input=text, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_with_the_file(programs: Path) -> None:
    given = snapshot_of(user_connects_total=[["web01", 3], ["a%0ab", 4]])
    text = render_metrics(given, sent={("test", "hook", "failed"): 1}, spools={"webhook": 7}).decode()
    assert run([programs / "promtool", "check", "metrics"], text) == ""


@pytest.mark.parametrize("name", ["alerts", "dry_run"])
def test_alerts_fire_where_they_must_and_nowhere_else(programs: Path, tmp_path: Path, name: str) -> None:
    rules = shipped("config") / RULES
    test = tmp_path / "test.yml"
    test.write_text((GOLDEN / f"{name}.test.yml").read_text("utf-8").replace("RULES", str(rules)))
    run([programs / "promtool", "check", "rules", rules])
    assert "SUCCESS" in run([programs / "promtool", "test", "rules", test])


def test_each_alert_has_a_test_of_its_own() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", (shipped("config") / RULES).read_text("utf-8")))
    tests = "".join(path.read_text("utf-8") for path in GOLDEN.glob("*.test.yml"))
    fired = set(re.findall(r"alertname: (\w+)\n\s+eval_time: \S+\n\s+exp_alerts:\n", tests))
    assert alerts == fired
    document = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    assert alerts == set(re.findall(r"^\| (Smtpguard\w+) \|", document, re.MULTILINE))


def test_alerts_and_dashboard_ask_for_series_that_are_there() -> None:
    known = {PREFIX + family.name for family in (*FAMILIES, *BLOCK_LISTS)}
    known |= {f"{PREFIX}response_seconds_{part}" for part in ("bucket", "sum", "count")}
    texts = [(shipped("config") / RULES).read_text("utf-8"), *(expr for _, expr in read_queries())]
    asked = {name for text in texts for name in _NAME.findall(text)}
    assert asked <= known
    shown = {name for _, expr in read_queries() for name in _NAME.findall(expr)}
    assert {PREFIX + family.name for family in (*FAMILIES, *BLOCK_LISTS)} <= {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in shown
    }


def read_queries() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard, with the panel it stands in."""
    dashboard = json.loads((shipped("config") / "grafana" / "smtpguard.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def hour_of(host: str) -> list[str]:
    """OpenMetrics text of an hour of one host's figures, a minute apart, each counter and bucket rising."""
    lines: dict[str, list[str]] = {}
    for minute in range(61):
        given = snapshot_of(
            connects_total=[["bpf", "25", "allowed", 60 * minute], ["bpf", "25", "refused", minute]],
            direct_smtp_egress_findings_total=[["bpf", 60 * minute]],
            verdicts_total=[["mx-fanout", "block", "enforce", minute]],
            part_failures_total=[["journal", minute]],
            user_connects_total=[["web01", minute]],
            last_event_timestamp_seconds=[[END_S - 30]],
        ) | {"response_seconds": {"buckets": [[0.001, minute], ["+Inf", 0]], "sum": minute / 2000}}
        at_s = END_S - 3600 + 60 * minute
        lists: Listed = ([["zen.example", "203.0.113.5", 1]], [["zen.example", 1], ["bl.example", 0]])
        for line in render_metrics(given, sent={}, spools={}, listed=lists).decode().splitlines():
            if line.startswith("#"):
                continue
            series, _, value = line.rpartition(" ")
            name, brace, labels = series.partition("{")
            mine = f'{name}{{instance="{host}",job="node"' + (f",{labels}" if brace else "}")
            lines.setdefault(name, []).append(f"{mine} {value} {at_s}")
        age = f'node_textfile_mtime_seconds{{instance="{host}",job="node",file="/x/smtpguard.prom"}} {at_s - 5} {at_s}'
        lines.setdefault("node_textfile_mtime_seconds", []).append(age)
    return [line for name in lines for line in lines[name]]


def wait_for_server(process: subprocess.Popen[bytes], url: str, said: Path) -> str:
    """What it answers as soon as it does."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                return str(answer.read(), "utf-8")
        except OSError:
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.05)


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_node_exporter_serves_what_is_in_the_file(tmp_path: Path) -> None:
    program = servers.require("prometheus-node-exporter", alone=True).path("usr/bin/prometheus-node-exporter")
    text = render_metrics(snapshot_of(user_connects_total=[["web01", 3]]), sent={}, spools={"webhook": 7})
    folder = tmp_path / "textfiles"
    folder.mkdir()
    TextFile(str(folder / "smtpguard.prom"), begin=b"# HELP").write(text, mode=0o644)
    (folder / ".smtpguard.prom.new").write_text("half of")
    said, url = tmp_path / "said", f"127.0.0.1:{find_free_port()}"
    argv = [
        program, "--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={folder}",
        f"--web.listen-address={url}",
    ]  # fmt: skip
    with said.open("w") as stderr, subprocess.Popen([str(word) for word in argv], stderr=stderr) as process:
        try:
            served = parse_samples(wait_for_server(process, f"http://{url}/metrics", said))
        finally:
            process.terminate()
    assert served["node_textfile_scrape_error"] == {(): 0}
    assert [labels[0] for labels in served["node_textfile_mtime_seconds"]] == [str(folder / "smtpguard.prom")]
    ours = {name: samples for name, samples in served.items() if name.startswith(PREFIX)}
    # It writes the ends of buckets in its own way.
    assert ours == parse_samples(re.sub(r'(le="\d+)\.0"', r'\1"', text.decode()))


@pytest.fixture
def prometheus(programs: Path, tmp_path: Path) -> Iterator[str]:
    """A real Prometheus with two hosts' hour in it, and the shipped rules loaded."""
    series = sorted([*hour_of("web1.example"), *hour_of("web2.example")], key=lambda line: line.partition("{")[0])
    (tmp_path / "hour.om").write_text("\n".join([*series, "# EOF\n"]))
    run([programs / "promtool", "tsdb", "create-blocks-from", "openmetrics", tmp_path / "hour.om", tmp_path / "data"])
    (tmp_path / "prometheus.yml").write_text(f"rule_files: ['{shipped('config') / RULES}']\n")
    port = find_free_port()
    argv = [
        programs / "prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
        "--storage.tsdb.retention.time=100y", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (tmp_path / "said").open("w") as said, subprocess.Popen([str(w) for w in argv], stderr=said) as process:
        try:
            wait_for_server(process, f"http://127.0.0.1:{port}/-/ready", tmp_path / "said")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def ask(server: str, path: str, **parameters: object) -> Any:  # noqa: ANN401 - JSON
    with urllib.request.urlopen(f"{server}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:  # noqa: S310
        return json.load(answer)["data"]


def test_every_query_of_the_dashboard_finds_what_it_asks_for(prometheus: str) -> None:
    hosts = ask(prometheus, "label/instance/values", **{"match[]": "smtpguard_start_time_seconds"})
    assert hosts == ["web1.example", "web2.example"]
    groups = ask(prometheus, "rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    queries = list(read_queries())
    assert len(queries) > 20
    for title, expr in queries:
        assert "$host" in expr, title
        found = {}
        for host in (".*", "web2.example", "none"):
            query = expr.replace("$host", host).replace("$__rate_interval", "5m")
            found[host] = ask(prometheus, "query", query=query, time=END_S)["result"]
        assert found[".*"], f"{title}: nothing is found by {expr}"
        assert found["web2.example"], f"{title}: nothing of one host is found by {expr}"
        assert not found["none"], f"{title}: {expr} does not heed the host"
        values = [float(row["value"][1]) for row in found[".*"]]
        assert all(value == value for value in values), f"{title}: no number by {expr}"  # noqa: PLR0124 - NaN
