"""What a guard answers about the past where nothing is asked for, whoever is meant is gone, or the file is slow."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock, patch

import pytest

from smtpguard.control.answer import Answer, Later
from smtpguard.daemon.serve.asker import Asker
from smtpguard.daemon.serve.halve_command import HalveCommand
from smtpguard.daemon.serve.history_command import HistoryCommand
from smtpguard.daemon.serve.history_requests import (
    CloseRequest,
    HalveRequest,
    HistoryRequest,
    ReportRequest,
    WhyRequest,
    _take_networks,
)
from smtpguard.daemon.serve.report_command import ReportCommand
from smtpguard.daemon.serve.requests import UnfitError, UserRequest
from smtpguard.daemon.serve.why_command import WhyCommand
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import GuardError, PolicyError, StateError
from smtpguard.model import NS
from smtpguard.settings import Settings
from smtpguard.state.history import LateError
from smtpguard.state.host_question import PARTS

ROOT = Asker(who="root (pid 1)", user="root", is_member=False)
MEMBER = Asker(who="ann (pid 1)", user="ann", is_member=True)


class Desk:
    """Answers at once, from a history of the test's own."""

    def __init__(self, history: object = None, error: StateError | None = None) -> None:
        self.history, self.error = history, error

    def ask(self, question: Any, done: Any) -> None:  # noqa: ANN401 - as the desk's own
        if self.error is not None:
            raise self.error
        try:
            answer = question(self.history)
        except StateError as error:
            answer = error
        done(answer)


def accounts(tmp_path: Path) -> AccountDirectory:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nshop:x:5001:5001::/home/shop:/bin/sh\n")
    return AccountDirectory(Settings(), root=tmp_path, patience_s=0)


def command(desk: Desk, directory: AccountDirectory, state: object = None) -> HistoryCommand:
    state = state or Mock(stats=Mock(return_value=Mock(error=None)), when_written=Mock(return_value=None))
    return HistoryCommand(cast("Any", desk), cast("Any", state), directory, Mock())


def answer_of(answer: Answer) -> Any:  # noqa: ANN401 - whatever it is
    assert isinstance(answer, Later)
    return answer.answer


def test_a_note_needs_a_text_and_why_a_user(tmp_path: Path) -> None:
    directory = accounts(tmp_path)
    history = command(Desk(), directory)
    with pytest.raises(GuardError, match="there is nothing to note"):
        history.note(UserRequest(user="shop"), ROOT)
    assert isinstance(history.note(UserRequest(user="shop", reason="cleaned"), ROOT), dict), "nobody else is told"
    history.herald = herald = Mock()
    history.note(UserRequest(user="shop", reason="cleaned"), ROOT)
    herald.noted.assert_called_once_with("shop", 5001, by=ROOT.user, text="cleaned")
    with pytest.raises(GuardError, match="whom is it about"):
        why(history, directory)(WhyRequest(), ROOT)


@pytest.mark.parametrize(
    ("asked", "ids", "what"),
    [
        ("ab", ["abcd", "abef"], "2 incidents begin so"),
        ("x\n", ["abcd"], 'No incident "x\\x0a"'),
        ("", ["abcd"], 'No incident ""'),
    ],
)
def test_an_incident_that_is_none_or_two_is_not_closed(tmp_path: Path, asked: str, ids: list[str], what: str) -> None:
    rows = [(SimpleNamespace(id=one), None) for one in ids]
    state = Mock(stats=Mock(return_value=Mock(error=None)), when_written=Mock(return_value=None))
    history = command(Desk(Mock(find_incidents=Mock(return_value=(rows, False)))), accounts(tmp_path), state)
    error = answer_of(history.close(CloseRequest(incident=asked), ROOT))
    assert isinstance(error, StateError)
    assert error.what == what
    state.add.assert_not_called()


def test_too_many_questions_are_answered_so(tmp_path: Path) -> None:
    full = StateError("too many questions about the history wait already", fix="try again")
    assert answer_of(command(Desk(error=full), accounts(tmp_path)).events(HistoryRequest(), ROOT)) is full


def test_a_part_of_the_report_that_takes_too_long_is_late(tmp_path: Path) -> None:
    people = accounts(tmp_path)
    report = ReportCommand(command(Desk(), people), Mock(settings=Settings()), people)
    with patch("smtpguard.state.host_history.collect_part", side_effect=LateError("late")):
        answer = report(ReportRequest(part=PARTS[0]), ROOT)
    assert answer_of(answer) == {"late": True}


