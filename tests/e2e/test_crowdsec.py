"""CrowdSec's parser and scenario, by a real crowdsec of Debian's: an alert for who is blocked, and for nobody else.

`long`: the package is 31 MB. tests/unit/test_filters.py holds the parser's pattern to the guard's lines in each run.
"""

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
import yaml

from smtpguard.resources import shipped
from tests.servers import require

pytestmark = [pytest.mark.kernel, pytest.mark.long]

HEAD = "2026-02-18T13:39:{:02d}.123456+01:00 USER={} UID={} EVENT="
TAIL = 'PID=1 PORT=25 DST=192.0.2.1 SENSOR=bpf ATTR=live PROC="{}" EXE="-" CWD="-" SCRIPT="-" RDNS="-"'
EXCEEDED = HEAD + "EXCEEDED RULE=mx-fanout COUNT=11 LIMIT=10 WINDOW=600 ACTION={} BLOCK=1800 MODE={} " + TAIL
FORGED = EXCEEDED.format(5, "root", 0, "block", "enforce", "x").replace(" ", "\\x20").replace('"', "\\x22")
INSIDE = """
ip link set lo up
{cscli} machines add --auto test -f credentials.yaml -u http://127.0.0.1:8080/ >machines.log 2>&1 || exit 3
{crowdsec} -no-cs >lapi.log 2>&1 &
for i in $(seq 200); do (echo >/dev/tcp/127.0.0.1/8080) 2>/dev/null && break; sleep 0.1; done
timeout 60 {crowdsec} -t >check.log 2>&1 || exit 4
timeout 60 {crowdsec} -dsn file://$PWD/events.log -type smtpguard -no-api >agent.log 2>&1
code=$?
kill %1; wait
exit $code
"""


def test_who_is_blocked_is_an_alert_of_scope_user(tmp_path: Path) -> None:
    tree = require("crowdsec")
    for name in ("parsers/s00-raw", "parsers/s01-parse", "parsers/s02-enrich", "scenarios", "data", "hub", "more"):
        (tmp_path / name).mkdir(parents=True)
    hub = tree.path("usr/share/crowdsec/hub/parsers")
    shutil.copytree(tree.path("etc/crowdsec/patterns"), tmp_path / "patterns")
    shutil.copy(hub / "s00-raw/crowdsecurity/syslog-logs.yaml", tmp_path / "parsers/s00-raw")
    shutil.copy(hub / "s02-enrich/crowdsecurity/dateparse-enrich.yaml", tmp_path / "parsers/s02-enrich")
    for name in ("simulation.yaml", "profiles.yaml"):
        shutil.copy(tree.path(f"etc/crowdsec/{name}"), tmp_path)
    ours = shipped("filters") / "crowdsec"
    shutil.copy(ours / "smtpguard-logs.yaml", tmp_path / "parsers/s01-parse")
    shutil.copy(ours / "smtpguard-blocked.yaml", tmp_path / "scenarios")
    acquisition = yaml.safe_load((ours / "acquis.yaml").read_text())
    (tmp_path / "acquis.d").mkdir()
    followed = yaml.safe_dump(acquisition | {"filenames": [f"{tmp_path}/events.log"]})
    (tmp_path / "acquis.d/smtpguard.yaml").write_text(followed)
    (tmp_path / "hub/.index.json").write_text(
        '{"parsers": {}, "scenarios": {}, "postoverflows": {}, "collections": {}}'
    )
    where = str(tmp_path)
    config = {
        "common": {"daemonize": False, "log_media": "stdout", "log_dir": where, "working_dir": where},
        "config_paths": {
            "config_dir": where, "data_dir": f"{where}/data", "simulation_path": f"{where}/simulation.yaml",
            "hub_dir": f"{where}/hub", "index_path": f"{where}/hub/.index.json", "notification_dir": f"{where}/more",
            "plugin_dir": f"{where}/more",
        },
        "crowdsec_service": {"acquisition_dir": f"{where}/acquis.d", "parser_routines": 1},
        "db_config": {"type": "sqlite", "db_path": f"{where}/data/crowdsec.db"},
        "plugin_config": {"user": "nobody", "group": "nogroup"},
        "api": {
            "client": {"credentials_path": f"{where}/credentials.yaml"},
            "server": {"listen_uri": "127.0.0.1:8080", "profiles_path": f"{where}/profiles.yaml"},
        },
        "prometheus": {"enabled": False},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [
        EXCEEDED.format(1, "web01", 1001, "block", "enforce", "x"),
        EXCEEDED.format(2, "web02", 1002, "block", "dry-run", "x"),
        EXCEEDED.format(3, "web03", 1003, "throttle", "enforce", "x"),
        EXCEEDED.format(4, "web04", 1004, "warn", "enforce", FORGED),
        HEAD.format(5, "web05", 1005) + f"CONNECT {TAIL.format(FORGED)}",
        EXCEEDED.format(6, "web01", 1001, "block", "enforce", "x"),  # within a quarter of an hour: the same alert
        EXCEEDED.format(7, "shop%C3%A9.", 1006, "block", "enforce", FORGED),
    ]
    (tmp_path / "events.log").write_text("".join(f"{line}\n" for line in lines))
    programs = {name: f"{tree.path(f'usr/bin/{name}')} -c {where}/config.yaml" for name in ("cscli", "crowdsec")}
    done = subprocess.run(
        ["unshare", "--net", "--mount", "bash", "-c", INSIDE.format(**programs)],
        cwd=tmp_path, env=tree.environment(), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    said = (tmp_path / "agent.log").read_text() if (tmp_path / "agent.log").exists() else done.stderr
    assert done.returncode == 0, said
    with sqlite3.connect(f"{where}/data/crowdsec.db") as database:
        alerts = database.execute("SELECT scenario, source_scope, source_value FROM alerts ORDER BY id").fetchall()
        decisions = database.execute("SELECT count(*) FROM decisions").fetchone()
    assert alerts == [("smtpguard/smtpguard-blocked", "User", user) for user in ("web01", "shop%C3%A9.")], said
    assert decisions == (0,)
