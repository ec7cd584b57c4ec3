"""What is usual of rules that count networks, destinations, failures, or attempts on some ports: by whole hours."""

from typing import Any

import pytest

from smtpguard.model import NS
from smtpguard.report.why import build_why
from smtpguard.settings import DAY_NS, HOUR_NS
from smtpguard.state.activity import Tally
from smtpguard.state.history import History
from smtpguard.state.store import Store
from smtpguard.state.user_history import collect_user
from smtpguard.state.usual_places import count_usual_places
from tests.unit.test_why import RULE, live

NOW_NS = 1_771_418_340 * NS
UID = 1001


def rule(count: str, window_s: int = 3600, ports: list[int] | None = None) -> dict[str, Any]:
    return {**RULE, "name": "asked", "count": count, "window": window_s, "ports": ports}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twenty hours of three days: in the hour that is N hours ago N networks of two addresses, on 25; once on 587."""
    tally = Tally()

    def connect(hours: int, address: bytes, port: int = 25, *, uid: int = UID, refused: bool = False) -> None:
        at_ns = NOW_NS - hours * HOUR_NS
        tally.add_connect(uid, wall_ns=at_ns, address=address, port=port, script=None, refused=refused)

    for day in range(3):
        for hour in range(20):
            for network in range(hour):
                for last in (1, 2):
                    connect(day * 24 + hour, bytes([192, day, network, last]))
            connect(day * 24 + hour, b"\x20\x01" + bytes(4) + bytes([hour]) + bytes(9), 587)
            connect(day * 24 + hour, bytes([10, 0, hour, 9]), refused=True)
            connect(day * 24 + hour, bytes([172, 16, hour, 9]), uid=7)
    for hour in (1, 2, 30):
        for error in ("timed out", None):
            at_ns = NOW_NS - hour * HOUR_NS
            tally.add_outcome(UID, wall_ns=at_ns, address=b"\1\2\3\4", port=25, own=None, error=error)
    connect(15 * 24, b"\1\2\3\4")
    path = str(tmp_path_factory.mktemp("state") / "state.db")
    store = Store.open(path, boot_id="b", wall_ns=NOW_NS, max_bytes=1 << 26)
    store.run(tally.take(), durable=False)
    store.close()
    return path


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (rule("networks", ports=[25]), (10, 19, 3)),
        (rule("destinations", ports=[25]), (20, 38, 3)),
        (rule("networks"), (11, 20, 3)),
        (rule("networks", 86_400, [25]), (19, 19, 3)),
        (rule("networks", 86_400, [587]), (1, 1, 3)),
        (rule("destinations", 86_400, [587]), (20, 20, 3)),
        (rule("connections", ports=[25]), (20, 38, 3)),
        (rule("connections", 86_400, [25]), (380, 380, 3)),
        (rule("connections", 2 * 86_400, [25]), (760, 760, 2)),
        (rule("failures"), (1, 1, 2)),
        (rule("failures", ports=[587]), None),
        (rule("networks", 600), None),
        (rule("connections", 0), None),  # an allowance whose limit counts in less than one
        (rule("networks", ports=[465]), None),
        (rule("bytes"), None),
    ],
)
def test_what_is_usual_is_told_of_whole_hours(
    path: str, asked: dict[str, Any], expected: tuple[int, int, int] | None
) -> None:
    with History(path) as history:
        found = count_usual_places(history, [asked], UID, since_ns=NOW_NS - 14 * DAY_NS, until_ns=NOW_NS + 1)
        past = collect_user(history, uid=UID, name=None, now_ns=NOW_NS, rules=[asked])
    wanted = None if expected is None else dict(zip(("p50", "p95", "days"), expected, strict=True))
    assert found.get("asked") == wanted
    (shown,) = build_why(live(rules=[{**asked, "now": 3}]), past, None)["rules"]
    assert shown["usual"] == wanted


def test_of_connections_on_all_ports_the_minutes_know_it_better(path: str) -> None:
    asked = rule("connections", 3600)
    with History(path) as history:
        past = collect_user(history, uid=UID, name=None, now_ns=NOW_NS, rules=[asked])
    (shown,) = build_why(live(rules=[{**asked, "now": 3}]), past, None)["rules"]
    assert shown["usual"] == past["usual"]["60"] != past["usual_of"]["asked"]
