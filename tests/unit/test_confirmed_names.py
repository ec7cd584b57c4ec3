"""Names of destinations, for commands: believed only where they lead back, and waited for within bounds."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from smtpguard.enrich import confirmed_names
from smtpguard.enrich.confirmed_names import ConfirmedName, confirm_names, find_provider
from smtpguard.enrich.resolver import Resolved
from smtpguard.report.providers import name_places

ADDRESS = "192.0.2.1"


def look(name: bytes | None, *back: str) -> dict[str, ConfirmedName]:
    return confirm_names([ADDRESS], resolve=lambda _: name, resolve_back=lambda _: Resolved(addresses=back))


def test_a_name_that_leads_back_is_taken_with_its_provider() -> None:
    assert look(b"MX1.Mail.Example.co.uk.", ADDRESS, "192.0.2.9") == {
        ADDRESS: ConfirmedName(name="mx1.mail.example.co.uk", provider="example.co.uk")
    }


def test_a_name_that_leads_elsewhere_is_not_taken() -> None:
    assert look(b"gmail-smtp-in.l.google.com", "192.0.2.9") == {}
    assert look(None) == {}

    def fail(_: str) -> Resolved:
        raise OSError

    assert confirm_names([ADDRESS], resolve=lambda _: b"mx.example.org", resolve_back=fail) == {}


@pytest.mark.parametrize(
    "name",
    [
        b"mx.example.org\n", b"\x1b[2J.example.org", b"=cmd.example.org", b"<script>.example.org", b"mx example.org",
        b"\xe2\x80\xae.example.org", b"localhost", b".", b"", b"a." * 200 + b"org", b"a" * 64 + b".org", b"\xff.org",
    ],
)  # fmt: skip
def test_what_is_no_host_name_is_never_asked_for(name: bytes) -> None:
    asked: list[str] = []

    def back(text: str) -> Resolved:
        asked.append(text)
        return Resolved(addresses=(ADDRESS,))

    assert confirm_names([ADDRESS], resolve=lambda _: name, resolve_back=back) == {}
    assert asked == []


def test_who_never_answers_holds_up_nobody_for_longer_than_said() -> None:
    hangs = threading.Event()

    def resolve(address: str) -> bytes:
        if address.startswith("198."):
            hangs.wait(100)
        return b"mx.example.org"

    addresses = [f"198.18.0.{n}" for n in range(confirmed_names.THREADS - 1)] + [f"192.0.2.{n}" for n in range(50)]
    wanted, found = set(addresses[confirmed_names.THREADS - 1 :]), dict[str, ConfirmedName]()
    for wait_s in (1, 5, 25):  # in which the others have their answers, however busy the machine is
        begun = time.monotonic()
        found = confirm_names(
            addresses, wait_s=wait_s, resolve=resolve, resolve_back=lambda _: Resolved(addresses=tuple(addresses))
        )
        assert time.monotonic() - begun < wait_s + 4
        if set(found) == wanted:
            break
    assert set(found) == wanted
    hangs.set()


def test_without_the_list_of_suffixes_there_is_a_name_and_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise ImportError

    confirmed_names._read_suffixes.cache_clear()
    with monkeypatch.context() as broken:
        broken.setattr(confirmed_names, "import_module", fail)
        assert look(b"mx.example.org", ADDRESS) == {ADDRESS: ConfirmedName(name="mx.example.org", provider=None)}
        assert "publicsuffixlist is not installed" in (confirmed_names.find_provider_trouble() or "")
    confirmed_names._read_suffixes.cache_clear()
    assert confirmed_names.find_provider_trouble() is None
    assert find_provider("com") is None


def test_places_without_a_confirmed_name_stay_as_they_are() -> None:
    places: list[dict[str, Any]] = [{"address": address, "name": None, "provider": None} for address in ("a", "b")]
    named = name_places(places, {"b": SimpleNamespace(name="mx.example.org", provider="example.org")})
    assert named == [places[0], {"address": "b", "name": "mx.example.org", "provider": "example.org"}]
