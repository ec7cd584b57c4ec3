"""Programs of root's, mails, the heartbeat: nothing that somebody else wrote gets where it does not belong."""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from smtpguard.notify import mail_server as mail_module
from smtpguard.notify.body import render_body
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.hook import ENVIRONMENT, HookChannel
from smtpguard.notify.mail import MailChannel, render_mail
from smtpguard.notify.readiness import find_unready
from smtpguard.notify.spool import Letter
from smtpguard.settings.notify import NotifySettings, Webhook
from tests.support.local_server import LocalServer
from tests.support.processes import has_ended
from tests.support.programs import hang, wait_until_gone
from tests.unit.test_notification import begins

HOSTILE = "/home/w/\r\nBcc: a@b\r\n\r\n<script>*_`[x](http://y)@everyone<!channel>\u202e.php"


def letter(**more: Any) -> Letter:  # noqa: ANN401
    occasion = begins("a", script=HOSTILE) | more
    body = render_body(occasion, host="web.example.org", share=("user", "path", "script"))
    return Letter(id="a-block-enforce", channel="", thread="a", kind="incident-begins", body=body, made_s=1.795e9)


# -- hook ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def write_program(folder: Path, text: str, mode: int = 0o755) -> str:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return str(path)


def test_a_hook_gets_json_fixed_arguments_and_an_empty_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "x")
    program = write_program(folder, f'cat >{folder}/in; env >{folder}/env; echo "$#:$1:$2" >{folder}/argv; id -u')
    assert HookChannel((program, "a b", "$(id)")).send(letter()) == "it ended with 0"
    assert json.loads((folder / "in").read_text())["incident"]["user"] == "web01"
    assert (folder / "argv").read_text() == "2:a b:$(id)\n"
    given = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines())
    assert set(given) <= {*ENVIRONMENT, "PWD", "SHLVL", "_", "OLDPWD"}
    assert given["PATH"] == ENVIRONMENT["PATH"]


@pytest.mark.parametrize(
    ("mode", "told"), [(0o777, "can be written by others"), (0o775, "can be written by others"), (0o644, "Permission")]
)
def test_a_hook_that_others_may_write_or_nobody_may_run_is_not_run(folder: Path, mode: int, told: str) -> None:
    program = write_program(folder, f"touch {folder}/ran", mode)
    with pytest.raises(DeliveryError, match=told):
        HookChannel((program,)).send(letter())
    assert not (folder / "ran").exists()


def test_a_hook_in_a_folder_that_others_may_write_is_not_run(folder: Path) -> None:
    program = write_program(folder, f"touch {folder}/ran")
    folder.chmod(0o777)
    with pytest.raises(DeliveryError, match="may write to this directory"):
        HookChannel((program,)).send(letter())
    folder.chmod(0o755)


def test_a_hook_by_a_link_is_not_run(folder: Path) -> None:
    (folder / "link").symlink_to(write_program(folder, "true"))
    with pytest.raises(DeliveryError, match="symbolic link"):
        HookChannel((str(folder / "link"),)).send(letter())


def test_a_hook_that_can_not_be_waited_for_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = write_program(folder, f"sleep 300 & echo $! >{folder}/pid; wait")

    def fail(_: int) -> int:
        while not (folder / "pid").exists() or not (folder / "pid").read_text():
            time.sleep(0.01)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", fail)
    with pytest.raises(DeliveryError, match="Too many open files"):
        HookChannel((program,)).send(letter())
    hook = (folder / "pid").read_text().strip()
    while not has_ended(hook):
        time.sleep(0.01)


def test_a_hook_that_hangs_is_ended_with_all_that_it_has_started(folder: Path) -> None:
    mark = f"300.{os.getpid()}"
    program = write_program(folder, hang(mark, folder / "seen"))
    for timeout_s in (0.5, 2.5, 12.5):
        begun = time.monotonic()
        with pytest.raises(DeliveryError, match="did not end within"):
            HookChannel((program,), timeout_s=timeout_s).send(letter())
        assert time.monotonic() - begun < timeout_s + 9.5
        wait_until_gone(mark)
        if (folder / "seen").exists():
            break
    assert (folder / "seen").exists(), "there was nothing to end"


def test_how_a_hook_ended_is_said(folder: Path) -> None:
    with pytest.raises(DeliveryError, match="ended with 3"):
        HookChannel((write_program(folder, "exit 3"),)).send(letter())
    with pytest.raises(DeliveryError, match="can't be run"):
        HookChannel((str(folder / "missing"),)).send(letter())


# -- mail ------------------------------------------------------------------------------------------------------------


