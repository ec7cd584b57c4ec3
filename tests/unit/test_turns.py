"""A flood leaves the loop its turns: what one part does in one of them is bounded, and nothing is lost by that."""

from smtpguard.daemon.record.enrichment_queue import AT_ONCE, Entry, Waiting
from smtpguard.model import NS, Account, Connect, SocketReport, Subject
from smtpguard.settings import Settings
from smtpguard.sources.bpf.source import MAX_TAKEN, make_source


def test_lines_that_are_due_leave_in_order_some_in_each_turn() -> None:
    left: list[int] = []
    now = [NS]
    waiting = Waiting(lambda: now[0], lambda entry: left.append(entry.connect.time_ns), looker=None, rdns=None)
    account = Account(uid=1001, name="web", standing="tenant")
    for number in range(3 * AT_ONCE):
        connect = Connect(time_ns=number, uid=1001, port=25, address=bytes(4), sensor="bpf")
        waiting.add(Entry(connect=connect, account=account, subject=Subject(id=1001)))
    waiting.on_time(now[0])
    assert len(left) == AT_ONCE
    assert waiting.next_deadline() == 0, "the next turn follows at once"
    waiting.on_time(now[0])
    waiting.on_time(now[0])
    assert left == list(range(3 * AT_ONCE))
    assert waiting.next_deadline() != 0


def test_of_very_many_a_quarter_leaves_so_that_they_never_pile_up() -> None:
    left: list[int] = []
    waiting = Waiting(lambda: NS, lambda entry: left.append(entry.connect.time_ns), looker=None, rdns=None)
    account = Account(uid=1001, name="web", standing="tenant")
    for number in range(40 * AT_ONCE):
        connect = Connect(time_ns=number, uid=1001, port=25, address=bytes(4), sensor="bpf")
        waiting.add(Entry(connect=connect, account=account, subject=Subject(id=1001)))
    waiting.on_time(NS)
    assert len(left) == 10 * AT_ONCE
    waiting.close()
    assert left == list(range(40 * AT_ONCE)), "at the end all of them"


def test_reports_are_handed_over_a_thousand_at_a_time() -> None:
    source = make_source(Settings())
    for number in range(2 * MAX_TAKEN + 1):
        source._keep(
            SocketReport(
                time_ns=number,
                kind="open",
                uid=1001,
                netns=None,
                cookie=number,
                connect_time_ns=None,
                port=25,
                address=bytes(4),
                latency_ns=None,
                bytes_sent=0,
                bytes_received=0,
                retransmissions=0,
            )
        )
    taken = [source.take_reports()]
    assert source.next_poll_ns() == 0, "the rest is asked for at once"
    taken += [source.take_reports(), source.take_reports()]
    assert [len(reports) for reports in taken] == [MAX_TAKEN, MAX_TAKEN, 1]
    assert [report.time_ns for reports in taken for report in reports] == list(range(2 * MAX_TAKEN + 1))
