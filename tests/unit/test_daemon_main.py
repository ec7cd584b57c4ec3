"""`python -m smtpguard.daemon`: whatever ends it, its exit code and one line say why."""

import runpy
from unittest.mock import patch

import pytest

from smtpguard.daemon.startup.handoff import Start
from smtpguard.errors import BusyError, PrivilegeError
from smtpguard.settings import Settings


def run(*, receive: object = None, serve: object = None) -> int:
    with (
        patch("sys.argv", ["daemon", "3"]),
        patch("faulthandler.enable"),
        patch("logging.basicConfig"),
        patch("smtpguard.daemon.startup.handoff.receive", side_effect=receive, return_value=(Settings(), Start())),
        patch("smtpguard.daemon.service.serve", side_effect=serve),
        pytest.raises(SystemExit) as ended,
    ):
        runpy.run_module("smtpguard.daemon.__main__", run_name="__main__")
    return int(str(ended.value.code))


def test_a_signal_ends_it_well() -> None:
    assert run() == 0


def test_one_that_can_not_start_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(serve=BusyError("another smtpguard (pid 7) guards table smtpguard")) == 1
    assert run(serve=PrivilegeError("CAP_NET_ADMIN is lacking")) == 4
    assert capsys.readouterr().err.splitlines() == [
        "smtpguard: another smtpguard (pid 7) guards table smtpguard",
        "smtpguard: CAP_NET_ADMIN is lacking",
    ]


def test_ctrl_c_before_it_listens_to_signals_is_no_traceback() -> None:
    assert run(receive=KeyboardInterrupt) == 130
