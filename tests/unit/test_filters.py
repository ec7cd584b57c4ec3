"""The fail2ban filters as regular expressions: whatever a tenant writes, only the user of the line is banned.

fail2ban itself reads the same samples in e2e/test_fail2ban.py; here they are searched as it searches: the date at the
start of the line taken out, a line break at the end, `re.search`.
"""

import configparser
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.text import render_quoted, render_user
from tests.support.fail2ban_samples import Sample, read_samples

FILTERS = Path(__file__).resolve().parent.parent.parent / "filters"
DATE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:?\d\d)")


def compiled(name: str, **options: str) -> re.Pattern[str]:
    """The failregex of a filter file, with fail2ban's tags made into groups."""
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(FILTERS / f"{name}.conf")
    values = {**(dict(parser["Init"]) if parser.has_section("Init") else {}), **options}
    text = parser["Definition"]["failregex"]
    for option, value in values.items():
        text = text.replace(f"<{option}>", value)
    text = text.replace("</F-ID>", ")").replace("<F-ID>", "(?P<fid>")
    text = re.sub(r"</F-[A-Z]+>", ")", text)
    text = re.sub(r"<F-([A-Z]+)>", lambda tag: f"(?P<{tag[1].lower()}>", text)
    assert "<F-" not in text
    return re.compile(text)


def crowdsec_pattern() -> re.Pattern[str]:
    """The pattern of CrowdSec's parser, its names made into groups."""
    parser = yaml.safe_load((FILTERS / "crowdsec" / "smtpguard-logs.yaml").read_text("utf-8"))
    kinds = {**parser["pattern_syntax"], "INT": r"[+-]?\d+", "WORD": r"\b\w+\b"}  # as crowdsec's own patterns/ has them
    return re.compile(
        re.sub(r"%\{(\w+):(\w+)\}", lambda part: f"(?P<{part[2]}>{kinds[part[1]]})", parser["grok"]["pattern"])
    )


VERDICT = compiled("smtpguard")
CONNECT = compiled("smtpguard-connect")


def find(regex: re.Pattern[str], line: str) -> tuple[str, str] | None:
    """Failure id and uid of a line, or None."""
    found = regex.search(DATE.sub("", line) + "\n")
    return (found["fid"], found["uid"]) if found else None


def expected(sample: Sample) -> tuple[str, str] | None:
    return (sample.id or "", sample.uid or "") if sample.match else None


@pytest.mark.parametrize("sample", read_samples("smtpguard"), ids=lambda sample: sample.line[33:80])
def test_verdict_filter_on_samples(sample: Sample) -> None:
    assert find(VERDICT, sample.line) == expected(sample)


@pytest.mark.parametrize("sample", read_samples("smtpguard-connect"), ids=lambda sample: sample.line[33:80])
def test_connect_filter_on_samples(sample: Sample) -> None:
    assert find(CONNECT, sample.line) == expected(sample)
    counted = compiled("smtpguard-connect", results="allowed|-")
    assert find(counted, sample.line) == (None if sample.refused else expected(sample))


VICTIM = next(sample.line for sample in read_samples("smtpguard") if sample.match).replace("web01", "victim")
hostile = st.one_of(
    st.binary(max_size=80),
    st.lists(st.sampled_from([VICTIM, "\n", " ", '"', "\\", "USER=victim", " UID=1666 EVENT=", "\r", "\u2028", "\x85"]))
    .map("".join)
    .map(str.encode),
)


@given(
    uid=st.integers(0, 2**32 - 2),
    name=st.none() | st.text(st.characters(codec="utf-8"), max_size=40),
    fields=st.tuples(hostile, hostile, hostile, hostile, hostile),
    mode=st.sampled_from(["enforce", "dry-run"]),
    action=st.sampled_from(["block", "throttle", "warn"]),
)
def test_only_the_user_of_the_line_is_ever_banned(
    uid: int, name: str | None, fields: tuple[bytes, ...], mode: str, action: str
) -> None:
    user = render_user(uid, name)
    texts = " ".join(
        f"{key}={render_quoted(value)}"
        for key, value in zip(("PROC", "EXE", "CWD", "SCRIPT", "RDNS"), fields, strict=True)
    )
    line = (
        f"2026-02-18T13:39:28.123456+01:00 USER={user} UID={uid} EVENT=EXCEEDED RULE=r COUNT=2 LIMIT=1 WINDOW=60 "
        f"ACTION={action} BLOCK=60 MODE={mode} PID=1 PORT=25 DST=192.0.2.1 SENSOR=bpf ATTR=live {texts}"
    )
    assert line.splitlines() == [line]
    assert find(VERDICT, line) == ((user, str(uid)) if (action, mode) == ("block", "enforce") else None)


@given(line=st.text(st.characters(codec="ascii"), max_size=60))
def test_nothing_before_the_user_lets_another_in(line: str) -> None:
    """Text in front, as a log with unescaped text or a torn write would have it, hides the verdict behind it."""
    torn = line.replace("\n", " ") + VICTIM
    if line.strip() and not re.fullmatch(r"\S+ smtpguard\[\d+\]: ", line):
        assert find(VERDICT, torn) is None


def test_filters_have_no_option_called_mode() -> None:
    """The stock jail.conf passes `[mode=...]` to every filter."""
    for file in FILTERS.glob("*.conf"):
        assert "<mode>" not in file.read_text()


@pytest.mark.parametrize("jail", ["smtpguard", "smtpguard-connect"])
def test_jails_take_names_for_names(jail: str) -> None:
    """Settings that a jail of users needs whatever [DEFAULT] says; Debian and others change it."""
    parser = configparser.ConfigParser()
    parser.read(FILTERS.parent / "jails" / "smtpguard.conf")
    values = parser[jail]
    assert (values["usedns"], values["ignoreself"], values["ignoreip"]) == ("raw", "false", "")
    assert (values["backend"], values["logencoding"], values["findtime"]) == ("auto", "utf-8", "10m")
    assert values.get("ignorecommand", raw=True) == '%(command)s exempt --name -- "<ip>"'
    assert values.getboolean("enabled") == (jail == "smtpguard")
    assert not parser.defaults()


@pytest.mark.parametrize("sample", read_samples("smtpguard"), ids=lambda sample: sample.line[33:80])
def test_crowdsec_reads_what_fail2ban_does(sample: Sample) -> None:
    found = crowdsec_pattern().search(sample.line)
    is_blocked = found is not None and (found["action"], found["mode"]) == ("block", "enforce")
    if sample.match and re.match(r"[\d-]{10}T[\d:]{8}\.\d{6}[+-]\d\d:\d\d ", sample.line):  # as the guard writes it
        assert found is not None
        assert (found["user"], found["uid"]) == expected(sample)
        assert is_blocked
    elif not sample.match:
        assert not is_blocked
