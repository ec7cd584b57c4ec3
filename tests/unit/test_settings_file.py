"""The configuration file: found, checked, merged; everything that is wrong is said with file, line and nearest key."""

import dataclasses
import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from smtpguard.errors import ConfigError
from smtpguard.model import NS
from smtpguard.resources import shipped
from smtpguard.settings import DAY_NS, HOUR_NS, MINUTE_NS, Cap, Match, Rule, Settings
from smtpguard.settings.advice import find_doubts
from smtpguard.settings.checks import find_unbuilt
from smtpguard.settings.load import UNBUILT, load_part, load_settings, read_defaults


@pytest.fixture(autouse=True)
def _no_other_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SMTPGUARD_CONFIG", raising=False)
    monkeypatch.setattr("smtpguard.settings.load.SYSTEM_PATH", str(tmp_path / "etc" / "smtpguard.yaml"))


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def load(tmp_path: Path, text: str) -> Settings:
    return load_settings(write(tmp_path, text))


# Where it is looked for


def test_shipped_defaults_where_there_is_no_file() -> None:
    settings = load_settings(None)
    assert settings.path is None
    assert [rule.name for rule in settings.rules] == [
        "mx-fanout",
        "mx-slow",
        "mx-busy",
        "mx-burst",
        "submission-fanout",
        "submission-busy",
        "submission-burst",
        "hourly",
        "daily",
        "volume",
        "newcomer",
    ]
    assert [rule.name for rule in settings.rules if rule.action == "block"] == ["mx-fanout"]
    assert settings.rules[0] == Rule(
        name="mx-fanout",
        count="networks",
        limit=10,
        window_ns=10 * MINUTE_NS,
        action="block",
        ports=frozenset({25}),
        block_ns=30 * MINUTE_NS,
    )
    assert settings.rules[-1].novel_ns == 30 * DAY_NS
    assert "www-data" in settings.shared_users


def test_shipped_values_are_those_of_the_types() -> None:
    """Rules and shared users are data that only the shipped file holds; all else has its default in both."""
    bare = Settings()
    settings = load_settings(None)
    different = {f.name for f in dataclasses.fields(bare) if getattr(bare, f.name) != getattr(settings, f.name)}
    assert different == {"rules", "shipped_rules", "shared_users", "shared_shipped"}


def test_shipped_values_are_those_of_the_schema() -> None:
    schema = json.loads((shipped("config") / "smtpguard.schema.json").read_text())
    defaults = read_defaults()
    assert list(defaults) == list(schema["properties"])
    for section, properties in schema["properties"].items():
        if "properties" in properties:
            assert defaults[section] == {key: inner["default"] for key, inner in properties["properties"].items()}
        elif section not in ("rules", "users"):
            assert defaults[section] == properties["default"]


def test_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "smtpguard.yaml").write_text("ports: [1]")
    (tmp_path / "env.yaml").write_text("ports: [2]")
    named = write(tmp_path, "ports: [3]")
    assert load_settings(None).ports == {1}
    monkeypatch.setenv("SMTPGUARD_CONFIG", str(tmp_path / "env.yaml"))
    assert load_settings(None).ports == {2}
    assert load_settings(named).ports == {3}
    assert load_settings(named).path == named
    monkeypatch.setenv("SMTPGUARD_CONFIG", "")
    assert load_settings(None).ports == {1}


def test_a_named_file_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file, but --config names it"):
        load_settings(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="--config"):
        load_settings("")
    monkeypatch.setenv("SMTPGUARD_CONFIG", str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"no such file, but \$SMTPGUARD_CONFIG names it"):
        load_settings(None)


@pytest.mark.parametrize("load_it", [load_settings, lambda path: load_part(path, ["exempt"])])
def test_a_file_others_may_write(tmp_path: Path, load_it: object) -> None:
    path = write(tmp_path, "dry_run: false")
    Path(path).chmod(0o666)
    with pytest.raises(ConfigError, match="can be written by others"):
        load_it(path)  # type: ignore[operator]


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_bytes(b"ports: [25]\ncgroup: /\xff")
    with pytest.raises(ConfigError, match=r"g\.yaml:2: is not UTF-8"):
        load_settings(str(path))


