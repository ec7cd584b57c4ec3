"""Real servers for tests, unpacked and never installed: Debian packages from apt into `.cache/servers/`.

`apt-get` resolves what is not on this machine yet (shared libraries too), `dpkg -x` unpacks it; no maintainer script
runs, no service starts, no conflict removes anybody's mail server, and the system's own package lists are only read
(where they are missing or stale, lists of our own go below the cache). The second time everything comes from the
cache, without a network. See apt-get(8) `--simulate` and dpkg-deb(1) `-x`.
"""

import atexit
import contextlib
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "servers"
_SIMULATE_S = 60
_DOWNLOAD_S = 300
_APT = ("-q", "-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=5")
_SYSTEM = frozenset({"libc6", "libc-bin", "libc-l10n", "base-files"})
"""Never unpacked: a C library beside the machine's own loader breaks every program."""


class UnavailableError(Exception):
    """A server is not available here; the text names what is lacking and is fit for a skip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """A tree of unpacked packages.

    Attributes:
        root: Where `usr/`, `etc/` and so on are.
        packages: Package name to version.
    """

    root: Path
    packages: dict[str, str]

    def path(self, relative: str) -> Path:
        """A file of the tree; UnavailableError if the packages do not hold it."""
        found = self.root / relative
        if not found.exists():
            raise UnavailableError(f"{relative} is in none of {', '.join(sorted(self.packages))}")
        return found

    def environment(self) -> dict[str, str]:
        """This process's environment with the tree's programs, libraries and Python modules put first."""
        env = dict(os.environ)
        for name, folders in (
            ("PATH", ["usr/local/sbin", "usr/sbin", "sbin", "usr/bin", "bin"]),
            ("LD_LIBRARY_PATH", _library_folders(self.root)),
            ("PYTHONPATH", ["usr/lib/python3/dist-packages"]),
        ):
            ours = [str(self.root / folder) for folder in folders if (self.root / folder).is_dir()]
            theirs = [env[name]] if env.get(name) else []
            if ours:
                env[name] = ":".join(ours + theirs)
        env.setdefault("PYTHONPYCACHEPREFIX", _keep_bytecode())  # it is compiled once, and the tree stays as it is
        return env

    def python(self, *modules: str) -> str:
        """An interpreter that can import the tree's modules: the system's python3, else the one running the tests.

        Asked rather than compared by version: fail2ban 1.0 needs asyncore, which Python 3.12 dropped.
        """
        statement = ";".join(f"import {module}" for module in modules) or "pass"
        complaint = "no interpreter was found"
        for candidate in ("/usr/bin/python3", sys.executable):
            if not Path(candidate).exists():
                continue
            argv = [candidate, "-c", statement]
            trial = subprocess.run(
                argv, env=self.environment(), capture_output=True, text=True, timeout=60, check=False
            )
            if trial.returncode == 0:
                return candidate
            complaint = f"{candidate}: {(trial.stderr.strip().splitlines() or ['?'])[-1]}"
        raise UnavailableError(f"no Python here can run {', '.join(modules)} ({complaint})")


@cache
def _keep_bytecode() -> str:
    """A folder for compiled modules that goes with this process."""
    folder = tempfile.mkdtemp(prefix="smtpguard-bytecode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def require(*names: str, alone: bool = False) -> Unpacked:
    """`unpack`, as tests want it: a skip that says what is lacking."""
    try:
        return unpack(*names, alone=alone)
    except UnavailableError as error:
        pytest.skip(f"lacks {' '.join(names)}: {error}")


def unpack(*names: str, folder: Path = CACHE, alone: bool = False) -> Unpacked:
    """Fetch Debian packages with what they need and this machine lacks, and unpack them; from the cache if there.

    Args:
        names: Package names.
        folder: The cache.
        alone: Without what they depend on: programs that need the C library alone.

    Raises:
        UnavailableError: No apt, no network, no such package, or a program that lacks a shared library.
    """
    outcome = _unpack_once(tuple(sorted(set(names))), folder, alone)
    if isinstance(outcome, UnavailableError):
        raise outcome
    return outcome


@cache
def _unpack_once(names: tuple[str, ...], folder: Path, alone: bool) -> Unpacked | UnavailableError:
    """Once a process: a machine without network is not asked again by every test."""
    try:
        return _unpack(names, folder, alone=alone)
    except UnavailableError as error:
        return error


def _unpack(names: tuple[str, ...], folder: Path, *, alone: bool) -> Unpacked:
    home = folder / "+".join(names)
    if (cached := _read_manifest(home)) is not None:
        return cached
    with _locked(folder):
        if (cached := _read_manifest(home)) is not None:
            return cached
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise UnavailableError(f"apt-get and dpkg-deb are not here, and {home} holds no unpacked copy")
        if os.geteuid() != 0:
            raise UnavailableError(f"apt is asked by root alone, and {home} holds no unpacked copy")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fetched = _fetch(names, Path(scratch), folder / "apt", alone=alone)
            fresh = Path(scratch) / "fresh"
            root = fresh / "root"
            root.mkdir(parents=True)
            packages = {}
            for archive in fetched:
                _run(["dpkg-deb", "-x", str(archive), str(root)], timeout_s=120)
                fields = _run(["dpkg-deb", "-f", str(archive), "Package", "Version"], timeout_s=20)
                field = dict(line.split(": ", 1) for line in fields.splitlines())
                packages[field["Package"]] = field["Version"]
            unpacked = Unpacked(root=home / "root", packages=packages)
            _check_libraries(root)
            manifest = asdict(unpacked) | {"root": None}
            (fresh / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            if home.exists():
                shutil.rmtree(home)
            fresh.rename(home)
    return unpacked


def _read_manifest(home: Path) -> Unpacked | None:
    """What an earlier run unpacked; written last, so a run that was cut short is not believed."""
    try:
        packages = json.loads((home / "manifest.json").read_text())["packages"]
    except (OSError, ValueError, KeyError):
        return None
    return Unpacked(root=home / "root", packages=packages)


def _fetch(names: Sequence[str], scratch: Path, own: Path, *, alone: bool) -> list[Path]:
    """Download the packages into scratch: with the system's lists, else with fresh ones of our own."""
    complaints = []
    for options in ((), _own_lists(own)):
        try:
            if options:
                _run(["apt-get", *_APT, *options, "update"], timeout_s=_DOWNLOAD_S)
            wanted = sorted({*names, *(() if alone else _needed(names, options))} - _SYSTEM)
            _run(["apt-get", *_APT, *options, "download", *wanted], timeout_s=_DOWNLOAD_S, cwd=scratch)
        except UnavailableError as error:
            complaints.append(str(error))
            continue
        return sorted(scratch.glob("*.deb"))
    raise UnavailableError("; ".join(dict.fromkeys(complaints)))


