"""Whose accounts are, kept up to date: when it is read, what holds while that fails, and domains as words for users."""

import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import AmbiguousUserError, SourceError
from smtpguard.model import NS, Customer
from smtpguard.panels.customer_table import CustomerTable, render_table
from smtpguard.panels.customer_watch import CustomerWatch
from smtpguard.panels.customers_apart import Reading
from smtpguard.panels.kept_customers import read_kept, write_kept
from smtpguard.panels.known_panels import find_panel, read_signature
from smtpguard.settings import Settings

CLOCK_REALTIME_COARSE = 5
SAID = render_table("command", {"web01": Customer(domain="web.example", package="business")})
USERS = (
    "root:x:0:0::/root:/bin/sh\nweb01:x:1001:1001::/:/bin/sh\nweb02:x:1002:1002::/:/bin/sh\n"
    "old.example:x:1003:1003::/:/bin/sh\n"
)


class Reader:
    """In place of the child."""

    def __init__(self) -> None:
        self.answers: list[Reading | SourceError] = []
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, command: Sequence[str], /) -> Reading:
        self.asked.append(tuple(command))
        answer = self.answers.pop(0)
        if isinstance(answer, SourceError):
            raise answer
        return answer


class Scene:
    """A watch whose time is told."""

    def __init__(self, settings: Settings) -> None:
        self.now_ns = NS
        self.reader = Reader()
        self.watch = CustomerWatch(settings, lambda: self.now_ns, self.reader)

    def read(self, *answers: Reading | SourceError, after_s: float = 0) -> bool:
        """Look after some time, and take what was read."""
        self.now_ns += int(after_s * NS)
        self.reader.answers += answers
        self.watch.look()
        assert select.select([self.watch.fileno()], [], [], 10)[0]
        return self.watch.take()

    def asks(self, after_s: float) -> bool:
        """Whether it is read then."""
        self.now_ns += int(after_s * NS)
        self.reader.answers.append(Reading(SAID))
        self.watch.look()
        asked = self.watch._thread is not None
        if asked:
            assert select.select([self.watch.fileno()], [], [], 10)[0]
            self.watch.take()
        else:
            self.reader.answers.pop()
        return asked


def make_file(path: Path) -> None:
    """Make one, which shows by the times of its directory: not before the next tick of the clock that stamps files."""
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= path.parent.stat().st_ctime_ns:
        time.sleep(0.001)
    path.touch()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(accounts=("/usr/bin/who", "-x"), state_path=str(tmp_path / "state.db"))