def test_which_entry_of_users_holds_for_whom_is_no_question_about_the_past(tmp_path: Path) -> None:
    people = accounts(tmp_path)
    report = ReportCommand(command(Desk(), people), Mock(settings=Settings()), people)
    assert report(ReportRequest(part="entries", uids=(5001, 5002)), ROOT) == {"rows": []}


def test_networks_are_networks() -> None:
    with pytest.raises(UnfitError, match="a list of networks"):
        _take_networks(["192.0.2.0/24", "no"])


def why(history: HistoryCommand, directory: AccountDirectory, watches: Any = None) -> WhyCommand:  # noqa: ANN401 - a Mock
    guard, engine = Mock(settings=Settings()), Mock(is_off=False)
    engine.memory.fills.return_value = ([], "")
    blocks, watches = Mock(collect=Mock(return_value=[])), watches or Mock(find=Mock(return_value=None))
    overview = Mock(is_seeing=Mock(return_value=True))
    return WhyCommand(history, blocks, engine, directory, guard, overview, watches=watches, now=lambda: NS)


PAST = {
    "uid": 5001,
    "evidence": {"cmdline": "secret", "label": "cron"},
    "scripts": [{"path": "/x.php", "stack": ["a.php"], "drivers": ["b.php"]}],
}


def test_members_see_nothing_of_the_memory_of_processes(tmp_path: Path) -> None:
    directory = accounts(tmp_path)
    ask = why(command(Desk(), directory), directory)
    with patch("smtpguard.state.user_history.collect_user", return_value=PAST):
        told = [answer_of(ask(WhyRequest(user="shop"), asker))["past"] for asker in (ROOT, MEMBER)]
    assert told[0] == PAST
    assert told[1]["evidence"] == {"label": "cron"}
    assert told[1]["scripts"] == [{"path": "/x.php", "stack": [], "drivers": []}]


def test_of_1000_watches_theirs_is_looked_up_once(tmp_path: Path) -> None:
    directory, watch = accounts(tmp_path), {"uid": 5001, "allowed_until": None}
    watches = Mock(find=Mock(return_value=watch))
    ask: Any = why(command(Desk(), directory), directory, watches)
    fill = Mock(rule=Mock(limit=5), mode="enforce", now=0)
    ask._engine.memory.fills.return_value = ([fill] * 12, "")
    with (
        patch("smtpguard.state.user_history.collect_user", return_value=PAST),
        patch("smtpguard.daemon.serve.why_command.show_rule", return_value={}),
    ):
        live = answer_of(ask(WhyRequest(user="shop"), ROOT))["live"]
    assert live["watch"] == watch
    assert {rule["limit_by"] for rule in live["rules"]} == {"watch"}
    watches.find.assert_called_once_with(5001)
    watches.collect.assert_not_called()


@pytest.mark.parametrize("uid", [5009, None])
def test_an_account_that_is_gone_has_its_history_and_an_unknown_one_none(tmp_path: Path, uid: int | None) -> None:
    directory = accounts(tmp_path)
    with patch("smtpguard.state.user_history.collect_user", return_value=PAST | {"uid": uid}):
        told = answer_of(why(command(Desk(), directory), directory)(WhyRequest(user="gone"), ROOT))
    if uid is None:
        assert isinstance(told, StateError)
        assert "and none in the history" in told.what
    else:
        assert (told["name"], told["standing"], told["live"]) == ("gone", None, None)


def test_who_is_never_refused_has_no_limits_to_halve(tmp_path: Path) -> None:
    watches = Mock()
    halve = HalveCommand(watches, accounts(tmp_path), Mock(offset_ns=0))
    with pytest.raises(PolicyError, match=r"root has no limits to halve \("):
        halve(HalveRequest(user="root", for_ns=NS), ROOT)
    watches.begin.assert_not_called()


@pytest.mark.parametrize(
    ("allowed_until", "told"),
    [
        (None, "Limits of shop are halved until 1970-01-01"),
        ("1970-01-02T00:00:00+00:00", "shop is watched until 1970-01-01"),
    ],
)
def test_while_an_allowance_holds_no_limits_are_halved(tmp_path: Path, allowed_until: str | None, told: str) -> None:
    watches = Mock(begin=Mock(return_value=Mock(until_ns=43200 * NS)))
    watches.describe.return_value = {"allowed_until": allowed_until}
    halve = HalveCommand(watches, accounts(tmp_path), Mock(offset_ns=0))
    answer = cast("dict[str, str]", halve(HalveRequest(user="shop", for_ns=NS), ROOT))
    assert answer["text"].startswith(told)
    assert ("an allowance counts until" in answer["text"]) == (allowed_until is not None)
    assert answer["text"].endswith(". Undo: smtpguard incidents unwatch shop")
