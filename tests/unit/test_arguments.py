"""Numbers on the command line: fail2ban passes what it has, and people what they like."""

import click
import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from smtpguard.cli.arguments import MAX_UID, check_ports, check_uid


@pytest.mark.parametrize(
    ("text", "uid"), [("0", 0), ("1001", 1001), ("0001001", 1001), ("0" * 5000 + "5", 5), (str(MAX_UID), MAX_UID)]
)
def test_a_uid_is_a_number(text: str, uid: int) -> None:
    assert check_uid(text) == uid


@pytest.mark.parametrize("text", [None, ""])
def test_no_uid_is_none(text: str | None) -> None:
    assert check_uid(text) is None


@pytest.mark.parametrize(
    "text", ["-1", "+5", "5.0", "1e3", " 5", "5\n", "0x5", "1_0", "\u0665", str(MAX_UID + 1), "9" * 5000, "\udcff"]
)
def test_what_is_no_uid_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter, match="it must be a number"):
        check_uid(text)


def test_ports_are_numbers() -> None:
    assert check_ports(None) is None
    assert check_ports("25,587,00465") == [25, 587, 465]


@pytest.mark.parametrize(
    "text", ["", "25,", ",", "0", "65536", "25,9" + "9" * 5000, "25.0", "-25", "\u0662\u0665", "25\n", "25, 587"]
)
def test_what_is_no_port_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no list of ports, such as 25,587") as caught:
        check_ports(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("at", ["nan", "inf", "-inf", "-1", "1e300", "9" * 5000])
def test_a_ban_began_at_a_time(at: str) -> None:
    done = CliRunner().invoke(main, ["block", "--source", "fail2ban:x", "--uid", "5", "--at", at])
    assert done.exit_code == 2
    assert "Invalid value for --at: it must be seconds since 1970" in done.stderr
