"""What the screen asks the guard: answers of another kind, as one of before an update gives them."""

from typing import Any

import pytest

from smtpguard.errors import GuardError, NoDaemonError
from smtpguard.tui.desk import GuardDesk

STATUS = {"sources": [{"name": "bpf", "state": "leads"}], "mode": "enforce", "troubles": ["BLIND: x"], "ports": [25]}
ANSWERS: dict[str, dict[str, Any]] = {
    "status": {"status": STATUS}, "blocks": {"items": []}, "why": {"items": []}, "incidents": {"items": []}
}  # fmt: skip


def answer(monkeypatch: pytest.MonkeyPatch, **others: dict[str, Any] | GuardError) -> GuardDesk:
    def ask(_path: str, verb: str, **_: object) -> dict[str, Any]:
        found = {**ANSWERS, **others}[verb]
        if isinstance(found, GuardError):
            raise found
        return found

    monkeypatch.setattr("smtpguard.tui.desk.ask", ask)
    return GuardDesk("/x")


@pytest.mark.parametrize(
    "others",
    [{"status": {}}, {"blocks": {"items": [{"user": "web01"}]}}, {"why": {"items": 5}}, {"incidents": {"items": "x"}}],
)
def test_what_cannot_be_read_is_a_trouble_and_the_rest_is_shown(
    monkeypatch: pytest.MonkeyPatch, others: dict[str, dict[str, Any]]
) -> None:
    """The thread that asks ended by it, and the screen showed for ever what it knew before."""
    facts = answer(monkeypatch, **others).poll([1001])
    assert facts.troubles[0].startswith("the guard's answer can't be read (")
    assert facts.troubles[0].endswith("Was smtpguard updated? systemctl restart smtpguard")
    assert (facts.mode, facts.troubles[1:]) == (("", ()) if "status" in others else ("enforce", ("BLIND: x",)))


def test_what_one_may_not_ask_is_left_out_and_no_guard_is_no_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = answer(monkeypatch, blocks=GuardError("not for you"), why={}).poll([])
    assert (facts.mode, facts.sensors, facts.troubles, facts.ports) == ("enforce", "bpf", ("BLIND: x",), (25,))
    with pytest.raises(NoDaemonError):
        answer(monkeypatch, blocks=NoDaemonError("nobody")).poll([])


def test_a_card_and_a_deed_say_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = answer(monkeypatch, why={"live": {"user": 5}, "past": {}, "name": None}, block={"text": "done"})
    with pytest.raises(GuardError, match=r"can't be read \(KeyError: .*Was smtpguard updated"):
        desk.why(1001)
    assert desk.carry_out("block", 1001, 60) == "done"
