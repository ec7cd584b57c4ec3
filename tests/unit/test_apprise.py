"""What Apprise is given: an address through its standard input, and text that no chat takes for anything else."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from smtpguard.kernel.landlock import read_version
from smtpguard.notify.apprise_channel import AppriseChannel
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.plain import to_harmless
from tests.unit.test_channels import HOSTILE, letter

URL = "slack://T0KEN/T0KEN/channel"


class Got:
    """What a stand-in for Apprise was given: it may write no file, so that it sends."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(10)

    def read_text(self) -> str:
        return self._socket.recv(200_000).decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Got]:
    """A stand-in for Apprise in the process that is started; what it was given."""
    path = tmp_path / "got"
    (tmp_path / "apprise.py").write_text(
        dedent(f"""
        import json, socket, time
        class NotifyFormat:
            TEXT = "text"
        class Apprise:
            def add(self, url):
                self.url = url
                return not url.startswith("odd")
            def notify(self, **what):
                if self.url.startswith("slow"):
                    time.sleep(60)
                if self.url.startswith("write"):
                    open({str(tmp_path / "written")!r}, "w")
                to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                to.sendto(json.dumps(what | {{"url": self.url}}).encode(), {str(path)!r})
                return not self.url.startswith("down")
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    taken = Got(path)
    yield taken
    taken.close()


def test_it_gets_text_without_signs(got: Got) -> None:
    channel = AppriseChannel(URL, 1)
    assert channel.send(letter()) == "apprise sent it"
    given = json.loads(got.read_text())
    assert given["url"] == URL
    assert given["body_format"] == "text"
    assert given["title"] == "smtpguard web.example.org: incident-begins"
    assert given["body"].startswith("web01 BLOCKED on port 25 until 20:50: 6 connections in 10 min, limit 5 (rule mx).")
    assert not set(given["body"]) & set("<>[]`*@!#|~\r\n\\")
    assert channel.name == "slack (urls, 1)"
    assert "T0KEN" not in channel.key


@pytest.mark.parametrize(("url", "told"), [("odd://x", "does not know"), ("down://x", "could not send")])
def test_what_came_of_it_is_said(got: Got, url: str, told: str) -> None:
    del got
    with pytest.raises(DeliveryError, match=told):
        AppriseChannel(url, 1).send(letter())


@pytest.mark.skipif(not read_version(), reason="Landlock")
def test_it_may_write_nothing(got: Got, tmp_path: Path) -> None:
    del got
    with pytest.raises(DeliveryError, match="ended with 1"):
        AppriseChannel("write://x", 1).send(letter())
    assert not (tmp_path / "written").exists()


def test_one_that_hangs_is_ended(got: Got) -> None:
    del got
    begun = time.monotonic()
    with pytest.raises(DeliveryError, match="no answer within"):
        AppriseChannel("slow://x", 1, timeout_s=1).send(letter())
    assert time.monotonic() - begun < 20


def test_where_it_is_not_installed_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apprise.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DeliveryError, match="apprise is not installed"):
        AppriseChannel(URL, 1).send(letter())


def test_text_for_chats_has_none_of_their_signs() -> None:
    text = to_harmless(HOSTILE)
    assert not set(text) & set("<>[]`*@!#|~\r\n\\")
    assert text.isascii()
