"""smtpguard exempt: fail2ban asks it about anything a tenant can be called."""

import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from smtpguard.enrich.accounts import snapshot
from smtpguard.errors import NoDaemonError, PrivilegeError
from smtpguard.model import Customer
from smtpguard.panels.customer_table import render_table


def ask(tmp_path: Path, user: str, text: str = "") -> tuple[int, str]:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    result = CliRunner().invoke(main, ["exempt", "--config", str(path), "--", user])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("user", "text", "code", "shown"),
    [
        ("root", "", 0, "yes: root: uid 0"),
        ("0", "", 0, "yes: root: uid 0"),
        ("uid:0", "", 0, "yes: root: uid 0"),
        ("61001", "", 1, "no: uid:61001: tenant"),
        ("uid:61001", "exempt: {uids: [61000-61099]}", 0, "yes: uid:61001: exempt.uids: 61000-61099"),
        ("daemon", "", 1, "no: daemon: shared"),
        ("daemon", "exempt: {users: [daemon]}", 0, "yes: daemon: exempt.users: daemon"),
        ("no-such-user", "exempt: {users: ['*']}", 1, "no: no such account on this host"),
    ],
)
def test_answers(tmp_path: Path, user: str, text: str, code: int, shown: str) -> None:
    assert ask(tmp_path, user, text) == (code, shown + "\n")


def test_a_domain_that_a_command_tells_means_its_owner(tmp_path: Path) -> None:
    """No program is started: what the guard kept says it."""
    kept = tmp_path / "accounts.cache"
    kept.write_bytes(render_table("command", {"daemon": Customer(domain="shop.example", domains=("shop.example",))}))
    kept.chmod(0o600)
    text = f"accounts: [/bin/false]\nstate: {{path: {tmp_path}/state.db}}\n"
    told = "daemon (shop.example is a domain of daemon)"
    assert ask(tmp_path, "shop.example", text) == (1, f"no: {told}: shared\n")
    assert ask(tmp_path, "shop.example", text + "exempt: {users: [daemon]}") == (
        0,
        f"yes: {told}: exempt.users: daemon\n",
    )
    assert ask(tmp_path, "other.example", text) == (1, "no: no such account on this host\n")


@pytest.mark.parametrize(
    "user",
    [
        "",
        " ",
        "--help",
        "-x",
        "a\nb",
        "root\n",
        "\x1b[2J",
        "$(id)",
        "`id`",
        "*",
        "a" * 5000,
        "\u2028",
        "\udcff",
        "%00",
        "9" * 400,
    ],
)
def test_hostile_users_are_not_exempt(tmp_path: Path, user: str) -> None:
    code, shown = ask(tmp_path, user, "exempt: {users: [news], uids: ['2000-2999']}")
    assert (code, shown) == (1, "no: no such account on this host\n")


def test_a_name_of_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fail2ban asks for names: who is called 0 is not root, and who is called 61002 not the uid of that number."""
    passwd = b"root:x:0:0::/:/x\n61002:x:61005:61005::/:/x\n0:x:61006:61006::/:/x\nweb02:x:61002:61002::/:/x\n"
    monkeypatch.setattr(snapshot, "_read", lambda _root, name, _problems: passwd if name == "etc/passwd" else b"")
    text = "exempt: {users: ['61002']}"
    path = tmp_path / "g.yaml"
    path.write_text(text)

    def named(user: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["exempt", "--config", str(path), "--name", "--", user])
        return result.exit_code, result.output.strip()

    assert named("61002") == (0, "yes: 61002: exempt.users: 61002")
    assert named("0") == (1, "no: 0: tenant")
    assert named("uid:61002") == (1, "no: web02: tenant")
    assert named("61005") == (1, "no: no such account on this host")
    assert ask(tmp_path, "61002", text) == (
        1,
        "no: web02 (taken as a uid; the account called 61002 is uid:61005): tenant\n",
    )
    assert ask(tmp_path, "0", text)[0] == 0
    assert ask(tmp_path, "uid:61005", text)[0] == 0


def test_a_bad_configuration_exempts_nobody(tmp_path: Path) -> None:
    code, shown = ask(tmp_path, "root", "exempt: [root]")
    assert code == 78
    assert "g.yaml:1: exempt: a list is not a mapping" in shown


def test_an_error_elsewhere_does_not_matter(tmp_path: Path) -> None:
    assert ask(tmp_path, "root", "ports: nonsense")[0] == 0


def test_usage() -> None:
    assert CliRunner().invoke(main, ["exempt"]).exit_code == 2


def test_answers_at_once(tmp_path: Path) -> None:
    """The bar is 0.15 s; three times that here, in CPU time: it waits for nothing, but machines do other things too."""
    (tmp_path / "g.yaml").write_text("exempt: {users: [news]}")
    argv = [sys.executable, "-m", "smtpguard", "exempt", "--config", str(tmp_path / "g.yaml"), "--", "root"]
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, check=True, timeout=30, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(took) < 0.45


def test_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("exempt: {users: [news]}")
    code = (
        "import sys; from smtpguard.cli import main\n"
        f"main(['exempt', '--config', {str(tmp_path / 'g.yaml')!r}, 'root'], standalone_mode=False)\n"
        "print(sorted(m for m in ('jsonschema', 'rich', 'sqlite3', 'nftables', 'asyncio', 'ssl') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=30, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_who_is_watched_is_asked_for_people_alone_and_never_changes_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, said = list[dict[str, object]](), list[object]()

    def answer(_socket: str, _verb: str, **args: object) -> object:
        asked.append(args)
        (found,) = said
        if isinstance(found, Exception):
            raise found
        return {"items": [{"watch": found}]}

    monkeypatch.setattr("smtpguard.control.client.ask", answer)
    for found, more in (
        (None, ""),
        ({"until": "2026-02-25T13:38:01+01:00"}, "; watched until 2026-02-25 13:38: limits are halved"),
        (
            {"until": "2026-02-25T13:38:01+01:00", "allowed_until": "2026-02-19T09:00:00+01:00"},
            "; watched until 2026-02-25 13:38: limits are not halved, an allowance counts until 2026-02-19 09:00",
        ),
        (NoDaemonError("nobody"), ""),
    ):
        said[:] = [found]
        assert ask(tmp_path, "uid:61003", "") == (1, f"no: uid:61003: tenant{more}\n")
    said[:] = [PrivilegeError("for root")]
    code, shown = ask(tmp_path, "uid:61003", "")
    assert (code, "no: uid:61003: tenant\n" in shown) == (1, True)
    assert "whether they are watched is not known: for root" in shown
    assert len(asked) == 5
    assert ask(tmp_path, "root", "")[0] == 0
    assert ask(tmp_path, "no-such-user", "")[0] == 1
    path = tmp_path / "g.yaml"
    result = CliRunner().invoke(main, ["exempt", "--config", str(path), "--name", "--", "uid:61003"])
    assert (result.exit_code, len(asked)) == (1, 5), "fail2ban waits for nobody"
