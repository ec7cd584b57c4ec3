"""What is told at once, what is summed up, what has to wait; hostile text in it; what a restart and a full disk do."""

import json
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from smtpguard.daemon.outlet.frames import HelperSettings, Up
from smtpguard.notify import digest
from smtpguard.notify.body import render_body
from smtpguard.notify.delivery import Channel, DeliveryError
from smtpguard.notify.notification import Notification
from smtpguard.notify.samples import KINDS, make_sample
from smtpguard.notify.spool import Letter
from smtpguard.notify.urgency import FOR_INCIDENTS, FOR_KNOWN, FOR_ONE, PER_HOUR
from smtpguard.resources import read_resource
from smtpguard.settings.notify import Heartbeat, Kind, NotifySettings, Webhook

SCHEMA = jsonschema.Draft202012Validator(json.loads(read_resource("config", "notification.schema.json")))
HOOK = Webhook(url="https://example.org/x", secret_file="/x", kinds=("incident-begins", "digest"))  # noqa: S106
UIDS: dict[str, int] = {}
TIME = "2026-11-28T20:20:00.000000+01:00"


class FakeChannel:
    """Takes all, or nothing while it is down."""

    name = type = "fake"

    def __init__(self, key: str = "fake", kinds: Collection[str] = KINDS) -> None:
        self.key = key
        self.kinds = kinds
        self.is_down = True

    def wants(self, kind: str) -> bool:
        return kind in self.kinds

    def send(self, message: Letter) -> str:
        if self.is_down:
            raise DeliveryError("down")
        return message.id


class Bench:
    """The duty; its thread sends nothing."""

    def __init__(self, folder: Path, **settings: Any) -> None:  # noqa: ANN401 - fields of NotifySettings
        self.folder = folder
        self.now_s = 1_795_000_000.0
        self.said: list[tuple[Up, Any]] = []
        self.channel = FakeChannel()
        self.others: list[FakeChannel] = []
        self.settings = settings
        self.begin()

    def begin(self) -> None:
        def make(settings: NotifySettings) -> list[Channel]:
            del settings
            return [self.channel, *self.others]

        self.duty = Notification(
            lambda kind, content=None: self.said.append((kind, content)),
            lambda: None,
            make=make,
            wall=lambda: self.now_s,
        )
        self.configure(**self.settings)

    def configure(self, **settings: Any) -> None:  # noqa: ANN401
        notify = NotifySettings(webhooks=(HOOK,), **settings)
        self.duty.configure(
            HelperSettings(state_path=str(self.folder / "state.db"), control_socket="/x", values={"notify": notify})
        )

    def end(self) -> None:
        self.duty.close()
        self.spool.close()

    @property
    def spool(self) -> Any:  # noqa: ANN401
        return self.duty._spool

    def tell(self, *occasions: Mapping[str, Any]) -> None:
        for occasion in occasions:
            self.duty.take("occasion", occasion)

    def messages(self, key: str = "fake") -> list[dict[str, Any]]:
        found = []
        for message in self.spool.list_waiting(key):
            found.append(json.loads(self.spool.read_body(message.seq)))
            SCHEMA.validate(found[-1])
        return found

    def kinds(self) -> list[str]:
        return [message["kind"] for message in self.messages()]


@pytest.fixture(autouse=True)
def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.notify.notification.Delivery.start", lambda _: None)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def incident(key: str, *, over: bool = False, connects: int = 20, user: str = "web01", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    figures = {"verdicts": 1, "connects": connects, "refused": 10, "peak_per_minute": 20, "destination_count": 3}
    shown = {
        "id": key,
        "first": TIME,
        "last": TIME,
        "mode": "enforce",
        "rules": ["mx"],
        "scripts": [{"script": "/home/web01/x/send.php", "count": 20}],
        "destinations": [{"address": "192.0.2.2", "count": 20}],
        "over": over,
        **figures,
    }
    kind = "incident-over" if over else "incident-begins"
    return {
        "id": f"{key}-{kind}",
        "kind": kind,
        "time": TIME,
        "key": key,
        "user": user,
        "uid": 1001 + UIDS.setdefault(user, len(UIDS)),
        "incident": shown,
        **more,
    }


