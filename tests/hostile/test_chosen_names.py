"""Attack 6: at sign-up a tenant chooses the name of a service that is never refused: vmail, nginx, postfix."""

from pathlib import Path

import pytest

from smtpguard.cli.check import find_lookalikes
from smtpguard.doctor.accounts import check_chosen_names
from smtpguard.doctor.finding import ExaminedHost as DoctorHost
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.policy.standing import MTA_NAMES
from smtpguard.settings import Settings
from smtpguard.settings.load import load_settings, read_shipped
from tests.support.host import Host

CHOSEN = {"vmail": 61201, "nginx": 61202, "exim": 61203}
LISTED = {"webfarm": 61204}
RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "10m"}


@pytest.mark.kernel
def test_they_are_stopped_like_anybody() -> None:
    with Host(CHOSEN, rules=[RULE]) as host:
        host.start()
        for user in CHOSEN.items():
            done = host.connect(user, 12)
            assert (done.ok, done.refused) == (5, 7), user


@pytest.mark.kernel
def test_a_name_that_the_operator_wrote_still_holds() -> None:
    with Host(CHOSEN | LISTED, rules=[RULE], shared_users={"users": ["webfarm"]}) as host:
        host.start()
        assert host.connect(("webfarm", 61204), 12).ok == 12
        assert host.connect(("vmail", 61201), 12).ok == 5


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    settings = read_shipped()
    names = sorted(settings.shared_users | MTA_NAMES - {"alias"})
    tenants = "".join(f"{name}:x:{5000 + i}:100::/home/{name}:/bin/sh\n" for i, name in enumerate(names))
    put(tmp_path, "etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n" + tenants)
    put(tmp_path, "etc/group", "users:x:100:\n")
    put(tmp_path, "etc/login.defs", "UID_MIN 1000\n")
    return tmp_path


def test_no_shipped_name_gives_standing_above_uid_min(root: Path) -> None:
    accounts = AccountDirectory(read_shipped(), root=root)
    above = [accounts.account(uid) for uid in accounts.listed_uids() if 1000 <= uid != 65534]
    assert len(above) > 20
    assert {account.standing for account in above} == {"tenant"}
    assert accounts.account(65534).standing == "shared"
    assert any(first <= 65534 <= last for first, last in accounts.told_uids())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etc/nginx/nginx.conf", "worker_processes 2;\nuser  nginx nginx;\n"),
        ("etc/dovecot/dovecot.conf", "protocols = imap\nmail_uid = nginx\n"),
        ("etc/dovecot/conf.d/10-mail.conf", "#mail_uid = root\n  mail_uid=nginx # all of them\n"),
        ("etc/apache2/envvars", "unset HOME\nexport APACHE_RUN_USER=nginx\n"),
        ("etc/apache2/envvars", 'export APACHE_RUN_USER="nginx"\n'),
        ("etc/httpd/conf/httpd.conf", "Listen 80\nUser nginx\nGroup nginx\n"),
    ],
)
def test_a_file_of_roots_does(root: Path, name: str, text: str) -> None:
    put(root, name, text)
    accounts = AccountDirectory(read_shipped(), root=root)
    uid = accounts.lookup.find_uid("nginx")
    assert uid is not None
    assert accounts.account(uid).standing == "shared"
    assert name in accounts.account(uid).reason


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etc/nginx/nginx.conf", "# user nginx;\nuserid nginx;\n"),
        ("etc/apache2/envvars", "export APACHE_RUN_USER=www-data$SUFFIX\n"),
        ("etc/httpd/conf/httpd.conf", "<VirtualHost *:80>\n  User nginx\n</VirtualHost>\n"),
        ("etc/nginx/nginx.conf", "user root;\n"),
    ],
)
def test_what_says_nothing_does_not(root: Path, name: str, text: str) -> None:
    put(root, name, text)
    accounts = AccountDirectory(read_shipped(), root=root)
    assert {accounts.account(uid).standing for uid in accounts.listed_uids() if 1000 <= uid != 65534} == {"tenant"}


def test_a_file_that_a_tenant_can_write_does_not(root: Path) -> None:
    put(root, "etc/nginx/nginx.conf", "user nginx;\n")
    (root / "etc/nginx/nginx.conf").chmod(0o666)
    accounts = AccountDirectory(read_shipped(), root=root)
    uid = accounts.lookup.find_uid("nginx")
    assert uid is not None
    assert accounts.account(uid).standing == "tenant"
    assert any("nginx.conf" in problem for problem in accounts.problems)


def test_doctor_names_them(root: Path) -> None:
    (finding,) = check_chosen_names(DoctorHost(read_shipped(), root=root))
    assert finding.level == "note"
    assert "apache" in finding.found
    (finding,) = check_chosen_names(DoctorHost(load(root, "shared_users: {users: [nginx]}"), root=root))
    assert "nginx (shared_users)" not in finding.found  # lookalikes among mail servers' names come first
    put(root, "etc/passwd", "root:x:0:0::/:/bin/sh\nnginx:x:5000:100::/:/bin/sh\n")
    (finding,) = check_chosen_names(DoctorHost(load(root, "shared_users: {users: [nginx]}"), root=root))
    assert finding.found == "never blocked, by name: nginx (shared_users)"


def test_check_names_them_and_asks_no_directory(root: Path) -> None:
    said = list(find_lookalikes(read_shipped(), AccountDirectory(read_shipped(), root=root)))
    assert len(said) == len(read_shipped().shared_users) - 1  # nobody's uid is the overflow uid there
    assert "vmail" in " ".join(said)


def load(root: Path, text: str) -> Settings:
    path = root / "g.yaml"
    path.write_text(f"version: 1\n{text}\n")
    path.chmod(0o600)
    return load_settings(str(path))
