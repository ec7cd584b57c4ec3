"""The rpm, built and read by a real rpm (unpacked where it is not installed), its libraries left out."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import Unpacked, require
from tests.support import documents
from tests.support.programs import run

PROJECT = Path(__file__).resolve().parent.parent.parent
SPEC = PROJECT / "packaging/smtpguard.spec"
CONFIGURATION = {
    "/etc/smtpguard/smtpguard.yaml",
    "/etc/logrotate.d/smtpguard",
    "/etc/fail2ban/filter.d/smtpguard.conf",
    "/etc/fail2ban/filter.d/smtpguard-connect.conf",
    "/etc/fail2ban/action.d/smtpguard.conf",
    "/etc/fail2ban/jail.d/smtpguard.conf",
}


@pytest.fixture(scope="module")
def rpm_env() -> dict[str, str]:
    unpacked: Unpacked = require("rpm", "cpio")
    return unpacked.environment() | {"RPM_CONFIGDIR": str(unpacked.path("usr/lib/rpm"))}


@pytest.fixture(scope="module")
def package(rpm_env: dict[str, str], wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rpm")
    options = ["--nodeps", "--define", f"_dbpath {out}/db", "--define", "guard_pip_options --no-index --no-deps"]
    env = rpm_env | {"GUARD_PYTHON": sys.executable}
    return Path(run("bash", str(PROJECT / "packaging/rpm.sh"), str(wheel), str(out), *options, env=env).strip())


def query(env: dict[str, str], package: Path, *words: str) -> list[str]:
    return run("rpm", "--dbpath", str(package.parent / "db"), "-qp", *words, str(package), env=env).splitlines()


def test_spec_is_read(rpm_env: dict[str, str]) -> None:
    said = run("rpmspec", "-P", "--define", "guard_version 1.2.3", str(SPEC), env=rpm_env)
    assert "Version:        1.2.3\n" in said
    assert "Requires:       /usr/bin/python3.11\n" in said
    assert "%{" not in said


def test_configuration_files_are_kept_at_an_upgrade(rpm_env: dict[str, str], package: Path) -> None:
    kept = set(query(rpm_env, package, "--configfiles"))
    assert kept == CONFIGURATION
    flags = query(rpm_env, package, "--qf", "[%{FILENAMES} %{FILEFLAGS:fflags}\\n]")
    assert {line.split()[1] for line in flags if line.split()[0] in kept} == {"cn"}


def test_documents_are_those_of_the_tree(rpm_env: dict[str, str], package: Path) -> None:
    wanted = {f"{documents.INSTALLED}/{name}" for name in documents.list_documents() if name != "LICENSE"}
    assert {name for name in query(rpm_env, package, "--docfiles") if not name.endswith("/LICENSE")} >= wanted
    assert "/usr/share/licenses/smtpguard/LICENSE" in query(rpm_env, package, "-l")


def test_files_belong_to_root(rpm_env: dict[str, str], package: Path) -> None:
    rows = query(rpm_env, package, "--qf", "[%{FILENAMES} %{FILEUSERNAME} %{FILEMODES:perms}\\n]")
    assert rows
    for row in rows:
        _, owner, mode = row.rsplit(" ", 2)
        assert owner == "root", row
        assert mode[0] == "l" or (mode[5] == "-" and mode[8] == "-"), row


def test_unpacked_program_runs_and_the_bpf_object_is_whole(
    rpm_env: dict[str, str], package: Path, tmp_path: Path
) -> None:
    subprocess.run(
        ["sh", "-c", 'rpm2cpio "$1" | cpio -idm --quiet', "sh", str(package)],
        cwd=tmp_path,
        env=rpm_env,
        timeout=60,
        check=True,
    )
    home = tmp_path / "usr/lib/smtpguard/smtpguard"
    for file in (PROJECT / "smtpguard").rglob("*.o"):
        assert (home / file.relative_to(PROJECT / "smtpguard")).read_bytes() == file.read_bytes()
    env = rpm_env | {"PYTHONPATH": str(home.parent)}
    said = run(sys.executable, str(tmp_path / "usr/bin/smtpguard"), "--version", env=env, cwd=tmp_path)
    assert said.startswith("smtpguard, version ")
    screen = run(
        sys.executable, "-c", "import textual; print(textual.__file__)", env=env | {"PYTHONPATH": f"{home}/_screen"}
    )
    assert screen.startswith(f"{home}/_screen/textual/"), "the screen of `watch` has what it needs"
    where = run(sys.executable, "-c", "import smtpguard; print(smtpguard.__file__)", env=env, cwd=tmp_path)
    assert where.startswith(str(home))


def test_without_rpmbuild_it_says_what_to_install(tmp_path: Path) -> None:
    wheel = tmp_path / "smtpguard-1-py3-none-any.whl"
    wheel.touch()
    bash = shutil.which("bash")
    assert bash is not None
    argv = [bash, str(PROJECT / "packaging/rpm.sh"), str(wheel), str(tmp_path)]
    done = subprocess.run(argv, env={"PATH": ""}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "rpmbuild is lacking: dnf install rpm-build python3.11-pip\n")


def test_without_pip_it_says_what_to_install(tmp_path: Path) -> None:
    wheel = tmp_path / "smtpguard-1-py3-none-any.whl"
    wheel.touch()
    for name in ("rpmbuild", "python"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    argv = ["bash", str(PROJECT / "packaging/rpm.sh"), str(wheel), str(tmp_path)]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GUARD_PYTHON": f"{tmp_path}/python"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}/python has no pip, which brings the libraries: dnf install python3.11-pip\n"