def _needed(names: Sequence[str], options: Sequence[str]) -> set[str]:
    """What apt would install to have the names here: them, and the dependencies this machine lacks."""
    # `--print-uris` would leave out what lies in apt's archive folder, installed or not.
    plan = _run(
        ["apt-get", *_APT, *options, "install", "-y", "--no-install-recommends", "--simulate", *names],
        timeout_s=_SIMULATE_S,
    )
    # Inst libidn12 (1.41-1 Debian:12.11/stable [amd64])
    return {line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")}


def _own_lists(own: Path) -> tuple[str, ...]:
    """Options that keep apt's lists and archives below the cache, so that the machine's own stay as they are."""
    for part in ("lists/partial", "archives/partial"):
        (own / part).mkdir(parents=True, exist_ok=True)
    settings = (f"Dir::State::Lists={own}/lists", f"Dir::Cache={own}", f"Dir::Cache::archives={own}/archives")
    return tuple(word for setting in settings for word in ("-o", setting))


def _library_folders(root: Path) -> list[str]:
    """Folders with shared libraries, relative to the root; Postfix and others keep some in one of their own."""
    found = {str(file.parent.relative_to(root)) for file in root.glob("**/lib*.so*") if "/lib" in str(file)}
    return sorted(found, key=lambda folder: (folder.count("/"), folder))


def _check_libraries(root: Path) -> None:
    """Raise UnavailableError when a program of the tree lacks a shared library, here and in the tree."""
    env = os.environ | {"LD_LIBRARY_PATH": ":".join(str(root / folder) for folder in _library_folders(root))}
    for file in sorted(root.glob("**/*bin/*")):
        mode = file.lstat().st_mode
        if not stat.S_ISREG(mode) or not mode & 0o111 or file.read_bytes()[:4] != b"\x7fELF":
            continue
        said = _run(["ldd", str(file)], timeout_s=20, env=env, check=False)
        missing = sorted({line.split()[0] for line in said.splitlines() if "not found" in line})
        if missing:
            raise UnavailableError(f"{file.relative_to(root)} lacks {', '.join(missing)}")


def _run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    check: bool = True,
) -> str:
    """Run a program and return its stdout; UnavailableError with its last complaint if it fails."""
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            env={**(env or os.environ), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{argv[0]}: {error}") from error
    if check and done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("W:")]
        raise UnavailableError(f"{argv[0]}: {(said or ['failed without a word'])[-1]}")
    return done.stdout


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """One process at a time: several test runs may share a cache."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise UnavailableError(f"it is not unpacked yet, and {folder} can't be written: {error.strerror}") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
