"""Mails to customers: what the server is told, what must not come twice; since when users are refused."""

import socket
from email.message import EmailMessage
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard import resources
from smtpguard.cli import main
from smtpguard.errors import GuardError
from smtpguard.model import Customer
from smtpguard.notify.attempt import send_samples
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.mail_server import MailDeferredError, MailRefusedError, MailUncertainError, hand_over
from smtpguard.panels.customer_table import CustomerTable, parse_address, parse_domain, render_table
from smtpguard.settings.notify import CustomerNotices, NotifySettings
from smtpguard.state.enforcing_since import FACT, EnforcingSince
from smtpguard.state.rows import FactRow
from tests.support.local_server import LocalServer


class Server(LocalServer):
    """Answers each command as told; None closes the connection."""

    def __init__(self, **answers: str | None) -> None:
        usual: dict[str, str | None] = {
            "helo": "250 x",
            "mail": "250 x",
            "rcpt": "250 x",
            "data": "354 x",
            "end": "250 x",
        }
        self.answers = usual | answers
        self.heard: list[str] = []
        super().__init__()

    def handle(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rwb") as file:
            file.write(b"220 x\r\n")
            file.flush()
            is_text, text = False, ""
            for line in file:
                words = line.decode("ascii").strip()
                if is_text and words != ".":
                    text += words + "\n"
                    continue
                command = "end" if is_text else {"ehlo": "helo"}.get(words[:4].lower(), words[:4].lower())
                self.heard.append(text if is_text else words)
                is_text = False
                answer = self.answers.get(command, "221 x")
                if answer is None:
                    return
                is_text = answer.startswith("354")
                file.write(answer.encode() + b"\r\n")
                file.flush()


def send(server: Server, begun: list[bool]) -> str:
    mail = EmailMessage()
    mail["To"] = "owner@shop.example"
    mail.set_content(".a line\n")
    where = f"127.0.0.1:{server.port}"
    try:
        return hand_over(
            mail, server=where, sender="s@h.example", to="owner@shop.example", begin=lambda: begun.append(True)
        )
    finally:
        server.close()


def test_the_envelope_is_the_two_addresses() -> None:
    server, begun = Server(), list[bool]()
    assert send(server, begun) == "the server took it"
    assert begun == [True]
    commands = [words.partition(" size=")[0] for words in server.heard if words.startswith(("mail", "rcpt"))]
    assert [words.upper().split(" SIZE")[0] for words in commands] == [
        "MAIL FROM:<S@H.EXAMPLE>", "RCPT TO:<OWNER@SHOP.EXAMPLE>"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "error", "has_begun"),
    [
        ({"mail": "550 x"}, DeliveryError, False),  # of the operator's own address: no fault of the customer's
        ({"mail": "451 x"}, DeliveryError, False),
        ({"rcpt": "451 x"}, MailDeferredError, False),
        ({"rcpt": "550 x"}, MailRefusedError, False),
        ({"rcpt": None}, MailDeferredError, False),  # it may have asked one whom the customer named
        ({"data": "451 x"}, DeliveryError, True),
        ({"data": "554 x"}, MailRefusedError, True),
        ({"data": None}, MailUncertainError, True),
        ({"end": "451 x"}, DeliveryError, True),
        ({"end": "554 x"}, MailRefusedError, True),
        ({"end": None}, MailUncertainError, True),
    ],
)
def test_what_the_server_says(answers: dict[str, str | None], error: type[GuardError], has_begun: bool) -> None:
    begun: list[bool] = []
    with pytest.raises(error):
        send(Server(**answers), begun)
    assert bool(begun) is has_begun


def test_where_nobody_listens_and_where_it_can_t_be_written_down() -> None:
    with socket.socket() as taken:  # a port of our own that nobody listens at
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DeliveryError, match="refused"):
            hand_over(EmailMessage(), server=where, sender="s@h.example", to="a@b.example", begin=print)
    server = Server()

    def fail() -> None:
        raise OSError("no room")

    with pytest.raises(DeliveryError, match="no room"):
        hand_over(EmailMessage(), server=f"127.0.0.1:{server.port}", sender="s@h.example", to="a@b.example", begin=fail)
    server.close()
    assert not any(words.lower().startswith("data") for words in server.heard)


# -- a sample --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    from smtpguard.report import customer_text

    monkeypatch.setattr(resources, "OWN_FILES", tmp_path / "etc")
    monkeypatch.setattr(customer_text.render_customer_text, "__kwdefaults__", {"language": None, "own_files": tmp_path})
    return tmp_path / "etc"


@pytest.mark.usefixtures("own_files")
def test_a_sample_goes_to_the_operator_alone() -> None:
    server = Server()
    customers = CustomerNotices(enabled=True, sender="s@h.example", language="de")
    settings = NotifySettings(mail="root", smtp=f"127.0.0.1:{server.port}", customers=customers)
    (attempt,) = send_samples(settings, ["customer"])
    server.close()
    assert (attempt.is_sent, attempt.channel, attempt.kind) == (True, "customers, a sample to root", "customer")
    assert [words for words in server.heard if words.lower().startswith("rcpt")] == ["rcpt TO:<root>"]
    text = server.heard[-2]
    assert "Subject: TEST: E-Mails von nobody-here werden aufgehalten" in text
    assert "TEST, nothing has happened." in text


