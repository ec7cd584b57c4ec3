"""Names that are digits, hold blanks, come late, or are several: whom they mean to the real daemon."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

DIGITS, ZERO, EXEMPT, BLANK = (str(INNOCENT[1]), 61110), ("0", 61111), ("2000", 61112), ("web 04", 61113)
BURST = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "30m"}
LATE = 61150


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def blocked(host: Host) -> dict[int, str]:
    return {row["uid"]: row["user"] for row in json.loads(host.cli("blocks", "--json").stdout)}


def test_digits_blanks_and_aliases_mean_whom_they_name() -> None:
    accounts = dict([DIGITS, ZERO, EXEMPT, BLANK])
    users = [{"match": {"users": [DIGITS[0], BLANK[0], "alias03"]}, "rules": {"burst": {"limit": 2}}}]
    exempt = {"users": [EXEMPT[0]], "uids": ["2000-2999"]}
    with Host(accounts, rules=[BURST], users=users, exempt=exempt, breaker={"blocks": 100, "per": "10m"}) as host:
        alias = f"alias03:x:{OTHER[1]}:{OTHER[1]}::/nonexistent:/bin/sh\n"
        host.lab.lay_over("/etc/passwd", host.lab.read("/etc/passwd") + alias)
        host.start()
        assert host.connect(EXEMPT, 8).refused == 0, "exempt by its name"
        for user, passed in ((DIGITS, 2), (BLANK, 2), (OTHER, 2), (ZERO, 5), (INNOCENT, 5), (SPAMMER, 5)):
            assert host.connect(user, 7).ok == passed, user
        assert blocked(host) == {
            **{uid: name for name, uid in (DIGITS, ZERO, INNOCENT, SPAMMER, OTHER)},
            BLANK[1]: "web%2004",
        }
        assert said(host.cli("unblock", DIGITS[0])).endswith(
            f"{DIGITS[0]} was taken as a uid; the account called {DIGITS[0]} is uid:{DIGITS[1]}"
        )
        assert said(host.cli("unblock", BLANK[0]))
        assert set(blocked(host)) == {user[1] for user in (DIGITS, ZERO, SPAMMER, OTHER)}
        assert host.connect(INNOCENT, 1).ok == 1
        assert host.connect(DIGITS, 1).ok == 0, "only the uid was meant"
        # fail2ban's action knows the uid from the log line, and without one an id of digits is the log's name.
        source = ("--source", "fail2ban:smtpguard")
        assert said(host.cli("unblock", "--all"))
        assert said(host.cli("block", *source, "--for", "60", "--uid", str(ZERO[1]), "--", ZERO[0]))
        assert "was taken as the name" in said(host.cli("block", *source, "--for", "60", "--uid", "", "--", DIGITS[0]))
        assert set(blocked(host)) == {ZERO[1], DIGITS[1]}
        said(host.cli("unblock", *source, "--uid", "", "--", DIGITS[0]))
        assert set(blocked(host)) == {ZERO[1]}
        host.stop()
        assert f"the account called {DIGITS[0]} is uid:{DIGITS[1]}" in said(host.cli("unblock", DIGITS[0]))


def test_a_block_made_before_the_name_was_known_takes_it() -> None:
    user, allowed, freed = ("late", LATE), ("later", LATE + 1), ("free", LATE + 2)
    with Host(rules=[BURST]) as host:
        host.start()
        assert said(host.cli("block", str(user[1])))
        assert said(host.cli("allow", f"uid:{allowed[1]}", "--for", "1h"))
        assert said(host.cli("block", str(freed[1])))
        before = host.lab.read("/etc/passwd")
        lines = "".join(f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n" for name, uid in (user, allowed, freed))
        host.lab.lay_over("/etc/passwd", before + lines)
        wait_for(lambda: blocked(host) == {uid: name for name, uid in (user, allowed, freed)})
        assert host.connect(user, 2).ok == 0
        assert host.connect(allowed, 8).refused == 0
        said(host.cli("unblock", freed[0]))
        host.stop()
        host.start()
        assert blocked(host) == {uid: name for name, uid in (user, allowed)}, "nothing is left under the uid alone"
        assert host.connect(user, 2).ok == 0
        host.lab.lay_over("/etc/passwd", f"{before}new:x:{LATE}:{LATE}::/nonexistent:/bin/sh\n")
        wait_for(lambda: LATE not in blocked(host))
        assert host.connect(user, 1).ok == 1, "the number was given to somebody else"


JOE, ANN, DIRECTORY_LATE = (("joe@corp.example", 70001), ("ann@corp.example", 70002), ("late@corp.example", 70003))


@contextmanager
def with_directory(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[tuple[Host, Path]]:  # noqa: ANN401
    """A host whose accounts are a directory's too, and the file that takes the directory down."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("lacks a C compiler")
    source = Path(__file__).parents[1] / "support" / "nss_corp.c"
    argv = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(folder / "libnss_corp.so.2"), str(source)]
    subprocess.run(argv, check=True, timeout=60)
    down = folder / "down"
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("NSS_CORP_DOWN", str(down))
    with Host(rules=[BURST], breaker={"blocks": 100, "per": "10m"}, **settings) as host:
        host.lab.lay_over("/etc/nsswitch.conf", "passwd: files corp\ngroup: files corp\nhosts: files dns\n")
        yield host, down


def test_a_directory_knows_its_users_by_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    users = [{"match": {"groups": ["domain users@corp.example"]}, "rules": {"burst": {"limit": 2}}}]
    exempt = {"users": ["CORP\\joe"], "groups": ["Domain Users"]}
    with with_directory(tmp_path, monkeypatch, users=users, exempt=exempt) as (host, _):
        assert "warning: exempt.groups: the system calls the group 'Domain Users' 'domain users@corp.example'" in said(
            host.cli("check")
        )
        assert said(host.cli("exempt", "--name", "--", JOE[0])) == f"yes: {JOE[0]}: exempt.users: CORP\\joe"
        host.start()
        assert host.connect(JOE, 10).refused == 0
        assert said(host.cli("block", "Corp\\ANN")).startswith(f"{ANN[0]} is blocked")
        said(host.cli("unblock", "ann"))
        assert host.connect(ANN, 5).ok == 2, "by its group"
        assert blocked(host) == {ANN[1]: ANN[0]}


@pytest.mark.long
def test_a_block_made_while_the_directory_was_down_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    with with_directory(tmp_path, monkeypatch) as (host, down):
        down.touch()
        host.start()
        host.connect(DIRECTORY_LATE, 7)
        said(host.cli("allow", str(ANN[1]), "--for", "1h"))
        assert blocked(host) == {uid: f"uid:{uid}" for _, uid in (DIRECTORY_LATE, ANN)}
        down.unlink()
        wait_for(lambda: blocked(host) == {uid: name for name, uid in (DIRECTORY_LATE, ANN)}, 30)
        assert host.connect(DIRECTORY_LATE, 2).ok == 0
        assert host.connect(ANN, 8).refused == 0