class SmtpServer(LocalServer):
    """Takes one mail after another, or does what a test says."""

    def __init__(self, mode: str = "take") -> None:
        self._mode = mode
        self.mails: list[bytes] = []
        self.envelopes: list[str] = []
        super().__init__()
        self.address = f"127.0.0.1:{self.port}"

    def handle(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rb") as lines, suppress(OSError):
            if self._mode == "drip":
                while True:
                    peer.sendall(b"2")
                    time.sleep(0.05)
            peer.sendall(b"220 x\r\n")
            for line in lines:
                verb = line[:4].upper()
                if verb == b"DATA":
                    peer.sendall(b"354 go\r\n")
                    self.mails.append(b"".join(iter(lines.readline, b".\r\n")))
                elif verb in (b"MAIL", b"RCPT"):
                    self.envelopes.append(line.decode().strip())
                    if self._mode == "refuse" and verb == b"RCPT":
                        peer.sendall(b"550 no such user\r\n")
                        continue
                peer.sendall(b"250 ok\r\n" if verb != b"QUIT" else b"221 bye\r\n")


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    yield server
    server.close()


def test_a_mail_says_it_all_and_nothing_gets_among_its_headers(smtp: SmtpServer) -> None:
    assert MailChannel("root", smtp.address).send(letter()) == "the server took it"
    found = message_from_bytes(smtp.mails[0], policy=default)
    assert sorted(found.keys()) == [
        "Auto-Submitted",
        "Content-Transfer-Encoding",
        "Content-Type",
        "Date",
        "From",
        "MIME-Version",
        "Message-ID",
        "Subject",
        "To",
    ]
    assert str(found["Subject"]).startswith("[smtpguard web.example.org] web01 BLOCKED on port 25 until 20:50")
    assert found["Message-ID"] == "<a-block-enforce@web.example.org>"
    assert smtp.envelopes == ["mail FROM:<root@web.example.org>", "rcpt TO:<root>"] or "RCPT" in str(smtp.envelopes)
    assert [line for line in smtp.envelopes if "a@b" in line] == []
    smtp.mails[0].decode("ascii")
    assert all(len(line) < 998 for line in smtp.mails[0].splitlines())


@pytest.mark.parametrize("word", ["=?utf8?b?w6n+?=", "=?utf-8?q?x=0d=0aBcc:_a@b?=", "=?=?utf-8?b?Cg==?=", "==??="])
def test_a_name_that_looks_like_an_encoded_word_is_none(smtp: SmtpServer, word: str) -> None:
    """RFC 2047 in a script's name: the mail could not be written, was tried for ever, and held up all others."""
    body = json.loads(letter().body) | {"text": f"{word} {word} BLOCKED"}
    hostile = replace(letter(), body=json.dumps(body))
    assert MailChannel("root", smtp.address).send(hostile) == "the server took it"
    found = message_from_bytes(smtp.mails[0], policy=default)
    assert found["Bcc"] is None
    assert "BLOCKED" in str(found["Subject"])
    assert word.replace("=?", "= ?") in str(found["Subject"])


def test_the_same_mail_comes_again_with_the_same_id() -> None:
    assert render_mail(letter(), "root").as_bytes() == render_mail(letter(), "root").as_bytes()


@pytest.mark.parametrize(("mode", "told"), [("refuse", "550"), ("drip", "Disconnected|closed|timed out|unexpectedly")])
def test_a_server_that_refuses_or_drips_for_ever(mode: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "drip":
        monkeypatch.setattr(mail_module, "TOTAL_S", 0.4)
    server = SmtpServer(mode)
    begun = time.monotonic()
    with pytest.raises(DeliveryError, match=told):
        MailChannel("root", server.address).send(letter())
    assert time.monotonic() - begun < 10
    server.close()


def test_where_no_server_listens() -> None:
    with pytest.raises(DeliveryError, match="refused"):
        MailChannel("root", "127.0.0.1:1").send(letter())


# -- before anything is sent -----------------------------------------------------------------------------------------


def test_check_names_what_can_not_be_used(folder: Path) -> None:
    missing = NotifySettings(
        webhooks=(Webhook(url="https://example.org/", secret_file=str(folder / "none"), kinds=("test",)),),
        hook=(write_program(folder, "true", 0o777),),
    )
    secret, hook = find_unready(missing)
    assert secret.startswith("notify.webhooks[0].secret_file: the secret can't be used: no such file")
    assert hook.startswith("notify.hook: ")
    assert "can be written by others" in hook
    (folder / "none").write_bytes(b"x" * 32)
    (folder / "none").chmod(0o600)
    write_program(folder, "true")
    assert list(find_unready(missing)) == []
