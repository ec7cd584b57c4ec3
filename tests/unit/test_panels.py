"""Whose accounts are: panels as their vendors describe them, a command's JSON, and who else could have written it.

Each panel's files are laid out as the module that reads them says, with its source and the date.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from smtpguard.cli.check import find_unsold
from smtpguard.errors import ConfigError, DecodeError, SourceError
from smtpguard.model import Customer
from smtpguard.panels import customer_reader, plesk
from smtpguard.panels.command import parse_accounts, run_program
from smtpguard.panels.customer_reader import read_here
from smtpguard.panels.customer_table import (
    MAX_SHOWN,
    CustomerTable,
    parse_address,
    parse_domain,
    parse_language,
    render_table,
)
from smtpguard.panels.customers_apart import Reading
from smtpguard.settings import Match, Override, Settings
from tests.support.programs import hang, wait_until_gone

USERS = "root:x:0:0::/root:/bin/sh\ndiradmin:x:989:986::/usr/local/directadmin:/bin/false\n"
CPANEL = {
    "var/cpanel/users/shop17": "#File modified\nBACKUP=1\nCONTACTEMAIL=owner@shop.example\nCONTACTEMAIL2=\n"
    "DNS=shop.example\nDNS1=blog.shop.example\nLOCALE=de\nOWNER=reseller7\nPLAN=Business Plus\nUSER=shop17\n",
    "var/cpanel/users/web01": "DNS=web.example\nOWNER=root\nPLAN=undefined\nCONTACTEMAIL=\n",
    "var/cpanel/users/reseller7": "DNS=reseller.example\nOWNER=reseller7\nPLAN=reseller\n"
    "CONTACTEMAIL=r@reseller.example\n",
    "var/cpanel/users/system": "PLAN=default\n",
    "etc/userdomains": "*: nobody\nshop.example: shop17\nparked.example: shop17\nweb.example: web01\n",
}
DIRECTADMIN = {
    "usr/local/directadmin/data/admin/reseller.list": "res1\n",
    "usr/local/directadmin/data/users/shop17/user.conf": "account=ON\ncreator=res1\ndomain=shop.example\n"
    "email=owner@shop.example,second@shop.example\nlanguage=en\npackage=business\nusername=shop17\nusertype=user\n",
    "usr/local/directadmin/data/users/shop17/domains.list": "shop.example\nblog.example\n",
    "usr/local/directadmin/data/users/shop17/domains/shop.example.pointers": "parked.example=alias\n",
    "usr/local/directadmin/data/users/admin/user.conf": "creator=root\ndomain=host.example\nemail=a@host.example\n",
}
HESTIA = {
    "usr/local/hestia/data/users/shop17/user.conf": "NAME='Shop'\nPACKAGE='business'\n"
    "CONTACT='owner@shop.example'\nLANGUAGE='pt-br'\n",
    "usr/local/hestia/data/users/shop17/web.conf": "DOMAIN='shop.example' IP='192.0.2.1' ALIAS='www.shop.example,"
    "parked.example' SSL='no'\nDOMAIN='blog.example' IP='192.0.2.1' ALIAS='' SSL='no'\n",
    "usr/local/hestia/data/users/shop17/mail.conf": "DOMAIN='mail.example' ANTIVIRUS='no'\n",
}
VIRTUALMIN = {
    "etc/webmin/virtual-server/plans/7": "id=7\nname=Business\n",
    "etc/webmin/virtual-server/domains/1700000001": "dom=shop.example\nuser=shop17\nuid=1001\nplan=7\n"
    "reseller=res1 res2\nemailto=owner@shop.example\nparent=\nalias=\n",
    "etc/webmin/virtual-server/domains/1600000002": "dom=blog.example\nuser=shop17\nparent=1700000001\nplan=7\n",
    "etc/webmin/virtual-server/domains/1700000003": "dom=parked.example\nuser=shop17\nparent=1700000001\n"
    "alias=1700000001\n",
}

ROOTS_OWN = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: whose a file is, is what counts")


def lay_out(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in ({"etc/passwd": USERS} | dict(files)).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        path.chmod(0o640)
    return root


def read(root: Path, files: Mapping[str, str]) -> CustomerTable:
    return CustomerTable(read_here(root=lay_out(root, files)).text)


SHOP = Customer(
    domain="shop.example", domains=("shop.example", "blog.example", "parked.example"), reseller="res1",
    package="res1/business", contact="owner@shop.example", language="en",
)  # fmt: skip


def test_cpanel(tmp_path: Path) -> None:
    table = read(tmp_path, CPANEL)
    assert table.panel == "cPanel"
    assert table.find(["shop17"]) == Customer(
        domain="shop.example",
        domains=("shop.example", "blog.shop.example", "parked.example"),
        reseller="reseller7",
        package="Business Plus",
        contact="owner@shop.example",
        language="de",
    )
    assert table.find(["web01"]) == Customer(domain="web.example", domains=("web.example",))
    reseller = table.find(["reseller7"])
    assert reseller is not None
    assert reseller.reseller is None
    assert table.find(["system"]) is None
    assert table.owners("info@parked.example") == ["shop17"]
    assert table.owners("Parked.Example.") == table.owners("www.parked.example") == ["shop17"]
    assert table.owners("parked.example.org") == table.owners("example") == table.owners("Business") == []


def test_directadmin(tmp_path: Path) -> None:
    table = read(tmp_path, DIRECTADMIN)
    assert table.panel == "DirectAdmin"
    assert table.find(["shop17"]) == SHOP
    admin = table.find(["admin"])
    assert admin is not None
    assert admin.reseller is None


@ROOTS_OWN
def test_hestia(tmp_path: Path) -> None:
    lay_out(tmp_path, HESTIA)
    for path in (tmp_path / "usr/local/hestia/data/users/shop17").iterdir():
        path.chmod(0o660)  # as v-add-user makes them: root's group may write
    table = CustomerTable(read_here(root=tmp_path).text)
    assert table.panel == "HestiaCP"
    domains = ("shop.example", "www.shop.example", "parked.example", "blog.example", "mail.example")
    assert table.find(["shop17"]) == Customer(
        domain="shop.example", domains=domains, package="business", contact="owner@shop.example", language="pt"
    )


def test_virtualmin(tmp_path: Path) -> None:
    table = read(tmp_path, VIRTUALMIN)
    assert table.panel == "Virtualmin"
    found = table.find(["shop17"])
    assert found is not None
    assert (found.domain, found.package, found.reseller) == ("shop.example", "res1/Business", "res1")
    assert set(found.domains) == set(SHOP.domains)


def test_plesk_by_its_own_command(tmp_path: Path) -> None:
    program = tmp_path / plesk.PROGRAM
    program.parent.mkdir(parents=True)
    rows = "shop_ftp\tshop.example\tshop.example\tres1\tBusiness\towner@shop.example\tde-DE\n"
    rows += "shop_ftp\tshop.example\tblog.example\tres1\tBusiness\towner@shop.example\tde-DE\nnoise\n"
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "db -Ne" ] && printf \'{rows}\'\n', "utf-8")
    program.chmod(0o755)
    table = CustomerTable(read_here(root=lay_out(tmp_path, {})).text)
    assert table.panel == "Plesk"
    assert table.find(["shop_ftp"]) == Customer(
        domain="shop.example", domains=("shop.example", "blog.example"), reseller="res1", package="res1/Business",
        contact="owner@shop.example", language="de",
    )  # fmt: skip
    program.write_text("#!/bin/sh\necho 'ERROR 1045: Access denied' >&2; exit 1\n", "utf-8")
    with pytest.raises(SourceError, match="exit code 1: ERROR 1045: Access denied"):
        read_here(root=tmp_path)


def test_no_panel_is_no_error(tmp_path: Path) -> None:
    table = CustomerTable(read_here(root=lay_out(tmp_path, {})).text)
    assert len(table) == 0
    assert table.find(["root"]) is None
    assert table.owners("shop.example") == []


# -- who else could have written it ------------------------------------------------------------------------------------


def refused(root: Path) -> tuple[CustomerTable, str]:
    reading = read_here(root=root)
    return CustomerTable(reading.text), "\n".join(reading.problems)


@ROOTS_OWN
def test_what_a_tenant_could_have_written_is_refused_and_named(tmp_path: Path) -> None:
    users = lay_out(tmp_path, CPANEL) / "var/cpanel/users"
    os.chown(users / "shop17", 1001, 1001)
    (users / "web01").chmod(0o666)
    (users / "evil").symlink_to(users / "reseller7")
    os.mkfifo(users / "pipe")
    (users / "huge").write_bytes(b"DNS=x.example\n" + b"A=1\n" * 300_000)
    table, problems = refused(tmp_path)
    assert table.find(["reseller7"]) is not None
    for user, why in (
        ("shop17", "belongs to uid 1001"),
        ("web01", "can be written by others"),
        ("evil", "is a symbolic link"),
        ("pipe", "is of another kind"),
        ("huge", "is longer than 1048576 bytes"),
    ):
        found = table.find([user])
        assert found is None or found.contact is found.package is None, user
        assert f"users/{user}: {why}" in problems
    assert table.owners("x.example") == []
    users.chmod(0o777)
    table, problems = refused(tmp_path)
    assert len(table) == 0
    assert "can be written by others" in problems


@ROOTS_OWN
def test_the_panel_s_own_account_is_trusted_only_while_its_number_is_a_system_s(tmp_path: Path) -> None:
    root = lay_out(tmp_path, DIRECTADMIN)
    for path in (root / "usr/local/directadmin").rglob("*"):
        os.chown(path, 989, 986)
    assert read_here(root=root) == Reading(read_here(root=root).text)
    assert CustomerTable(read_here(root=root).text).find(["shop17"]) == SHOP
    (root / "etc/passwd").write_text(USERS.replace("989", "1989"))
    table, problems = refused(root)
    assert len(table) == 0
    assert "belongs to uid 989" in problems


def test_two_that_claim_a_domain_are_both_told(tmp_path: Path) -> None:
    both = CPANEL | {"var/cpanel/users/zz": "DNS=shop.example\nPLAN=shop.example web.example shop.example\n"}
    table = read(tmp_path, both)
    assert table.owners("shop.example") == ["shop17", "zz"]
    assert table.owners("web.example") == ["web01"]  # a package called so owns nothing
    found = [table.find([user]) for user in ("shop17", "zz", "web01")]
    first = [customer.domain for customer in found if customer is not None]
    assert first == [None, None, "web.example"], "nobody is told of by a domain that another has"


@pytest.mark.parametrize("package", ["p" * 90, "p\u200b", "p\tx\ny", "p\udcff"])
def test_a_reseller_leaves_no_pattern_by_an_odd_name_of_a_package(package: str) -> None:
    said = {"accounts": [{"user": "web01", "reseller": "res1", "package": package, "domain": "shop.example"}]}
    table = CustomerTable(render_table("command", dict(parse_accounts(json.dumps(said).encode()))))
    found = table.find(["web01"])
    assert found is not None
    assert found.package is not None
    assert found.package.startswith("res1/p")
    assert found.package.isprintable()
    assert (found.reseller, found.domain) == ("res1", "shop.example")


def test_domains_that_hold_another_many_times_cost_the_loop_no_more() -> None:
    many = tuple(f"x{number}.{'a.a' * 80}" for number in range(5_000))
    table = CustomerTable(render_table("command", {"web01": Customer(domain="shop.example", domains=many)}))

    def measure(domain: str) -> float:
        def look() -> float:
            begun = time.thread_time()
            assert table.owners(domain) == []
            return time.thread_time() - begun

        return min(look() for _ in range(3))

    assert measure("a.a") < 20 * measure("b.b")
    assert table.owners(many[7]) == ["web01"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a",
        "-a.example",
        "a..example",
        "a example.org",
        "a\x1b.example",
        "ex\tample.org",
        "é.example",
        "a" * 300 + ".b",
    ],
)
def test_what_is_no_domain_is_none(text: str) -> None:
    assert parse_domain(text) is None


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("de", "de"),
        ("de_DE.UTF-8", "de"),
        ("pt-br", "pt"),
        ("German", "de"),
        ("deutsch", None),
        ("../x", None),
        ("", None),
    ],
)
def test_a_language_is_two_letters_or_none(text: str, language: str | None) -> None:
    assert parse_language(text) == language


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a@b.example", "a@b.example"),
        ("nobody, a@b.example", "a@b.example"),
        ("a@b.example;c@d.example", "a@b.example"),
        ("a\r\nBcc: x@b.example", None),
        ("a\nb@b.example", None),
        ('"a b"@b.example', None),
        ("-oQ@b.example", None),
        ("a@b", None),
        ("a\u202e@b.example", None),
        ("", None),
    ],
)
def test_an_address_is_safe_in_a_header_or_none(text: str, address: str | None) -> None:
    assert parse_address(text) == address


def test_hostile_text_is_no_other_account_s(tmp_path: Path) -> None:
    evil = "x\tevil.example\tres\tbusiness\ta@b.example\tde\tshop.example"
    said = {
        "accounts": [
            {"user": "shop17", "domain": evil, "package": "a\nshop18\tx\t\t\t\tother.example", "reseller": evil}
        ]
    }
    text = render_table("command", dict(parse_accounts(json.dumps(said).encode())))
    table = CustomerTable(text)
    assert len(table) == 1
    assert table.find(["shop17"]) == Customer()
    assert table.owners("shop.example") == table.owners("other.example") == []
    del tmp_path


def test_what_is_found_among_many_is_each_one_s_own() -> None:
    many = {
        f"user{n}": Customer(
            domain=f"d{n}.example", domains=tuple(f"s{i}.d{n}.example" for i in range(3)), package=f"p{n}"
        )
        for n in range(2_000)
    }
    many["big"] = Customer(domains=tuple(f"n{n}.big.example" for n in range(1_000)))
    table = CustomerTable(render_table("many", many))
    assert len(table) == 2_001
    for n in (0, 1, 9, 10, 999, 1_999):
        found = table.find(["nobody", f"user{n}"])
        assert found is not None
        assert (found.domain, found.package, len(found.domains)) == (f"d{n}.example", f"p{n}", 4)
        assert table.owners(f"s2.d{n}.example") == [f"user{n}"]
    big = table.find(["big"])
    assert big is not None
    assert len(big.domains) == MAX_SHOWN
    assert table.owners("n999.big.example") == ["big"]
    for broken in (b"", b"x", table.text[:-1]):
        with pytest.raises(DecodeError):
            CustomerTable(broken)


# -- a command ---------------------------------------------------------------------------------------------------------


def program(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text, "utf-8")
    path.chmod(0o755)
    return str(path)


def test_a_command_is_asked_without_a_shell_or_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    said = '{"accounts": [{"user": "web01", "domain": "Web.Example", "package": "%s", "contact": null, "more": 1}]}'
    name = program(tmp_path / "who", f"printf '{said}' \"$1$SECRET\"\n")
    reading = read_here((name, "a b; $(id)"))
    assert CustomerTable(reading.text).find(["web01"]) == Customer(
        domain="web.example", domains=("web.example",), package="a b; $(id)"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo oh no >&2; exit 3", "exit code 3: oh no"),
        ("echo '{'", "printed no JSON"),
        ("echo '[]'", 'printed JSON without a list "accounts"'),
        ("""echo '{"accounts": [{"user": "a"}, {"user": 7}]}'""", "accounts[1]: user is no text"),
        ("""echo '{"accounts": [{"domain": "a.example"}]}'""", "accounts[0]: user is missing"),
        ("""echo '{"accounts": [{"user": "a", "domains": "x"}]}'""", "accounts[0]: domains is no list of texts"),
        ("head -c 40000000 /dev/zero", "printed more than 32 MB"),
        ("python3 -c 'print(\"[\" * 200000)'", "printed no JSON"),
    ],
)
def test_a_command_that_fails_is_named(tmp_path: Path, text: str, why: str) -> None:
    name = program(tmp_path / "who", text + "\n")
    with pytest.raises(SourceError) as failed:
        read_here((name,))
    assert why in str(failed.value)
    assert name in str(failed.value)


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    mark = f"300.{os.getpid()}"
    name = program(tmp_path / "who", hang(mark, tmp_path / "seen"))
    for timeout_s in (0.5, 2.5, 12.5):
        with pytest.raises(SourceError, match=rf"no answer within {timeout_s} s"):
            run_program((name,), timeout_s=timeout_s)
        wait_until_gone(mark)
        if (tmp_path / "seen").exists():
            break
    assert (tmp_path / "seen").exists(), "there was nothing to end"


def test_a_command_that_others_may_write_is_not_run(tmp_path: Path) -> None:
    name = program(tmp_path / "who", "touch ran\n")
    Path(name).chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by others"):
        run_program((name,))
    with pytest.raises(SourceError, match="can't be run"):
        run_program((str(tmp_path / "none"),))


def test_a_domain_with_www_may_be_somebody_elses() -> None:
    table = CustomerTable(
        render_table(
            "x",
            {
                "victim": Customer(domain="victim.example", domains=("www.other.example", "other.example")),
                "attacker": Customer(domain="www.victim.example"),
            },
        )
    )
    assert sorted(table.owners("www.victim.example")) == ["attacker", "victim"]
    assert sorted(table.owners("a@www.victim.example")) == ["attacker", "victim"]
    assert table.owners("victim.example") == table.owners("www.other.example") == ["victim"]


def test_check_names_resellers_packages_that_are_called_like_one_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    table = CustomerTable(
        render_table(
            "Plesk",
            {
                "a": Customer(package="business"),
                "b": Customer(package="evil/business", reseller="evil"),
                "c": Customer(package="small", reseller="evil"),
            },
        )
    )
    monkeypatch.setattr("smtpguard.panels.customers_on_demand.CustomersOnDemand.read", lambda _: table)

    def find(*packages: str) -> list[str]:
        override = Override(match=Match(packages=packages), rules={})
        return list(find_unsold(Settings(overrides=(override,))))

    place = "users[0].match.packages"
    assert find("business") == [
        f"{place}: 'business' does not mean 'evil/business', a reseller's own; if it shall, write that too"
    ]
    assert find("small", "business", "evil/*") == []
    assert find("large") == [f"{place}: no account has 'large' by Plesk"]


def test_one_with_too_many_domains_makes_nobody_else_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(customer_reader, "MAX_BYTES", 50_000)
    accounts: list[dict[str, Any]] = [{"user": f"web{n}", "domain": f"web{n}.example"} for n in range(100)]
    accounts += [
        {"user": name, "domain": "a.example", "domains": [f"{n}.{name}.example" for n in range(4_000)]}
        for name in ("evil", "more")
    ]
    monkeypatch.setattr(customer_reader, "run_program", lambda _: json.dumps({"accounts": accounts}).encode())
    reading = read_here(("/bin/who",))
    table = CustomerTable(reading.text)
    assert table.owners("web99.example") == ["web99"]
    assert table.owners("500.evil.example") == []
    assert table.owners("499.evil.example") == ["evil"]
    assert reading.problems == tuple(f"{name}: has too many domains, 500 are known" for name in ("evil", "more"))


@pytest.mark.parametrize("line", ["", "web01", "web01\tshop.example", "\t" * 5, "\t" * 7])
def test_a_kept_table_of_another_kind_is_none(line: str) -> None:
    """As a disk may give it back: it was an error of the guard's when somebody was looked up."""
    good = render_table("command", {"web01": Customer(domain="shop.example")})
    assert len(CustomerTable(good)) == 1
    with pytest.raises(DecodeError, match="is no table of accounts"):
        CustomerTable(good + line.encode() + b"\n")
