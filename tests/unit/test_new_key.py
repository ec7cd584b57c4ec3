"""A new key of the configuration touches the files that CONTRIBUTING names and no other: a patch to a copy shows it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PATCH = TOP / "tests" / "patches" / "a_key.patch"
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
)
USE = """
from smtpguard.settings.load import load_settings
from smtpguard.settings.on_reload import find_changes
import sys
one, other = (load_settings(path) for path in sys.argv[1:])
print(one.log_rest_ns, *find_changes(one, other).waiting)
"""


def apply_patch(text: str, top: Path) -> list[str]:
    """Each hunk is put in where its old lines stand, wherever that is now; the files, as they are named."""
    touched = []
    for part in re.split(r"^diff --git .*\n", text, flags=re.MULTILINE)[1:]:
        name = re.search(r"^\+\+\+ b/(.*)$", part, re.MULTILINE)
        assert name is not None
        path = top / name[1]
        content = path.read_text("utf-8")
        for hunk in re.split(r"^@@.*\n", part, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
            assert content.count(old) == 1, f"{name[1]} has changed: make {PATCH} anew"
            content = content.replace(old, new)
        path.write_text(content, "utf-8")
        touched.append(name[1])
    return touched


def test_a_key_is_read_told_and_documented_by_what_contributing_names(tmp_path: Path) -> None:
    for name in COPIED:
        copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy
        copy(TOP / name, tmp_path / name)
    touched = apply_patch(PATCH.read_text("utf-8"), tmp_path)
    row = re.search(r"^\| a configuration key \|.*$", (TOP / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    assert row is not None
    assert set(touched) <= set(re.findall(r"`([\w./]+\.\w+)`", row[0]))
    files: list[Path] = []
    for text in ("version: 1\nlog: {rest: 5s}\n", "version: 1\nlog: {rest: 2m}\n"):
        files.append(tmp_path / f"{len(files)}.yaml")
        files[-1].write_text(text)
        files[-1].chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-c", USE, *files], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("5000000000 log.rest 5s -> 2m\n", "")
    own = ["tests/unit/test_settings_on_reload.py", "tests/unit/test_configuration_document.py"]
    for words in (["ruff", "check", *touched[-1:]], ["pytest", "-q", "-p", "no:cacheprovider", *own]):
        judged = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert judged.returncode == 0, judged.stdout