def test_an_answer_holds_until_there_is_another_and_over_a_restart(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(settings)
    assert scene.watch.find(["web01"]) is None
    assert scene.read(Reading(SAID, ("x: is a symbolic link",)))
    assert scene.reader.asked == [("/usr/bin/who", "-x")]
    assert scene.watch.find(["web01"]) == Customer(domain="web.example", domains=("web.example",), package="business")
    assert scene.watch.render() == "command: 1 accounts; x: is a symbolic link"
    assert scene.watch.trouble() is None
    assert not scene.read(SourceError("exit code 3", where="/usr/bin/who"), after_s=301)
    assert scene.watch.find(["web01"]) is not None
    assert scene.watch.trouble() == "accounts: /usr/bin/who: exit code 3; what was known before holds"
    again = Scene(settings)
    assert again.watch.find(["web01"]) is not None
    assert not again.read(Reading(SAID))  # nothing is another: no account is judged anew
    assert again.read(Reading(CustomerTable().text), after_s=301)
    assert again.watch.find(["web01"]) is None
    assert Scene(settings).watch.find(["web01"]) is None
    assert caplog.text.count("exit code 3") == 1


def test_a_command_is_asked_every_five_minutes_and_soon_again_where_it_failed(settings: Settings) -> None:
    scene = Scene(settings)
    assert scene.asks(0)
    assert not scene.asks(290)
    assert scene.asks(20)
    scene.read(SourceError("no"), after_s=310)
    assert not scene.asks(20)
    assert scene.asks(20)


def test_a_panel_is_read_when_its_files_change_and_rarely_where_that_takes_long(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    users = tmp_path / "var/cpanel/users"
    users.mkdir(parents=True)
    monkeypatch.setattr("smtpguard.panels.customer_watch.find_panel", lambda: find_panel(tmp_path))
    monkeypatch.setattr("smtpguard.panels.customer_watch.read_signature", lambda panel: read_signature(panel, tmp_path))
    scene = Scene(replace(settings, accounts="auto"))
    assert scene.asks(0)
    assert not scene.asks(30)
    make_file(users / "web01")
    assert scene.asks(0)
    assert scene.asks(61)

    def slow(command: Sequence[str], /) -> Reading:
        scene.now_ns += 3 * NS
        return scene.reader(command)

    scene.watch._read = slow
    assert scene.asks(61)
    assert not scene.asks(20)
    make_file(users / "web02")
    assert not scene.asks(5), "tenants can change that as fast as they like"
    assert scene.asks(6)
    assert not scene.asks(590)
    assert scene.asks(20)
    (users / "web01").unlink()
    (users / "web02").unlink()
    users.rmdir()
    scene.watch._read = lambda _command, /: Reading(CustomerTable().text)
    assert scene.read()
    assert scene.watch.find(["web01"]) is None
    scene.watch.look()
    assert scene.watch._thread is None


def test_nobody_is_asked_with_none(settings: Settings) -> None:
    write_kept(settings, SAID)
    scene = Scene(replace(settings, accounts="none"))
    scene.watch.look()
    assert scene.watch.fileno() == -1
    assert scene.watch.find(["web01"]) is None
    assert scene.reader.asked == []
    scene.watch.close()


def test_what_was_kept_is_for_root_alone_and_nothing_else_is_believed(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = os.umask(0)
    try:
        write_kept(settings, SAID)
    finally:
        os.umask(old)
    kept = tmp_path / "accounts.cache"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert read_kept(settings).find(["web01"]) is not None
    kept.chmod(0o666)
    assert Scene(settings).watch.find(["web01"]) is None
    kept.chmod(0o600)
    kept.write_bytes(b"nonsense")
    assert Scene(settings).watch.find(["web01"]) is None
    assert caplog.text.count("what was known before can't be used") == 2


# -- a domain as a person's word for a user ----------------------------------------------------------------------------


@pytest.fixture
def find(tmp_path: Path, settings: Settings) -> Callable[[str], int | None]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(USERS)
    scene = Scene(settings)
    both = ("both.example",)
    scene.read(
        Reading(
            render_table(
                "command",
                {
                    "web01": Customer(domain="web.example", domains=("old.example", *both)),
                    "web02": Customer(domain="shop.example", domains=both),
                    "gone": Customer(domain="gone.example", domains=("shop.example",)),
                },
            )
        )
    )
    directory = AccountDirectory(settings, root=tmp_path, customers=scene.watch)

    def ask(text: str) -> int | None:
        account = directory.lookup.by_person(text)
        told = directory.lookup.tell_domain(text)
        assert told == "" or (account is not None and told == f"{text} is a domain of {account.name}")
        return None if account is None else account.uid

    return ask


@pytest.mark.parametrize(
    ("text", "uid"),
    [
        ("web01", 1001),
        ("1002", 1002),
        ("uid:1002", 1002),
        ("web.example", 1001),
        ("WWW.Web.Example.", 1001),
        ("info@web.example", 1001),
        ("shop.example", 1002),  # whose other owner has no account here
        ("gone.example", None),
        ("nobody.example", None),
        ("", None),
        ("@", None),
        ("a@b@web.example", 1001),
        ("\udcff.example", None),
    ],
)
def test_a_domain_means_its_owner(find: Callable[[str], int | None], text: str, uid: int | None) -> None:
    assert find(text) == uid


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("both.example", "both.example is a domain of web01 (uid 1001) and web02 (uid 1002)"),
        ("old.example", "old.example is a domain of web01 (uid 1001), and the login of uid 1003"),
    ],
)
def test_what_means_two_means_nobody(find: Callable[[str], int | None], text: str, what: str) -> None:
    with pytest.raises(AmbiguousUserError) as error:
        find(text)
    assert error.value.what == what
