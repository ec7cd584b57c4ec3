"""Builds a Debian package from a wheel: `python packaging/deb.py WHEEL FOLDER`. Needs dpkg-deb, and no root.

The modules go where Debian's python3 finds them and use Debian's own libraries, so that their security updates reach
smtpguard too; but what the screen of `watch` needs Debian has too old, and it comes along, for that alone (wheels.py).
Same wheel, same package, byte by byte: times are SOURCE_DATE_EPOCH's, or that of the wheel's contents.
"""

import calendar
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MODULES = "usr/lib/python3/dist-packages"
DATA = {
    "config/smtpguard.service": ("usr/lib/systemd/system/smtpguard.service", 0o644),
    "config/smtpguard.tmpfiles": ("usr/lib/tmpfiles.d/smtpguard.conf", 0o644),
    "config/smtpguard.yaml": ("etc/smtpguard/smtpguard.yaml", 0o640),
    "config/smtpguard.logrotate": ("etc/logrotate.d/smtpguard", 0o644),
    "filters/smtpguard.conf": ("etc/fail2ban/filter.d/smtpguard.conf", 0o644),
    "filters/smtpguard-connect.conf": ("etc/fail2ban/filter.d/smtpguard-connect.conf", 0o644),
    "jails/action.d/smtpguard.conf": ("etc/fail2ban/action.d/smtpguard.conf", 0o644),
    "jails/smtpguard.conf": ("etc/fail2ban/jail.d/smtpguard.conf", 0o644),
}
"""File of the wheel's data to its place and mode; all below etc/ are conffiles."""
PROGRAM = """\
#!/usr/bin/python3 -I
from smtpguard.cli import main

main()
"""


def build(wheel: Path, folder: Path) -> Path:
    """Build the package into a folder and return its path."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        root.chmod(0o755)
        version, epoch = lay_out(wheel, root)
        write_control(root, version)
        set_times(root, epoch)
        package = folder / f"smtpguard_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(package)],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )
    return package


def lay_out(wheel: Path, root: Path) -> tuple[str, int]:
    """Put the wheel's files and the documentation in their places; returns version and time."""
    modules = root / MODULES
    with zipfile.ZipFile(wheel) as archive:
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or read_epoch(archive))
        for name in archive.namelist():
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise SystemExit(f"{wheel}: {name} leads out of the package")
            put(modules / name, archive.read(name))
    (record,) = modules.glob("smtpguard-*.dist-info/METADATA")
    metadata = record.read_text("utf-8")
    version = HeaderParser().parsestr(metadata)["Version"]
    # Debian's binding of libnftables (python3-nftables) has another name than PyPI's: `pip check` would miss it.
    put(record, re.sub(r"(?m)^Requires-Dist: oxl-libnftables.*\n", "", metadata).encode())
    # Debian's files are not pip's to remove.
    for name in ("RECORD", "INSTALLER", "direct_url.json"):
        (record.parent / name).unlink(missing_ok=True)
    put_screen(modules / "smtpguard" / "_screen")
    for source, (target, mode) in DATA.items():
        put(root / target, (modules / "smtpguard" / "_data" / source).read_bytes(), mode)
    put(root / "usr/bin/smtpguard", PROGRAM.encode(), 0o755)
    documents = root / "usr/share/doc/smtpguard"
    put(documents / "copyright", render_copyright().encode())
    put(documents / "changelog.gz", gzip.compress((PROJECT / "CHANGELOG.md").read_bytes(), 9, mtime=0))
    for name in list_documents():
        put(documents / name, (PROJECT / name).read_bytes())
    return version, epoch


def list_documents() -> list[str]:
    """What stands below /usr/share/doc/smtpguard, in the order of the tree, so that links lead from one to another."""
    names = (PROJECT / "packaging/documents.txt").read_text("utf-8").split()
    found = [path for name in names for path in (PROJECT / name, *(PROJECT / name).rglob("*")) if path.is_file()]
    return sorted(str(path.relative_to(PROJECT)) for path in found)


def put_screen(folder: Path) -> None:
    """Put what the screen of `watch` needs into a folder that no other program looks into."""
    with tempfile.TemporaryDirectory() as scratch:
        argv = [sys.executable, str(PROJECT / "packaging/wheels.py"), scratch]
        subprocess.run(argv, check=True, timeout=900)
        for file in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            put(folder / file.relative_to(scratch), file.read_bytes())


def write_control(root: Path, version: str) -> None:
    """Write DEBIAN/: control, conffiles, checksums and maintainer scripts."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    size_kb = sum(-(-path.stat().st_size // 1024) for path in files)
    control = (PROJECT / "packaging/debian/control").read_text("utf-8")
    control = control.replace("@VERSION@", version).replace("@INSTALLED_SIZE@", str(size_kb))
    names = [str(path.relative_to(root)) for path in files]
    conffiles = "".join(f"/{name}\n" for name in names if name.startswith("etc/"))
    checksums = "".join(
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {name}\n"
        for path, name in zip(files, names, strict=True)
        if not name.startswith("etc/")
    )
    put(root / "DEBIAN/control", control.encode())
    put(root / "DEBIAN/conffiles", conffiles.encode())
    put(root / "DEBIAN/md5sums", checksums.encode())
    for script in ("postinst", "prerm", "postrm"):
        put(root / "DEBIAN" / script, (PROJECT / "packaging/debian" / script).read_bytes(), 0o755)


def render_copyright() -> str:
    """The machine-readable notice, DEP-5; the licence itself is on every Debian system."""
    return (
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Upstream-Name: smtpguard\n\n"
        "Files: *\nCopyright: The smtpguard authors\nLicense: GPL-2+\n"
        " On Debian systems the full text of the licence is in /usr/share/common-licenses/GPL-2.\n\n"
        f"Files: /{MODULES}/smtpguard/_screen/*\nCopyright: The authors of Textual, Rich and what they need\n"
        "License: MIT or BSD-2-Clause or PSF-2.0\n The licence of each is beside it, in its .dist-info folder.\n"
    )


def read_epoch(archive: zipfile.ZipFile) -> int:
    """The time of the newest member, in seconds since 1970."""
    return max(calendar.timegm((*info.date_time, 0, 0, 0)) for info in archive.infolist())


def put(place: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file with its folders, whatever the umask."""
    for folder in reversed(place.parents):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
    place.write_bytes(content)
    place.chmod(mode)


def set_times(root: Path, epoch: int) -> None:
    """Give everything the same time."""
    for path in (root, *root.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def main(words: list[str]) -> None:
    """The command line."""
    if len(words) != 2 or not re.fullmatch(r"smtpguard-[^/]+\.whl", Path(words[0]).name):
        raise SystemExit("usage: packaging/deb.py smtpguard-VERSION-py3-none-any.whl FOLDER")
    if shutil.which("dpkg-deb") is None:
        raise SystemExit("dpkg-deb is lacking: this needs Debian or Ubuntu, or the package dpkg")
    sys.stdout.write(f"{build(Path(words[0]), Path(words[1]))}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
