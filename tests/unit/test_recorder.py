"""The record as the daemon feeds it: figures of this host's accounts, what became of connections, when it watched."""

from unittest.mock import Mock

import pytest

from smtpguard.daemon.record.notices import _shorten
from smtpguard.daemon.record.recorder import WATCHED_NS, Recorder
from smtpguard.model import NS, SocketReport, Subject
from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state.activity import MANY
from smtpguard.state.columns import MARK
from tests.support.policy import T0, WEB, connect

OFFSET_NS = 7 * NS


class Kept:
    """What goes to the state."""

    def __init__(self) -> None:
        self.now_ns, self.offset_ns = T0, OFFSET_NS
        self.state = Mock()
        self.recorder = Recorder(self.state, Mock(to_wall_ns=lambda ns: ns + self.offset_ns), lambda: self.now_ns)

    def rows(self) -> list[tuple[object, ...]]:
        found = [tuple(row.parameters) for call in self.state.add_activity.call_args_list for row in call.args[0]]
        self.state.add_activity.reset_mock()
        return found

    def turn(self, *, after_ns: int = NS, seeing: bool = True) -> list[tuple[object, ...]]:
        self.now_ns += after_ns
        self.recorder.is_seeing = lambda: seeing
        self.recorder.on_time(self.now_ns)
        return self.rows()


def report_of(uid: int, kind: str = "established", scope: int | None = None) -> SocketReport:
    return SocketReport(
        kind=kind,  # type: ignore[arg-type]
        time_ns=T0,
        connect_time_ns=T0,
        uid=uid,
        netns=scope,
        port=25,
        address=bytes([192, 0, 2, 1]),
        cookie=1,
        latency_ns=None,
        bytes_sent=0,
        bytes_received=0,
        retransmissions=0,
    )


def test_attempts_in_others_namespaces_are_in_no_figures() -> None:
    kept = Kept()
    kept.recorder.attempt(Subject(id=WEB, scope=9), connect(0), T0, refused=False, is_counted=True)
    assert (kept.recorder.foreign, kept.turn(seeing=False)) == (1, [])
    kept.recorder.attempt(Subject(id=WEB), connect(0), T0, refused=False, is_counted=True)
    assert kept.turn(seeing=False)


@pytest.mark.parametrize(
    ("kind", "scope", "is_kept"),
    [("established", None, True), ("timeout", None, True), ("closed", None, False), ("established", 9, False)],
)
def test_what_became_of_a_connection_is_kept_where_it_says_so(kind: str, scope: int | None, is_kept: bool) -> None:
    kept = Kept()
    kept.recorder.outcome(Subject(id=WEB, scope=scope), report_of(WEB, kind, scope))
    assert bool(kept.turn(seeing=False)) is is_kept


def test_when_it_watched_is_written_as_long_as_it_sees() -> None:
    kept = Kept()
    assert kept.turn(seeing=False) == []
    begun = kept.now_ns + NS + OFFSET_NS
    assert kept.turn() == [(begun, begun)]
    assert kept.turn() == [], "now and then is enough"
    assert kept.turn(after_ns=WATCHED_NS) == [(begun, begun + NS + WATCHED_NS)]
    kept.offset_ns += 3600 * NS
    kept.recorder.clock_was_set(kept.now_ns)
    begun = kept.now_ns + kept.offset_ns
    assert kept.turn(seeing=False) == [(begun, begun + NS)]
    kept.recorder.clock_was_set(kept.now_ns)
    kept.recorder.close()
    assert kept.rows() == [], "it was over already"


def test_a_long_path_is_named_by_its_end() -> None:
    assert _shorten("/home/web01/send.php") == "/home/web01/send.php"
    assert _shorten("/home/web01/" + "deep/" * 20 + "send.php") == ".../send.php"


def test_what_was_lost_is_kept_each_second_by_its_kind_and_once_an_hour_that_it_would_be() -> None:
    kept, lost = Kept(), {"bpf: events": 0, "history: rows": 3}
    assert kept.turn(seeing=False) == [], "nobody says what was lost"
    kept.recorder.count_losses = lambda: lost

    def turn(after_ns: int = NS) -> dict[object, object]:
        rows = kept.turn(after_ns=after_ns, seeing=False)
        assert {(row[0], row[3]) for row in rows} <= {((kept.now_ns + OFFSET_NS) // MINUTE_NS, kept.now_ns + OFFSET_NS)}
        return {row[1]: row[2] for row in rows}

    assert turn() == {"history: rows": 3, MARK: 0}
    lost = {"bpf: events": 5, "history: rows": 3}
    assert turn() == {"bpf: events": 5}
    assert turn() == {}
    assert turn(HOUR_NS) == {MARK: 0}
    lost = {"bpf: events": 7, "history: rows": 3}
    kept.recorder.close()
    assert [row[1:3] for row in kept.rows()] == [("bpf: events", 2)]


def test_a_crowd_is_handed_over_before_its_second_is_over() -> None:
    kept = Kept()
    for uid in range(MANY):
        kept.recorder.attempt(Subject(id=10_000 + uid), connect(0), T0, refused=False, is_counted=True)
    first = kept.rows()
    assert len({row[1] for row in first if len(row) > 1}) >= MANY
    for uid in range(MANY):
        kept.recorder.outcome(Subject(id=20_000 + uid), report_of(20_000 + uid))
    assert kept.rows()