def begins(key: str, action: str = "block", mode: str = "enforce", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    verdict = {
        "rule": "mx",
        "count": 6,
        "counted": "connections",
        "limit": 5,
        "window": 600,
        "action": action,
        "mode": mode,
        "why_dry": "" if mode == "enforce" else "dry_run",
        "ports": [25],
        "until": None if action == "warn" else "2026-11-28T20:50:00.000000+01:00",
        "left_to_fail2ban": False,
        "script": more.pop("script", "/home/web01/x/send.php"),
    }
    block = {"kind": action, "ports": [25], "since": TIME, "until": verdict["until"], "by": "guard", "rule": "mx"}
    is_refused = mode == "enforce" and action != "warn"
    blocks = [block | {"mode": mode, "suspended": False}] if is_refused else []
    occasion = incident(key, verdict=verdict, blocks=blocks, **more)
    return occasion | {"id": f"{key}-{action}-{mode}"}


def lasts(key: str, days: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return incident(key, **more) | {"id": f"{key}-day-{days}", "days": days}


def over(key: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return incident(key, over=True, **more)


def brake(number: int, *, tripped: bool, mode: str = "enforce") -> dict[str, Any]:
    what = {"tripped": tripped, "blocks": 4, "mode": mode, "limit": 3, "per": 600}
    return {"id": f"breaker-{number}", "kind": "breaker", "time": TIME, "brake": what}


def blind(number: int, *, holds: bool, condition: str = "blind") -> dict[str, Any]:
    return {
        "id": f"{condition}-{number}",
        "kind": "blind",
        "time": TIME,
        "condition": condition,
        "holds": holds,
        "what": "bpf has died",
    }


def test_a_block_is_told_at_once_and_all_that_is_told_is_in_the_spool_first(bench: Bench) -> None:
    bench.tell(begins("a"))
    (message,) = bench.messages()
    assert message["text"] == (
        "web01 BLOCKED on port 25 until 20:50: 6 connections in 10 min, limit 5 (rule mx). "
        "Script: .../send.php. See: smtpguard why web01"
    )
    assert message["why"]["verdict"] == "US: port 25 refused since 20:20, until 20:50, rule mx"
    assert bench.said == [("took", {"id": "a-block-enforce"})]


def test_the_text_calls_nobody_in_a_chat_whatever_a_script_is_called(bench: Bench) -> None:
    occasion = begins("a")
    occasion["verdict"]["script"] = "/home/web01/<!channel>@here*[x](y).php:41"
    bench.tell(occasion)
    (message,) = bench.messages()
    assert "Script: .../??channel??here??x?(y).php:41. See: " in message["text"]
    assert message["incident"]["verdict"]["script"] == ".../<!channel>@here*[x](y).php:41", "the name itself"


def test_warnings_and_dry_run_are_for_the_summary_alone(bench: Bench) -> None:
    for number in range(200):
        bench.tell(begins(f"w{number}", "warn"), begins(f"d{number}", "block", "dry-run"))
        bench.tell(over(f"w{number}"), over(f"d{number}"))
    assert bench.kinds() == []
    sums = bench.spool.read_fact("digest")
    assert sums["begun"] == {"warn enforce": 200, "block dry-run": 200}
    assert (sums["incidents"], sums["verdicts"], sums["connects"]) == (400, 400, 8000)


def test_at_once_changes_that(tmp_path: Path) -> None:
    bench = Bench(tmp_path, at_once=("warn", "dry-run"))
    bench.tell(begins("a", "warn"), begins("b", "throttle", "dry-run"), begins("c", "block"))
    assert [message["incident"]["id"] for message in bench.messages()] == ["a", "b"]
    assert bench.messages()[1]["text"].startswith("DRY RUN, nothing refused: web01 would be throttled on port 25 until")


def test_one_message_an_incident_and_kind_and_another_only_where_it_is_graver(tmp_path: Path) -> None:
    bench = Bench(tmp_path, at_once=("block", "throttle", "warn", "dry-run"))
    bench.tell(begins("a", "warn"), begins("a", "throttle", "dry-run"), begins("a", "throttle"), begins("a", "block"))
    bench.tell(begins("a", "throttle"), begins("a", "block", "dry-run"), begins("a", "block"), begins("a", "warn"))
    bench.now_s += 3601
    bench.tell(over("a"), over("a"))
    assert bench.kinds() == ["incident-begins"] * 4 + ["incident-over"]
    told = [message["text"] for message in bench.messages()]
    assert "THROTTLED" in told[2]
    assert "BLOCKED" in told[3]


def test_who_keeps_an_incident_open_is_told_again_each_day_and_is_in_the_summary(bench: Bench) -> None:
    bench.tell(begins("a", "throttle"), begins("w", "warn", user="web02"))
    for days in (1, 2):
        bench.now_s += 86_400
        bench.duty.on_time(0)
        bench.tell(lasts("a", days), lasts("a", days), lasts("w", days, user="web02"))
    begun, first, again, second, _ = bench.messages()
    assert begun["text"].startswith("web01 THROTTLED")
    assert again["text"].startswith("web01: incident goes on for 1 day (rules: mx). 20 attempts so far, 10 refused")
    assert bench.messages()[-1]["text"].startswith("web01: incident goes on for 2 days")
    for summary in (first, second):
        assert "2 incidents still going on: web01 20, web02 20." in summary["text"]
        assert {row["user"] for row in summary["digest"]["going_on"]} == {"web01", "web02"}
    bench.tell(over("a"), over("w"))
    bench.now_s += 86_400
    bench.duty.on_time(0)
    assert bench.messages()[-1]["digest"]["going_on"] == []


def test_of_those_that_go_on_one_users_many_push_out_none_of_others(bench: Bench) -> None:
    bench.tell(begins("victim", "warn", user="victim"), *(begins(f"c{number}", "warn") for number in range(300)))
    assert "victim" in bench.spool.read_fact("going")
    assert len(bench.spool.read_fact("going")) == 200
    bench.now_s += 3 * 86_400
    bench.tell(begins("new", "warn"))
    assert list(bench.spool.read_fact("going")) == ["new"], "whose end was lost"


def test_the_end_of_what_nobody_was_told_of_is_not_told(bench: Bench) -> None:
    bench.tell(begins("a", "warn"), over("a"), over("b"))
    assert bench.kinds() == []


def test_nothing_is_told_again_by_another_process(bench: Bench) -> None:
    bench.tell(begins("a"), brake(1, tripped=True), blind(1, holds=True))
    bench.end()
    bench.begin()
    bench.tell(begins("a"), begins("a", "throttle"), brake(2, tripped=True), blind(2, holds=True), over("a"))
    assert bench.kinds() == ["incident-begins", "breaker", "blind", "incident-over"]


def test_what_is_handed_over_twice_is_counted_once(bench: Bench) -> None:
    for _ in range(2):  # a process that died after it had kept it, and before it could say so
        bench.tell(begins("a", "warn"), over("a"))
    sums = bench.spool.read_fact("digest")
    assert (sums["begun"], sums["incidents"]) == ({"warn enforce": 1}, 1)
    assert len(bench.said) == 4, "the daemon hears each time that it is there"


def test_the_guards_own_condition_is_told_when_it_changes(bench: Bench) -> None:
    bench.tell(*(blind(number, holds=False, condition=name) for number, name in enumerate(("blind", "off"))))
    assert bench.kinds() == [], "a start that goes well"
    bench.tell(blind(3, holds=True), blind(4, holds=False), blind(5, holds=True, condition="not-enforcing"))
    assert [message["text"][:8] for message in bench.messages()] == ["BLIND: n", "It sees ", "NOT ENFO"]


def test_a_brake_in_dry_run_is_for_the_summary(bench: Bench) -> None:
    bench.tell(brake(1, tripped=True, mode="dry-run"))
    assert bench.kinds() == []
    assert bench.spool.read_fact("digest")["brakes"] == 1
    bench.tell(brake(2, tripped=True), brake(3, tripped=False))
    assert bench.kinds() == ["breaker", "breaker"]


def test_thirty_an_hour_and_the_next_names_what_was_held_back(bench: Bench) -> None:
    bench.tell(*(begins(f"i{number}", user=f"web{number}") for number in range(100)))
    assert len(bench.kinds()) == FOR_INCIDENTS < PER_HOUR == 30
    for number in range(20):
        bench.tell(brake(number, tripped=number % 2 == 0))
    assert len(bench.kinds()) <= PER_HOUR
    first_brake = next(message for message in bench.messages() if message["kind"] == "breaker")
    assert first_brake["held_back"]["count"] == 100 - FOR_INCIDENTS
    assert [held["id"] for held in first_brake["held_back"]["messages"]][-1] == "i99-block-enforce"
    count = len(bench.kinds())
    bench.now_s += 3601
    bench.tell(begins("later"))
    last = bench.messages()[-1]
    assert last["incident"]["id"] == "later"
    assert last["held_back"]["count"] == 20 - (count - FOR_INCIDENTS)
    bench.tell(begins("later still"))
    assert "held_back" not in bench.messages()[-1]


def test_one_user_uses_up_nobody_elses_room(bench: Bench) -> None:
    bench.tell(*(begins(f"i{number}") for number in range(50)), *(over(f"i{number}") for number in range(50)))
    assert len(bench.kinds()) == FOR_ONE
    bench.tell(begins("victim", user="shop7"))
    last = bench.messages()[-1]
    assert last["incident"]["user"] == "shop7"
    assert last["held_back"]["count"] == 50 + 50 - FOR_ONE
    assert len(last["held_back"]["messages"]) == 1, "one line a user"
    bench.now_s += 3601
    bench.tell(begins("again"))
    assert bench.messages()[-1]["incident"]["id"] == "again"


def test_nobody_hides_a_block_behind_messages_of_their_own(bench: Bench) -> None:
    bench.configure(at_once=("block", "throttle", "warn", "dry-run"))
    for hour in range(2):  # the second time nothing of it is new
        bench.tell(*(begins(f"w{hour}{n}", "warn") for n in range(9)), begins(f"d{hour}", "block", "dry-run"))
        bench.tell(*(begins(f"t{hour}{n}", "throttle") for n in range(9)), *(over(f"t{hour}{n}") for n in range(9)))
        bench.tell(begins(f"b{hour}"))
        assert bench.messages()[-1]["incident"]["id"] == f"b{hour}"
        assert "BLOCKED" in bench.messages()[-1]["text"]
        bench.now_s += 3601
    assert len(bench.kinds()) <= 6 + FOR_ONE


def test_all_containers_together_have_the_room_of_one_user(bench: Bench) -> None:
    bench.tell(*(begins(f"c{number}", user=f"uid:{number}@container") | {"uid": None} for number in range(40)))
    assert len(bench.kinds()) == FOR_ONE
    bench.tell(begins("victim", user="shop7"))
    assert bench.messages()[-1]["incident"]["user"] == "shop7"
    assert len(bench.messages()[-1]["held_back"]["messages"]) == 1


def test_known_offenders_leave_room_for_whoever_is_new(bench: Bench) -> None:
    for hour in range(3):
        bench.tell(*(begins(f"h{hour}-{user}-{n}", user=f"web{user}") for n in range(3) for user in range(10)))
        bench.now_s += 3601
    bench.tell(*(begins(f"x{user}-{n}", user=f"web{user}") for n in range(3) for user in range(10)))
    assert len(bench.kinds()) == 3 * FOR_KNOWN + FOR_KNOWN
    bench.tell(*(begins(f"new{number}", user=f"shop{number}") for number in range(20, 33)))
    assert [message["incident"]["user"] for message in bench.messages()[-13:]] == [f"shop{n}" for n in range(20, 33)]
    bench.tell(begins("one", "throttle", user="web50"))
    assert bench.messages()[-1]["incident"]["user"] == "shop32", "all 26 are used up"
    bench.now_s += 3601
    bench.tell(begins("one", user="web50"))
    assert bench.messages()[-1]["incident"]["user"] == "web50"


def test_whose_throttle_was_told_is_new_with_a_block(bench: Bench) -> None:
    bench.tell(begins("a", "throttle", user="web50"))
    bench.tell(*(begins(f"i{number}", user=f"web{number}") for number in range(20)))
    bench.tell(begins("b", "throttle", user="web50"), begins("c", "block", user="web50"))
    assert [m["incident"]["id"] for m in bench.messages()][-2:] == ["i19", "c"]


def test_what_was_held_back_waits_on_each_channel_for_a_message_there(bench: Bench) -> None:
    bench.others = [FakeChannel("begins", ("incident-begins",)), FakeChannel("brake", ("breaker", "digest"))]
    bench.configure()
    bench.tell(*(begins(f"i{number}", user=f"web{number}") for number in range(66)))
    bench.tell(over("i0", user="web0"), over("i1", user="web1"), brake(1, tripped=True))
    (told,) = bench.messages("brake")
    assert "held_back" not in told, "of incidents it hears nothing"
    assert bench.messages()[-1]["held_back"]["count"] == 42
    assert len(bench.messages()[-1]["held_back"]["messages"]) == 20
    bench.now_s += 3601
    bench.tell(begins("later", user="web99"))
    assert "held_back" not in bench.messages()[-1]
    assert bench.messages("begins")[-1]["held_back"]["count"] == 40
    bench.now_s += 86_400
    bench.duty.on_time(0)
    assert bench.messages()[-1]["digest"]["held_back"] == 22, "of 42 it has named 20"
    assert bench.messages("brake")[-1]["digest"]["held_back"] == 0


def test_what_was_held_back_and_nothing_has_followed_is_sent_when_there_is_room(tmp_path: Path) -> None:
    bench = Bench(tmp_path, digest="none")
    bench.others = [FakeChannel("begins", ("incident-begins",))]
    bench.configure(digest="none")
    bench.tell(*(begins(f"i{number}", user=f"web{number}") for number in range(30)), over("i0", user="web0"))
    assert (len(bench.kinds()), len(bench.messages("begins"))) == (26, 26)
    bench.duty._tidy()
    assert len(bench.kinds()) == 26, "there is no room yet"
    bench.now_s += 3601
    for _ in range(2):
        bench.duty._tidy()
    for key in ("fake", "begins"):
        last = bench.messages(key)[-1]
        assert (len(bench.messages(key)), last["incident"]["user"]) == (27, "web29")
        assert last["held_back"]["count"] == (4 if key == "fake" else 3)
        assert "web29" not in str(last["held_back"]["messages"])


def test_what_nobody_wants_to_hear_uses_up_no_room(bench: Bench) -> None:
    bench.channel.kinds = ("incident-over", "breaker")
    bench.tell(*(begins(f"i{number}", user=f"web{number}") for number in range(66)))
    assert bench.kinds() == []
    assert bench.spool.count_at_once(0) == 0
    bench.tell(over("i60", user="web60"))
    assert bench.kinds() == ["incident-over"], "though its beginning was for nobody"
    assert "held_back" not in bench.messages()[-1]


def test_twenty_users_in_a_minute_then_many_verdicts(bench: Bench) -> None:
    for number in range(20):
        bench.tell(begins(f"i{number}", user=f"web{number}"))
    for number in range(250):
        bench.tell(begins(f"j{number}", user=f"shop{number}"))
    for number in range(20):
        bench.tell(over(f"i{number}", user=f"web{number}"))
    for number in range(250):
        bench.tell(over(f"j{number}", user=f"shop{number}", connects=number))
    assert len(bench.kinds()) <= PER_HOUR
    bench.now_s += 86_400
    bench.duty.on_time(0)
    summary = bench.messages()[-1]["digest"]
    assert (summary["incidents"], summary["verdicts"]) == (270, 270)
    assert summary["connects"] == 20 * 20 + sum(range(250))
    assert summary["begun"] == {"block enforce": 270}
    assert len(summary["users"]) <= 101
    assert sum(row["connects"] for row in summary["users"]) == summary["connects"]


def test_what_may_leave_the_host(tmp_path: Path) -> None:
    bench = Bench(tmp_path, share=())
    bench.tell(begins("a"), over("a"))
    text = json.dumps(bench.messages())
    for secret in ("web01", "1001", "send.php", "/home", "192.0.2.2"):
        assert secret not in text
    assert bench.messages()[0]["text"].startswith("a user BLOCKED on port 25")
    bench.configure(share=("user", "path", "destinations"))
    bench.tell(begins("b"))
    assert "Script: /home/web01/x/send.php." in bench.messages()[-1]["text"]
    assert bench.messages()[-1]["incident"]["destinations"] == [{"address": "192.0.2.2", "count": 20}]


def test_hostile_text_stays_in_its_place(bench: Bench) -> None:
    script = r"/tmp/\x0d\x0aBcc:\x20a@b/<script>alert(1)</script>*_`[x](y).php"
    bench.tell(begins("a", script=script, user="web%0A01"))
    (message,) = bench.messages()
    assert message["text"].isprintable()
    assert message["text"].isascii()
    assert "See: smtpguard blocks" in message["text"], "such a name can't be typed"


def test_a_full_disk_is_waited_for(bench: Bench) -> None:
    sound = bench.spool.add

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    bench.spool.add = full
    bench.tell(begins("a"), begins("b"))
    assert bench.said == []
    assert "disk is full" in str(bench.duty.report()["troubles"])
    bench.spool.add = sound
    bench.duty.on_time(0)
    assert [content["id"] for _, content in bench.said] == ["a-block-enforce", "b-block-enforce"]
    assert bench.duty.report()["troubles"] == [] or "down" in str(bench.duty.report()["troubles"])


def test_an_occasion_that_can_not_be_told_holds_up_no_other(bench: Bench) -> None:
    with pytest.raises(KeyError):
        bench.tell({"id": "odd", "kind": "incident-begins", "key": "odd", "time": TIME})
    bench.tell(begins("a"))
    assert [content["id"] for _, content in bench.said] == ["odd", "a-block-enforce"]
    assert bench.kinds() == ["incident-begins"]


def test_a_damaged_spool_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "notify-state.db").write_bytes(b"no database at all" * 1000)
    bench = Bench(tmp_path)
    bench.tell(begins("a"))
    assert bench.kinds() == ["incident-begins"]
    assert "begun anew" in str(bench.duty.report()["troubles"])
    assert (tmp_path / "notify-state.db.broken").exists()
    assert (tmp_path / "notify-state.db").stat().st_mode & 0o777 == 0o600


def test_where_no_file_can_be_made_memory_has_to_do(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "missing")
    bench.tell(begins("a"))
    assert bench.kinds() == ["incident-begins"]
    assert "can't be used" in str(bench.duty.report()["troubles"])


def test_messages_of_channels_that_are_gone_go_too(bench: Bench) -> None:
    bench.tell(begins("a"))
    bench.channel.key = "another"
    bench.configure()
    assert bench.kinds() == []
    assert bench.spool.count_waiting() == 0


@pytest.mark.parametrize(
    ("last", "is_weekly", "due"),
    [
        ("2026-11-28 06:59", False, "2026-11-28 07:00"),
        ("2026-11-28 07:00", False, "2026-11-29 07:00"),
        ("2026-11-28 23:00", True, "2026-11-30 07:00"),
        ("2026-11-30 07:00", True, "2026-12-07 07:00"),
        ("2026-10-24 12:00", False, "2026-10-25 07:00"),
    ],
)
def test_when_a_summary_is_due(last: str, is_weekly: bool, due: str, in_berlin: None) -> None:
    del in_berlin
    read = "%Y-%m-%d %H:%M"
    found = digest.next_digest(time.mktime(time.strptime(last, read)), is_weekly=is_weekly)
    assert time.strftime(read, time.localtime(found)) == due


def test_no_summary_where_none_is_wanted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, digest="none")
    bench.now_s += 30 * 86_400
    bench.duty.on_time(0)
    assert bench.kinds() == []


def test_a_summary_of_nothing_says_so_once_a_day(bench: Bench) -> None:
    bench.now_s += 86_400
    bench.duty.on_time(0)
    bench.duty.on_time(0)
    (message,) = bench.messages()
    assert message["text"].startswith("Nothing since ")


@pytest.mark.parametrize("share", [("user",), ("domain",)])
def test_what_people_have_noted_is_in_the_summary_alone(tmp_path: Path, share: tuple[Any, ...]) -> None:
    bench = Bench(tmp_path, share=frozenset(share), heartbeat=Heartbeat(url="https://example.org/"))
    sums = bench.spool.read_fact("digest")
    del sums["notes"]  # an earlier version's
    bench.spool.add(facts={"digest": sums})
    for number in range(25):
        note = {"user": "web01", "uid": 1001, "by": "root", "note": f"cleaned {number}"}
        bench.tell({"id": f"note-{number}", "kind": "note", "time": TIME, **note})
    assert bench.kinds() == []
    bench.now_s += 86_400
    bench.duty.on_time(0)
    (message,) = bench.messages()
    named = ": web01: cleaned 22 (root); web01: cleaned 23 (root); web01: cleaned 24 (root)" if "user" in share else ""
    assert message["text"].endswith(f" 20 notes{named}.")
    assert [row["note"] for row in message["digest"]["notes"]] == (
        [f"cleaned {number}" for number in range(5, 25)] if "user" in share else [None] * 20
    )
    bench.now_s += 86_400
    bench.duty.on_time(0)
    assert len(bench.kinds()) == 1, "once"


@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_clock_that_was_wrong_keeps_nobody_from_being_told(bench: Bench, is_restarted: bool) -> None:
    """A year ahead at boot, until a time server was asked: what was told then is not of this hour for a year."""
    bench.now_s += 365 * 86_400
    bench.duty.on_time(0)
    assert bench.kinds() == ["digest"]
    bench.tell(*(begins(f"i{number}", user=f"web{number}") for number in range(100)))
    count = len(bench.kinds())
    bench.now_s -= 365 * 86_400
    if is_restarted:
        bench.end()
        bench.begin()
    else:
        bench.duty.on_time(time.monotonic() + 700)
    bench.now_s += 3601
    bench.tell(begins("later"))
    assert bench.messages()[-1]["incident"]["id"] == "later"
    assert len(bench.kinds()) == count + 1
    assert {letter.made_s <= bench.now_s for letter in bench.spool.list_waiting("fake")} == {True}
    bench.now_s += 86_400
    bench.duty.on_time(0)
    assert bench.kinds()[-1] == "digest"


def test_a_summary_of_nothing_is_not_sent_where_there_is_a_heartbeat(tmp_path: Path) -> None:
    bench = Bench(tmp_path, heartbeat=Heartbeat(url="https://example.org/"))
    for _ in range(3):
        bench.now_s += 86_400
        bench.duty.on_time(0)
    assert bench.kinds() == []
    bench.tell(over("a"))
    bench.now_s += 86_400
    bench.duty.on_time(0)
    assert bench.kinds() == ["digest"]


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_each_kind_is_valid_and_says_that_it_is_one(kind: Kind) -> None:
    sample = make_sample(kind, now_s=1.795e9, now=TIME, until=TIME)
    message = json.loads(render_body(sample, host="web", share=("user", "script")))
    SCHEMA.validate(message)
    assert message["text"].startswith("TEST, nothing has happened: ")


def test_block_lists_leave_room_for_all_else(bench: Bench) -> None:
    for number in range(40):
        sample = make_sample("listed", now_s=0, now=TIME, until=TIME)
        bench.tell({**sample, "id": f"listed-{number}"})
    assert bench.kinds() == ["listed"] * FOR_KNOWN
    bench.tell(begins("a"))
    (*_, last) = bench.messages()
    assert last["kind"] == "incident-begins"
    assert last["held_back"]["count"] == 40 - FOR_KNOWN


def test_where_nobody_is_to_be_told_nothing_is_kept_for_anybody() -> None:
    said: list[tuple[Up, Any]] = []
    duty = Notification(lambda kind, content=None: said.append((kind, content)), lambda: None)
    duty.configure(
        HelperSettings(control_socket="/x", state_path="/nowhere/state.db", values={"notify": NotifySettings()})
    )
    duty.take("occasion", incident("a"))
    duty.take("snapshot", {})
    assert [kind for kind, _ in said] == ["took"]


def test_a_warning_of_whom_nothing_was_refused_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, at_once=("warn",))
    warned = begins("a", action="warn")
    bench.tell({**warned, "incident": {**warned["incident"], "refused": 0}})
    (told,) = bench.messages()
    assert told["why"]["verdict_for_customer"] == "not_us"


def test_no_login_is_taken_for_the_rest_in_the_summary(bench: Bench) -> None:
    bench.tell(over("a", user="others", connects=5))
    bench.tell(*(over(f"i{number}", user=f"web{number}", connects=10) for number in range(150)))
    bench.tell(over("b", user="others", connects=50))
    users = {row["user"]: row["connects"] for row in digest.show_digest(
        bench.spool.read_fact("digest"), {}, 0, bench.now_s, ("user",)
    )[1]["users"]}  # fmt: skip
    assert users["others"] == 50
    assert users["(others)"] == 5 + 10 * (150 - 99)
