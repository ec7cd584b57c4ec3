"""What a schema lets through by its letter, and nothing that follows expects: one clear error, with file and line."""

import json
from pathlib import Path

import pytest

from smtpguard.errors import ConfigError
from smtpguard.resources import shipped
from smtpguard.settings import Settings
from smtpguard.settings.load import load_part, load_places, load_settings
from smtpguard.settings.notations import check_url, fits_pattern, parse_server


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


ENDS_A_LINE = (
    'rules: [{name: "mx%", count: connections, limit: 1, window: 1h}]',
    'nft: {table: "guard%"}',
    'cgroup: "/sys/fs/cgroup/a%"',
    'log: {path: "/var/log/x%"}',
    'log: {journal: "/run/x%"}',
    'state: {path: "/var/lib/x%"}',
    'control: {socket: "/run/x%"}',
    'control: {group: "staff%"}',
    'exempt: {users: ["web01%"]}',
    'exempt: {groups: ["web%"]}',
    'exempt: {uids: ["5-6%"]}',
    'exempt: {destinations: ["192.0.2.1%"]}',
    'shared_users: {block: ["www-data%"]}',
    'users: [{match: {packages: ["big%"]}, rules: {hourly: {limit: 1}}}]',
    'audit: {node: "web%"}',
    'accounts: "/usr/bin/x%"',
    'metrics: {textfile: "/var/lib/x.prom%"}',
    'metrics: {group: "prometheus%"}',
    'notify: {mail: "root%"}',
    'notify: {urls: ["mailto://a%"]}',
    'notify: {hook: "/usr/bin/x%"}',
    'notify: {smtp: "127.0.0.1:25%"}',
    'notify: {heartbeat: {url: "https://a.example/x%"}}',
    'notify: {webhooks: [{url: "https://a.example/x%", secret_file: /etc/x}]}',
    'notify: {webhooks: [{url: "https://a.example/x", secret_file: "/etc/x%"}]}',
    'notify: {customers: {from: "a@a.example%"}}',
    'notify: {customers: {template: "hosting%"}}',
    'notify: {customers: {language: "de%"}}',
    'listed: {zones: ["zen.example%"]}',
    'cap: {rate: "60/minute%", burst: 1}',
    'breaker: {per: "10m%"}',
)


@pytest.mark.parametrize("text", ENDS_A_LINE)
def test_no_text_ends_a_line(tmp_path: Path, text: str) -> None:
    """Python's `$` lets one through: a second line in a log, a header in a mail, a file that is not found."""
    with pytest.raises(ConfigError, match=r"g\.yaml:1: .* \(take the end of the line away\)$"):
        load_settings(write(tmp_path, text.replace("%", "\\n")))
    load_settings(write(tmp_path, text.replace("%", "")))


def test_a_block_of_text_is_told_how_to_be_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\.path: '/var/log/x\\n' is not an absolute path \(take the end"):
        load_settings(write(tmp_path, "log:\n  path: |\n    /var/log/x\n"))
    assert load_settings(write(tmp_path, "log:\n  path: >-\n    /var/log/x\n")).log_path == "/var/log/x"


def test_commands_do_not_go_to_such_a_place(tmp_path: Path) -> None:
    path = write(tmp_path, 'control: {socket: "/run/x\\n"}')
    settings, problem = load_places(path, ["control"])
    assert settings.control_socket == Settings().control_socket
    assert problem is not None
    assert load_part(write(tmp_path, 'control: {socket: "/run/x"}'), ["control"]).control_socket == "/run/x"


def test_patterns_end_where_ecma_262_ends_them() -> None:
    assert fits_pattern("^a$", "a")
    assert not fits_pattern("^a$", "a\n")
    assert fits_pattern("", "anything\n")
    text = (shipped("config") / "smtpguard.schema.json").read_text("utf-8")
    patterns = [line.partition('"pattern": ')[2] for line in text.splitlines() if '"pattern": ' in line]
    for pattern in (json.JSONDecoder().raw_decode(part)[0] for part in patterns):
        assert pattern.endswith("$"), pattern
        assert pattern.count("$") == 1, f"{pattern} has one that may be no end"


@pytest.mark.parametrize(
    "url",
    [
        "https://[::1/x",
        "https://[::1]x/",
        "https://[fe80::1%]/",
        "https://[fe80::1%e\x1b0]/",
        "https://a.example:99999/",
        "https://a.example:0/",
        "https://a.example:x/",
        "https://:443/x",
        "https://a..example/",
        "https://1.2.3/",
        "https://\x1b]0;x/",
        "https://-/",
        f"https://{'a' * 64}.example/",
    ],
)
def test_no_message_goes_to_an_address_that_is_none(tmp_path: Path, url: str) -> None:
    """The first of them ended the notifying process whenever it began."""
    with pytest.raises(ValueError, match="not an address such as"):
        check_url(url)
    with pytest.raises(ConfigError, match=r"g\.yaml:1: notify\.webhooks\[0\]\.url: .* is not an address such as"):
        load_settings(write(tmp_path, json.dumps({"notify": {"webhooks": [{"url": url, "secret_file": "/etc/x"}]}})))
    with pytest.raises(ConfigError, match=r"g\.yaml:1: notify\.heartbeat\.url: .* is not an address such as"):
        load_settings(write(tmp_path, json.dumps({"notify": {"heartbeat": {"url": url}}})))


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example",
        "http://localhost:8080/x?y#z",
        "https://192.0.2.1/",
        "https://[2001:db8::1]:8443/x",
        "http://[fe80::1%eth0]:80/",
        "https://b\u00fccher.example/",
        "https://hooks_a.example./x",
    ],
)
def test_addresses_that_are_some(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize("text", ["[:]:25", "[1::2::3]:25", "..:25", "a..b:25", "-:25", "1.2.3:25", "999.1.1.1:25"])
def test_no_mail_server_is_called_so(text: str) -> None:
    with pytest.raises(ValueError, match="not an address and a port"):
        parse_server(text)
