"""A change touches the files that CONTRIBUTING names for it and no other: patches to a copy of the tree show it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PATCHES = TOP / "tests" / "patches"
COPIED = (
    "smtpguard",
    "config",
    "docs",
    "nft",
    "filters",
    "jails",
    "tests",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
)
CHANGES = {
    "a_key": ("a configuration key", ("unit/test_settings_on_reload.py", "unit/test_configuration_document.py")),
    "a_doctor_check": ("a doctor check", ("unit/test_doctor.py",)),
    "a_status_field": (
        "a field of `status`",
        ("unit/test_overview.py", "unit/test_wording.py", "unit/test_contract_document.py"),
    ),
    "a_state_table": ("a state table", ("unit/test_state_store.py",)),
    "a_port_label": ("a label of a port", ("unit/test_text.py",)),
}
"""Patch to the row of CONTRIBUTING that names its files, and the tests that judge it."""


def apply_patch(text: str, top: Path) -> dict[str, str]:
    """Each hunk is put in where its old lines stand, wherever that is now; the files, and what they held before."""
    before: dict[str, str] = {}
    for part in re.split(r"^diff --git .*\n", text, flags=re.MULTILINE)[1:]:
        named = re.search(r"^\+\+\+ b/(.*)$", part, re.MULTILINE)
        assert named is not None
        name = named[1]
        content = before[name] = (top / name).read_text("utf-8")
        for hunk in re.split(r"^@@.*\n", part, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
            assert content.count(old) == 1, f"{name} has changed: make the patch anew"
            content = content.replace(old, new)
        assert content != before[name], f"nothing is changed in {name}"
        (top / name).write_text(content, "utf-8")
    return before


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree, once for all patches."""
    top = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        if (TOP / name).is_dir():  # bytecode comes and goes, while others run
            shutil.copytree(TOP / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(TOP / name, top / name)
    return top


@pytest.fixture
def tree(copy: Path) -> Iterator[Path]:
    """The same, as it was before another patch."""
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    yield copy
    for path, content in before.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def test_each_patch_is_tried() -> None:
    assert {path.stem for path in PATCHES.glob("*.patch")} == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_touches_what_contributing_names_and_passes(name: str, tree: Path) -> None:
    row, tests = CHANGES[name]
    touched = sorted(apply_patch((PATCHES / f"{name}.patch").read_text("utf-8"), tree))
    told = re.search(rf"^\| {row} \|.*$", (TOP / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    assert told is not None
    assert set(touched) <= set(re.findall(r"`([\w./]+\.\w+)`", told[0]))
    code = [path for path in touched if path.endswith(".py")]
    own = [f"tests/{test}" for test in tests]
    for words in (["ruff", "check", *code], ["ruff", "format", "--check", *code], ["pytest", "-qx", *own]):
        judged = subprocess.run(
            [sys.executable, "-m", *words], cwd=tree, capture_output=True, text=True, timeout=120, check=False
        )
        assert judged.returncode == 0, judged.stdout