@pytest.mark.parametrize(
    ("mail", "sender", "told"),
    [(None, "s@h.example", "needs notify.mail"), ("root", None, "needs notify.customers.from")],
)  # fmt: skip
def test_a_sample_needs_somebody_to_get_it(mail: str | None, sender: str | None, told: str) -> None:
    with pytest.raises(GuardError, match=told):
        list(send_samples(NotifySettings(mail=mail, customers=CustomerNotices(sender=sender)), ["customer"]))


# -- check -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_files")
@pytest.mark.parametrize(
    ("customers", "told"),
    [
        ("{enabled: true}", "notify.customers.enabled: true needs notify.customers.from"),
        ("{from: root}", "notify.customers.from: 'root' is not an address"),
        ('{from: "a@b.example\\nBcc: c"}', "notify.customers.from: "),
        ("{enabled: true, from: a@b.example, delay: 2d}", "notify.customers.delay: longer than 1d"),
        ("{template: ../x}", "notify.customers.template: '../x' is not default"),
        ("{enabled: true, from: a@b.example, template: hosting}", "there is no /"),
        ("{enabled: true, from: a@b.example, language: fr}", "customer.txt, only in de, en"),
        ("{enabled: true, from: a@b.example, languages: fr}", "unknown key"),
    ],
)
def test_check_says_what_is_wrong(customers: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(f"notify: {{customers: {customers}}}\n")
    path.chmod(0o600)
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert result.exit_code == 78, result.output
    assert told in result.stderr


def test_check_finds_a_template_of_ones_own_in_root_s_folder(tmp_path: Path, own_files: Path) -> None:
    folder = own_files / "templates/en"
    folder.mkdir(parents=True)
    for each in (own_files, own_files / "templates", folder):
        each.chmod(0o755)
    path = tmp_path / "g.yaml"
    path.write_text("notify: {customers: {enabled: true, from: a@b.example, template: hosting}}\n")
    path.chmod(0o600)
    (folder / "hosting.txt").write_text("Dear {{ user }}, {{ script }}\n")
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert "hosting.txt:1: unknown name 'script'" in result.stderr
    (folder / "hosting.txt").write_text("Dear {{ user }}\n")
    assert CliRunner().invoke(main, ["check", "--config", str(path)]).exit_code == 0


# -- since when users are refused ------------------------------------------------------------------------------------


class Keeper:
    def __init__(self) -> None:
        self.rows: list[str] = []

    def put(self, row: FactRow) -> None:
        assert row.name == FACT
        self.rows.append(row.value)


def test_since_when_survives_a_restart_and_ends_with_a_dry_run() -> None:
    keeper = Keeper()
    since = EnforcingSince({}, keeper)
    since.note(100, dry_run=True)
    assert (since.wall_ns, keeper.rows) == (None, [])
    since.note(200, dry_run=False)
    since.note(300, dry_run=False)
    assert (since.wall_ns, keeper.rows) == (200, ["200"])
    again = EnforcingSince({FACT: "200"}, keeper)
    again.note(900, dry_run=False)
    assert again.wall_ns == 200
    again.note(950, dry_run=True)
    again.note(990, dry_run=False)
    assert (again.wall_ns, keeper.rows) == (990, ["200", "", "990"])
    again.note(500, dry_run=False)
    assert again.wall_ns == 500, "a clock that was wrong"


@pytest.mark.parametrize("text", ["", "x", "-1", "1" * 30, "²"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert EnforcingSince({FACT: text}, Keeper()).wall_ns is None


def test_what_could_be_read_late_only_is_believed_if_it_goes_on() -> None:
    since = EnforcingSince({}, Keeper())
    since.note(900, dry_run=False)
    since.restore({FACT: "200"})
    assert since.wall_ns == 200
    since.restore({FACT: "300"})
    assert since.wall_ns == 200
    dry = EnforcingSince({}, keeper := Keeper())
    dry.restore({FACT: "200"})
    assert (dry.wall_ns, keeper.rows) == (None, [""])


# -- whose account ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("panel", "is_found"),
    [("cPanel", True), ("DirectAdmin", True), ("command", True), ("Plesk", False), ("Virtualmin", False)],
)
def test_a_reseller_is_a_login_of_some_panels_only(panel: str, is_found: bool) -> None:
    customer, reseller = Customer(reseller="res1"), Customer(contact="desk@reseller.example")
    table = CustomerTable(render_table(panel, {"web01": customer, "res1": reseller}))
    assert (table.find_reseller(customer) == reseller) is is_found
    assert table.find_reseller(Customer()) is None
    assert table.find_reseller(Customer(reseller="res2")) is None


def test_an_address_that_is_too_long_is_none_and_no_other_one() -> None:
    long = "a@" + "x" * 60 + ".example" * 30
    assert parse_address(long) is None
    assert parse_address(f"{long}, b@x.example") == "b@x.example"
    assert parse_address("a@ x.example") == "a@x.example"
    assert parse_address("a@\u212a.example; b@x.example.") == "b@x.example", "lower() makes an ASCII k of kelvin's"
    assert parse_domain("\u212a.example") is parse_domain("\u0130.example") is None
    assert parse_domain(" K.example. ") == "k.example"
