"""Unpacks the wheels that the screen of `watch` needs: `python packaging/wheels.py FOLDER`. Needs no root.

packaging/screen.txt says which, with their hashes; what is not in .cache/wheels yet is fetched by pip. A file
whose hash is another one ends it, as does one that is not pure Python.
"""

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LIST = PROJECT / "packaging/screen.txt"
CACHE = PROJECT / ".cache/wheels"
_LINE = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9.]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")

_LEFT_OUT = re.compile(
    r".*/(RECORD|INSTALLER|direct_url\.json|)|.*\.data/.*"  # pip's own notes, folders; programs and manual pages
    r"|pygments/lexers/(?!__init__|_mapping).*|textual/(demo|tree-sitter)/.*"  # 9 MB of 12: the screen colours no code
)


def find(name: str, version: str, sha256: str) -> Path | None:
    """A wheel in the cache, of that hash."""
    for path in sorted(CACHE.glob(f"{name.replace('-', '_')}-{version}-*-none-any.whl")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path
    return None


def fetch() -> list[Path]:
    """All of them, from the cache; what is missing there is fetched first."""
    lines = [line for line in LIST.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    wanted = [match.group("name", "version", "sha256") for line in lines if (match := _LINE.fullmatch(line))]
    if len(wanted) != len(lines):
        raise SystemExit(f"{LIST}: a line is not NAME==VERSION --hash=sha256:HASH")
    if not all(find(*one) for one in wanted):
        CACHE.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        argv += ["--only-binary", ":all:", "--require-hashes", "-r", str(LIST), "-d", str(CACHE)]
        subprocess.run(argv, stdout=sys.stderr, check=True, timeout=600)
    found = [(name, find(name, version, sha256)) for name, version, sha256 in wanted]
    missing = [name for name, path in found if path is None]
    if missing:
        raise SystemExit(f"no pure wheel of the right hash: {', '.join(missing)}")
    return [path for _, path in found if path is not None]


def unpack(folder: Path) -> None:
    """Put what the screen needs of all of them into a folder, with what is known of their authors and licences."""
    for wheel in fetch():
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if ".." in Path(name).parts or Path(name).is_absolute():
                    raise SystemExit(f"{wheel}: {name} leads out of the folder")
                if _LEFT_OUT.fullmatch(name):
                    continue
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))


def main(words: list[str]) -> None:
    """The command line."""
    if len(words) != 1:
        raise SystemExit("usage: packaging/wheels.py FOLDER")
    unpack(Path(words[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
