"""A reload beside the loop: the loop goes on, and what was asked meanwhile is not answered with an older file."""

import select
import threading
from collections.abc import Iterator

import pytest

from smtpguard.daemon.serve.reload import Reload, Reloaded
from smtpguard.errors import ConfigError, EnforceError, GuardError
from smtpguard.settings import Settings

LIMIT_S = 30


class Reads:
    """A configuration that takes as long to read as the test wants."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.results: list[Settings | GuardError] = []
        self.applied: list[Settings] = []
        self.answers: list[tuple[str, str]] = []
        self.refuse: Exception | None = None
        self.noticed: list[str] = []
        self.is_settled = True
        self.part = Reload(self._read, self._apply, self, lambda: self.is_settled)

    def reloading(self) -> None:
        self.noticed.append("reloading")

    def ready(self) -> None:
        self.noticed.append("ready")

    def _read(self) -> Settings:
        assert self.go.acquire(timeout=LIMIT_S)
        result = self.results.pop(0)
        if isinstance(result, GuardError):
            raise result
        return result

    def _apply(self, settings: Settings) -> Reloaded:
        if self.refuse is not None:
            raise self.refuse
        self.applied.append(settings)
        return Reloaded(text=f"applied {settings.nft_table}")

    def ask(self, name: str) -> None:
        def done(answer: Reloaded | GuardError) -> None:
            self.answers.append((name, answer.text if isinstance(answer, Reloaded) else str(answer)))

        self.part.request(done)

    def turn(self) -> None:
        """One turn of the loop, when there is something to do."""
        (fileno,) = self.part.filenos()
        assert select.select([fileno], [], [], LIMIT_S)[0]
        self.part.on_ready(fileno)


@pytest.fixture
def reads() -> Iterator[Reads]:
    reads = Reads()
    yield reads
    reads.go.release(9)
    reads.part.close()


def test_the_loop_goes_on_while_the_file_is_read(reads: Reads) -> None:
    reads.results = [Settings(nft_table="a")]
    reads.ask("one")
    assert not select.select(reads.part.filenos(), [], [], 0)[0]
    assert reads.answers == []
    reads.go.release()
    reads.turn()
    assert reads.answers == [("one", "applied a")]


def test_who_asks_is_answered_when_the_limits_hold(reads: Reads) -> None:
    """Where more waits in the ring than one look takes, the kernel refuses nobody for some turns of the loop."""
    reads.results = [Settings(nft_table="a"), ConfigError("bad")]
    reads.is_settled = False
    reads.ask("one")
    reads.go.release()
    reads.turn()
    reads.part.on_time(0)
    assert (len(reads.applied), reads.answers, reads.noticed) == (1, [], ["reloading", "ready"])
    reads.ask("two")
    reads.go.release()
    reads.turn()
    assert reads.answers == []
    reads.is_settled = True
    reads.part.on_time(0)
    reads.part.on_time(0)
    assert reads.answers == [("one", "applied a"), ("two", "bad")]


def test_who_asks_while_it_is_read_gets_a_newer_file(reads: Reads) -> None:
    reads.results = [Settings(nft_table="a"), Settings(nft_table="b")]
    reads.ask("one")
    reads.ask("two")
    reads.ask("three")
    reads.go.release()
    reads.turn()
    assert reads.answers == [("one", "applied a")]
    reads.go.release()
    reads.turn()
    assert reads.answers[1:] == [("two", "applied b"), ("three", "applied b")]


def test_a_bad_file_and_a_kernel_that_refuses_are_answers(reads: Reads) -> None:
    reads.results = [ConfigError("bad"), Settings(), Settings(nft_table="c")]
    reads.ask("one")
    reads.go.release()
    reads.turn()
    assert reads.applied == []
    reads.refuse = EnforceError("no")
    reads.ask("two")
    reads.go.release()
    reads.turn()
    reads.refuse = None
    reads.ask("three")
    reads.go.release()
    reads.turn()
    assert [answer for _, answer in reads.answers] == ["bad", "no", "applied c"]


def test_the_service_manager_hears_of_each(reads: Reads) -> None:
    reads.results = [Settings(), ConfigError("line 3")]
    for name in "ab":
        reads.ask(name)
        reads.go.release()
        reads.turn()
    assert reads.noticed == ["reloading", "ready"] * 2


def test_a_mistake_of_our_own_is_answered_and_shown_until_a_reload_succeeds(reads: Reads) -> None:
    reads.refuse = TypeError("no such keyword")
    reads.results = [Settings(), Settings(), Settings()]
    reads.ask("a")
    reads.ask("b")
    reads.go.release()
    with pytest.raises(TypeError):
        reads.turn()
    assert [name for name, said in reads.answers if "in force only in part" in said] == ["a"]
    assert reads.part.trouble is not None
    reads.refuse = EnforceError("ports")
    reads.go.release()
    reads.turn()
    assert reads.answers[1] == ("b", "ports"), "who asked meanwhile is answered"
    assert reads.part.trouble is not None
    reads.refuse = None
    reads.ask("c")
    reads.go.release()
    reads.turn()
    assert reads.part.trouble is None


def test_what_the_kernel_does_not_carry_out_is_an_error() -> None:
    assert Reloaded(text="Loaded.").as_error() is None
    error = Reloaded(text="Loaded.", unmet=("nft: no", "bpf: no")).as_error()
    assert str(error) == "Loaded. But the kernel does not carry it out: nft: no; bpf: no (see `smtpguard status`)"