def test_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than"):
        load(tmp_path, "#" * 300_000)


# What it means


def test_a_part_of_a_section_keeps_the_rest(tmp_path: Path) -> None:
    settings = load(tmp_path, "escalation: {factor: 3}\nlog: {connects: false}")
    assert (settings.escalation.factor, settings.escalation.max_ns) == (3.0, DAY_NS)
    assert (settings.log_connects, settings.log_path) == (False, "/var/log/smtpguard/events.log")


def test_lists_replace(tmp_path: Path) -> None:
    settings = load(tmp_path, "rules: []\nshared_users: {users: [a]}\ncontrol: {verbs: []}")
    assert settings.rules == ()
    assert settings.shared_users == {"a"}
    assert settings.control_verbs == ()


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path) -> None:
    """As JSON Schema says; what is built of them are integers, which nobody further on has to ask about."""
    settings = load(
        tmp_path,
        """
version: 1.0
ports: [25.0, 587]
rules: [{name: a, count: connections, limit: 5.0, window: 30s, action: warn}]
users: [{match: {users: [n], uids: [2000.0, 7]}, rules: {a: {limit: 7.0}}}]
exempt: {uids: [0.0]}
state: {max_mb: 2.0}
""",
    )
    assert settings.overrides[0].match.uids == ((2000, 2000), (7, 7))
    assert "users[0].match.uids: 7-7 holds system accounts (below 1000)" in find_doubts(settings)
    numbers = [*settings.ports, settings.rules[0].limit, settings.exempt.uids[0][0], settings.state_max_bytes]
    assert sorted(map(str, numbers)) == ["0", "2000000", "25", "5", "587"]


