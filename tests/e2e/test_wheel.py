"""The package as it is released: wheel through sdist, installed into a fresh environment, run from elsewhere."""

import ast
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.programs import run

PROJECT = Path(__file__).resolve().parent.parent.parent
DATA_KINDS = ("filters", "jails", "nft", "config", "templates")
MODULES_OF = {"pyyaml": "yaml", "oxl-libnftables": "nftables", "prometheus-client": "prometheus_client"}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are those of the tests, so no network is needed."""
    home = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", str(home), cwd=home)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home / "bin/python"),
        "install",
        "-q",
        "--no-index",
        "--no-deps",
    ]
    run(*pip, str(wheel), cwd=home)
    # Names found here come after the wheel's own, and the .pth of the editable checkout is not read along.
    (site_packages(home) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def site_packages(home: Path) -> Path:
    return Path(
        run(str(home / "bin/python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    )


def data_files(folder: Path) -> dict[str, bytes]:
    files = {}
    for kind in DATA_KINDS:
        for file in (folder / kind).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                files[str(file.relative_to(folder))] = file.read_bytes()
    return files


def test_installed_data_files_are_those_of_the_tree(installed: Path) -> None:
    assert data_files(site_packages(installed) / "smtpguard" / "_data") == data_files(PROJECT)


def test_installed_modules_are_those_of_the_tree(installed: Path) -> None:
    package = site_packages(installed) / "smtpguard"
    ours = {
        file.relative_to(PROJECT / "smtpguard"): file.read_bytes() for file in (PROJECT / "smtpguard").rglob("*.py")
    }
    theirs = {file.relative_to(package): file.read_bytes() for file in package.rglob("*.py")}
    assert theirs == ours
    assert (package / "py.typed").exists()


def test_installed_command_runs_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert run(str(installed / "bin/smtpguard"), "--version", cwd=tmp_path).strip() == f"smtpguard, version {version}"
    where = run(str(installed / "bin/python"), "-c", "import smtpguard; print(smtpguard.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed))


def test_nothing_of_the_workplace_is_packed(dist: Path, wheel: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        names += ["/".join(name.split("/")[1:]) for name in archive.getnames()]
    tops = {name.split("/")[0] for name in names}
    assert not {".venv", ".cache", "build", "dist"} & tops
    assert not [name for name in names if name.endswith((".pyc", ".status")) or "__pycache__" in name]


def test_every_imported_library_is_declared_and_no_other() -> None:
    """The fresh environment borrows the tests' libraries, so a forgotten dependency would not show there."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    declared = set()
    for requirement in wanted:
        name = requirement.split(">")[0].split("=")[0].split("[")[0].strip().lower()
        declared.add(MODULES_OF.get(name, name.replace("-", "_")))
    imported = set()
    for file in (PROJECT / "smtpguard").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
                imported |= {str(word.value).split(".")[0] for word in node.args if isinstance(word, ast.Constant)}
    libraries = imported - set(sys.stdlib_module_names) - {"smtpguard"}
    assert libraries <= declared
    assert declared <= libraries, "what nothing imports is a dependency of nobody's"
