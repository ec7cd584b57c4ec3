"""Requests about a name that is being looked up wait, and nobody else does."""

from smtpguard.control.answer import Answer, Later, Stream
from smtpguard.daemon.serve.lookups import PATIENCE_NS, Lookups
from smtpguard.errors import GuardError, UnansweredError


class Asked:
    """A request whose answers come one after the other."""

    def __init__(self, *answers: Answer | GuardError) -> None:
        self.answers = list(answers)

    def __call__(self) -> Answer:
        answer = self.answers.pop(0)
        if isinstance(answer, GuardError):
            raise answer
        return answer


PENDING = UnansweredError("nobody knows yet", is_pending=True)


def test_it_is_asked_again_when_a_look_up_has_ended() -> None:
    lookups = Lookups(None, lambda: 0)
    later = lookups.wait(Asked(PENDING, {"text": "done"}))
    assert isinstance(later, Later)
    lookups.on_ready(0)
    assert later.answer is None
    assert lookups.next_deadline() == PATIENCE_NS
    lookups.on_ready(0)
    assert later.answer == {"text": "done"}
    assert lookups.next_deadline() is None


def test_who_waited_long_enough_is_told_that_nobody_answered() -> None:
    lookups = Lookups(None, lambda: 0)
    later = lookups.wait(Asked(PENDING))
    lookups.on_time(PATIENCE_NS - 1)
    assert isinstance(later, Later)
    assert later.answer is None
    lookups.on_time(PATIENCE_NS)
    assert later.answer is PENDING


def test_what_fails_for_another_reason_waits_no_longer() -> None:
    lookups = Lookups(None, lambda: 0)
    later = lookups.wait(Asked(GuardError("there is no user")))
    lookups.on_ready(0)
    assert isinstance(later, Later)
    assert isinstance(later.answer, GuardError)


def test_an_answer_that_comes_later_still_is_passed_on() -> None:
    lookups = Lookups(None, lambda: 0)
    inner = Later()
    later = lookups.wait(Asked(inner))
    lookups.on_ready(0)
    assert isinstance(later, Later)
    assert later.answer is None
    inner.resolve({"text": "written"})
    assert later.answer == {"text": "written"}


def test_a_stream_can_not_begin_late() -> None:
    lookups = Lookups(None, lambda: 0)
    later = lookups.wait(Asked(Stream(topic="watch", head={})))
    lookups.on_ready(0)
    assert isinstance(later, Later)
    assert "can't begin a stream" in str(later.answer)