def test_everything_given(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
version: 1
dry_run: false
sources: [bpf, nflog]
ports: [25]
cgroup: /sys/fs/cgroup/x
audit: {enable: true, uid: 61001}
rules:
  - {name: a, count: bytes, limit: 9000000000, window: 30s, action: warn, dry_run: true, novel: 7d}
users:
  - match: {users: [n, "s*"], groups: [g], uids: ["2000-2999", 7]}
    rules: {a: {limit: 1, window: 1h}}
exempt: {uids: [1, "2-3"], destinations: [192.0.2.1, "2001:db8::/32", "::ffff:198.51.100.0/120", Mail.Example.ORG.]}
loopback: count
breaker: {blocks: 0, per: 1h}
block: {verdict: drop, by: fail2ban}
cap: {rate: 60/minute, burst: 30}
state: {path: /x/s.db, keep: 1d, max_mb: 1}
control: {socket: /x/c.sock, group: adm, verbs: [status]}
nft: {table: other, nflog_group: 7}
attribution: {process: false, php: false, rdns: false}
accounts: none
""",
    )
    assert settings.sources == ("bpf", "nflog")
    assert (settings.dry_run, settings.ports, settings.cgroup) == (False, frozenset({25}), "/sys/fs/cgroup/x")
    assert (settings.audit_enable, settings.audit_uid) == (True, 61001)
    rule = settings.rules[0]
    assert (rule.limit, rule.window_ns, rule.dry_run, rule.novel_ns) == (9_000_000_000, 30 * NS, True, 7 * DAY_NS)
    override = settings.overrides[0]
    assert override.match == Match(users=("n", "s*"), groups=("g",), uids=((2000, 2999), (7, 7)))
    assert override.rules == {"a": dataclasses.replace(rule, limit=1, window_ns=HOUR_NS)}
    assert settings.exempt.uids == ((1, 1), (2, 3))
    assert settings.exempt.networks == tuple(map(ip_network, ("192.0.2.1", "2001:db8::/32", "198.51.100.0/24")))
    assert settings.exempt.names == ("mail.example.org",)
    assert (settings.loopback, settings.breaker.blocks, settings.breaker.per_ns) == ("count", 0, HOUR_NS)
    assert (settings.block_verdict, settings.block_by) == ("drop", "fail2ban")
    assert settings.cap == Cap(rate=60, per_ns=MINUTE_NS, burst=30)
    assert (settings.state_path, settings.state_keep_ns, settings.state_max_bytes) == ("/x/s.db", DAY_NS, 1_000_000)
    assert (settings.control_socket, settings.control_group, settings.control_verbs) == (
        "/x/c.sock",
        "adm",
        ("status",),
    )
    assert (settings.nft_table, settings.nflog_group) == ("other", 7)
    assert (settings.attribution_process, settings.attribution_php, settings.attribution_rdns) == (False,) * 3
    assert settings.accounts == "none"


def test_json_is_taken_too(tmp_path: Path) -> None:
    assert load(tmp_path, json.dumps({"dry_run": False, "rules": []})).dry_run is False


def test_shipped_rules_follow_the_guarded_ports(tmp_path: Path) -> None:
    rules = {rule.name: rule for rule in load(tmp_path, "ports: [25, 587]").rules}
    assert rules["submission-fanout"].ports == frozenset({587})
    rules = {rule.name: rule for rule in load(tmp_path, "ports: [25]").rules}
    assert "submission-fanout" not in rules
    assert rules["hourly"].ports is None


# What is wrong with it

RULE = "name: r, count: connections, limit: 1, window: 1m"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("\ndryrun: true", 2, "unknown key 'dryrun'; did you mean 'dry_run'?"),
        ("log:\n  file: /x", 2, "unknown key 'file' in log"),
        ("nflog_group: 1", 1, "did you mean 'nft.nflog_group'?"),
        ("xyzzy: 1", 1, "unknown key 'xyzzy'; known are version, dry_run"),
        ("rules:\n - {" + RULE + ", acton: warn}", 2, "unknown key 'acton' in rules[0]; did you mean 'action'?"),
        ("users:\n - match: {user: [a]}\n   rules: {hourly: {limit: 1}}", 2, "did you mean 'users'?"),
        ("users:\n - match: {users: [a]}\n   rules:\n    hourly: {limits: 1}", 4, "did you mean 'limit'?"),
        ("[]", 1, "the file: a list is not a mapping"),
        ("5", 1, "the file: 5 is not a mapping"),
        ("version: 2", 1, "version: 2 is not 1, the only version"),
        ("dry_run: 'yes'", 1, "dry_run: 'yes' is not true or false"),
        ("dry_run: 1", 1, "dry_run: 1 is not true or false"),
        ("exempt:", 1, "exempt: nothing is not a mapping (take the line out to keep the default)"),
        ("rules: {}", 1, "rules: a mapping is not a list (each entry begins with `- `)"),
        ("exempt: web01", 1, "exempt: 'web01' is not a mapping; its keys are users, groups, uids, destinations"),
        ("exempt: {users: web01}", 1, "exempt.users: 'web01' is not a list (put brackets around it: [web01])"),
        ("rules:\n - 5", 2, "rules[0]: 5 is not a mapping"),
        ("rules:\n - {name: r, count: connections, window: 1m}", 2, "rules[0] lacks the key 'limit'"),
        ("rules:\n - {limit: 1}", 2, "rules[0] lacks the key 'name'"),
        ("rules:\n - {limit: 1}", 2, "rules[0] lacks the key 'window'"),
        ("rules:\n - {" + RULE + "}\n - {" + RULE + "}", 3, "rules[1].name: 'r' is already rules[0]"),
        ("rules: [{" + RULE.replace("1m", "10 min") + "}]", 1, "rules[0].window: '10 min' is not a duration such as"),
        ("rules: [{" + RULE.replace("1m", "0s") + "}]", 1, "'0s' is not a duration"),
        (
            "rules: [{" + RULE.replace("1m", "600") + "}]",
            1,
            "600 is not a duration such as 30s, 1m, 1h or 7d (the unit",
        ),
        ("rules: [{" + RULE.replace("1m", "9999d") + "}]", 1, "longer than ten years"),
        ("rules: [{" + RULE.replace("1m", "32d") + "}]", 1, "rules[0].window: 32d is longer than 31d"),
        ("rules: [{" + RULE.replace("limit: 1", "limit: -1") + "}]", 1, "-1 is not a whole number, 0 or more"),
        ("rules: [{" + RULE.replace("limit: 1", "limit: 1.5") + "}]", 1, "1.5 is not a whole number"),
        ("rules: [{" + RULE.replace("limit: 1", "limit: true") + "}]", 1, "true is not a whole number"),
        ("rules: [{" + RULE.replace("limit: 1", "limit: 1000001") + "}]", 1, "1000001 is more than 1000000"),
        ("rules: [{" + RULE.replace("connections", "conn") + "}]", 1, "'conn' is not one of connections, destinations"),
        ("rules: [{" + RULE.replace("connections", "network") + "}]", 1, "did you mean 'networks'?"),
        ("rules: [{" + RULE.replace("name: r", "name: a b") + "}]", 1, "'a b' is not a rule name"),
        ("rules: [{" + RULE.replace("name: r", "name: 5") + "}]", 1, "5 is not a rule name: letters, digits"),
        ("rules: [{" + RULE + ", action: kill}]", 1, "'kill' is not one of warn, throttle, block"),
        ("rules: [{" + RULE + ", ports: [26]}]", 1, "rules[0].ports: 26 not among the guarded ports"),
        ("ports: [26]\nrules: [{" + RULE + ", ports: [25, 26]}]", 2, "rules[0].ports: 25 not among the guarded ports"),
        ("rules: [{" + RULE + ", ports: []}]", 1, "rules[0].ports has to be a list of ports"),
        ("rules: [" + ", ".join("{" + RULE.replace("r,", f"r{i},") + "}" for i in range(33)) + "]", 1, "at most 32"),
        ("ports: [0]", 1, "ports[0]: 0 is not a port from 1 to 65535"),
        ("ports: [65536]", 1, "ports[0]: 65536 is not a port"),
        ("ports: [25, 25]", 1, "ports names something twice: 25"),
        ("ports: ['25']", 1, "ports[0]: '25' is not a port"),
        ("ports: 25", 1, "at most 16 (put brackets around it: [25])"),
        ("ports: [" + ", ".join(map(str, range(1, 18))) + "]", 1, "ports has to be a list of ports"),
        ("sources: bpf", 1, "sources: 'bpf' is not auto, none, or a list such as [bpf]"),
        ("sources: [bfp]", 1, "sources[0]: 'bfp' is not one of bpf, nflog"),
        ("sources: [bfp]", 1, "did you mean 'bpf'?"),
        ("sources: []", 1, "sources has to be"),
        ("sources: [proc]\nrules: [{" + RULE.replace("connections", "bytes") + "}]", 2, "'bytes' needs the source bpf"),
        ("sources: none\nrules: [{" + RULE.replace("connections", "failures") + "}]", 2, "sources is none"),
        ("cgroup: relative", 1, "cgroup: 'relative' is not an absolute path"),
        ("cgroup: 7", 1, "cgroup: 7 is not auto or an absolute path"),
        ("audit: {uid: 4294967295}", 1, "audit.uid: 4294967295 is not a uid from 0 to 4294967294"),
        (
            "users:\n - {match: {}, rules: {hourly: {limit: 1}}}",
            2,
            "users[0].match has to be a mapping with at least one",
        ),
        ("users:\n - {match: {users: [a]}, rules: {}}", 2, "users[0].rules has to be a mapping with at least one rule"),
        (
            "users:\n - match: {users: [a]}\n   rules: {hourli: {limit: 1}}",
            3,
            "no rule is called 'hourli'; did you mean",
        ),
        (
            "ports: [587]\nusers: [{match: {users: [a]}, rules: {mx-fanout: {limit: 1}}}]",
            2,
            "the shipped rule 'mx-fanout' is for ports that are not guarded",
        ),
        ("users: [{match: {users: [a]}, rules: {hourly: {}}}]", 1, "users[0].rules.hourly has to be a mapping with at"),
        ("users: [{match: {users: [a]}, rules: {hourly: {ports: [25]}}}]", 1, "unknown key 'ports'"),
        ("users: [{match: {users: [a]}, rules: {hourly: {limit: 2000000}}}]", 1, "2000000 is more than 1000000"),
        ("users: [{match: {users: [a]}, rules: {hourly: {window: 60d}}}]", 1, "60d is longer than 31d"),
        ("exempt: {users: [no]}", 1, "exempt.users[0]: false is not a name (put it in quotes)"),
        (
            "exempt: {users: [1001]}",
            1,
            "exempt.users[0]: 1001 is not a name (a uid? Then `uids: [1001]`;",
        ),
        ("exempt: {users: ['a:b']}", 1, "'a:b' is not a name"),
        ("exempt: {users: ['']}", 1, "'' is not a name"),
        ('exempt: {users: ["a\\nb"]}', 1, r"'a\nb' is not a name"),
        ("exempt: {uids: [9-5]}", 1, "exempt.uids[0]: '9-5' is not a uid or a range"),
        ("exempt: {uids: [9-5]}", 1, "the first is greater than the last"),
        ("exempt: {uids: [0-4294967295]}", 1, "there is no uid above 4294967294"),
        ("exempt: {uids: [-5]}", 1, "-5 is not a uid"),
        ("exempt: {uids: [web]}", 1, "'web' is not a uid or a range"),
        ("exempt: {destinations: [10.0.0.1/8]}", 1, "host bits are set: 10.0.0.0/8 would be the network"),
        ("exempt: {destinations: [10.0.0.256]}", 1, "'10.0.0.256' is not an address, a network or a host name"),
        ("exempt: {destinations: ['a b']}", 1, "'a b' is not an address, a network or a host name"),
        ("exempt: {destinations: [a..b]}", 1, "'a..b' is not an address"),
        ("exempt: {destinations: ['2001:db8::/200']}", 1, "is not an address"),
        ("escalation: {factor: 0.5}", 1, "escalation.factor: 0.5 is not a number from 1 to 100"),
        ("breaker: {blocks: -1}", 1, "breaker.blocks: -1 is not a whole number"),
        ("cap: {rate: 60/fortnight, burst: 3}", 1, "cap.rate: '60/fortnight' is not a rate such as 60/minute"),
        ("cap: {rate: 60/minute}", 1, "cap lacks the key 'burst'"),
        ("cap: 60", 1, "cap: 60 is not null, or {rate"),
        ("log: {path: events.log}", 1, "log.path: 'events.log' is not an absolute path"),
        ("log: {path: /var/log/}", 1, "'/var/log/' is not an absolute path"),
        ("state: {max_mb: 0}", 1, "state.max_mb: 0 is not a whole number of megabytes"),
        ("control: {socket: /" + "x" * 107 + "}", 1, "is not an absolute path of at most 107 bytes"),
        ("control: {verbs: [status, rootshell]}", 1, "control.verbs[1]: 'rootshell' is not one of status"),
        ("nft: {table: 'a b'}", 1, "nft.table: 'a b' is not a table name"),
        ("nft: {nflog_group: 65536}", 1, "nft.nflog_group: 65536 is not"),
        ("loopback: yes", 1, "loopback: true is not one of ignore, count"),
        (
            "metrics: {listen: '[::1]:9798'}",
            1,
            "metrics.listen: '[::1]:9798': this key is no more. There is no listener",
        ),
    ],
)
def test_wrong(tmp_path: Path, text: str, line: int, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    hits = [shown for shown in str(caught.value).splitlines() if what in shown]
    assert hits, str(caught.value)
    assert hits[0].startswith(f"{tmp_path}/g.yaml:{line}: ")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "rules: [{" + RULE.replace("connections", "messages") + "}]",
            "rules[0].count: messages is not supported in version 0.1.",
        ),
        ("rules: [{" + RULE.replace("connections", "recipients") + "}]", "rules[0].count: recipients is not supported"),
        ("rules: [{" + RULE + ", path: local}]", "rules[0].path: local is not supported in version 0.1."),
    ],
)
def test_unbuilt_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert what in str(caught.value)


def test_unbuilt_keys_are_in_the_schema() -> None:
    """Each entry of the table must be able to hit: a renamed key would let its setting be ignored."""
    for key in UNBUILT:
        path, _, values = key.partition("=")
        negated = path.endswith("!")
        value: object = "x" if negated or not values else values.split("|")[0]
        for part in reversed(path.rstrip("!").replace("[]", ".[]").split(".")):
            value = [value] if part == "[]" else {part: value}
        assert len(list(find_unbuilt(value, UNBUILT))) == 1, key


def test_unbuilt_values_that_ask_for_nothing(tmp_path: Path) -> None:
    load(
        tmp_path,
        "accounts: [/usr/bin/who, -a]\nnotify: {webhooks: [], urls: [], hook: null, digest: none}\n"
        "metrics: {textfile: null, users: false}\nrules: [{" + RULE + ", path: smtp}]",
    )


def test_a_key_that_left_before_anything_heeded_it_may_stand_there_empty(tmp_path: Path) -> None:
    settings = load(tmp_path, "metrics: {listen: null}")
    (warning,) = settings.warnings
    assert warning.startswith(f"{tmp_path}/g.yaml:1: metrics.listen: this key is no more. There is no listener")


def test_many_errors_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            "dryrun: true\nports: [25, 0]\nrules:\n - {" + RULE + "}\n - {" + RULE + ", limits: 1, action: 5}\n"
            "users:\n - {match: {users: [a]}, rules: {q: {limit: 1}}}\nmetrics: {users: true}\n",
        )
    assert [line.split(": ", 1)[0].rsplit(":", 1)[1] for line in str(caught.value).splitlines()] == list("1255578")


def test_quotes_are_advised_only_where_they_help(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "cap: {rate: 60, burst: 3}")
    assert str(caught.value).endswith("cap.rate: 60 is not a rate such as 60/minute (second, minute, hour, day)")


def test_a_wrong_section_does_not_make_others_look_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "rules: none\nusers: [{match: {users: [a]}, rules: {mine: {limit: 1}}}]\n")
    assert str(caught.value).splitlines() == [f"{tmp_path}/g.yaml:1: rules: 'none' is not a list"]


def test_thousands_of_errors_are_cut(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "ports: [" + "x, " * 19_000 + "]")
    assert len(str(caught.value).splitlines()) <= 21


# The short way


def test_part_reads_only_what_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path, "ports: nonsense\nexempt: {users: [a], uids: [5, 7-9]}\ncontrol: {socket: /x}")
    settings = load_part(path, ["exempt"])
    assert settings.exempt.users == ("a",)
    assert settings.exempt.uids == ((5, 5), (7, 9))
    assert settings.control_socket == Settings().control_socket
    assert load_part(path, ["control", "exempt"]).control_socket == "/x"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "exempt: [a]",
        "exempt: {users: bob}",
        "exempt: {users: [5]}",
        "exempt: {users: [[a]]}",
        "exempt: {uids: [a]}",
        "exempt: {uids: 5}",
        "exempt: {destinations: ['a b']}",
        "exempt: &a {users: []}",
    ],
)
def test_part_never_takes_values_of_a_wrong_kind(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load_part(write(tmp_path, text), ["exempt"])
