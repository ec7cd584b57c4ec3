"""How a process of this package starts another one: the same interpreter, and modules from where ours came from only.

`python -m` puts the working directory in front of everything, and root types commands in tenants' directories. So each
start is with -P (python(1)), and what is handed on of our path never is the working directory.
Also here: what to type so that this very interpreter has a library that is missing.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGE_PARENT = str(Path(__file__).resolve().parent.parent)
_DEBIANS = "/usr/lib/python3/dist-packages"


def module_argv(module: str, *arguments: str) -> list[str]:
    """The argument list that runs a module of this package; use it with `module_environment`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """Our environment, in which the module is found where we were found, and what it imports where we found it."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(safe_path(sys.path, _read_cwd()))}


def install_command(library: str, *, debian: str | None = None) -> str:
    """What to type so that the interpreter that runs this has a library.

    Args:
        library: What pip calls it, with the version that is needed.
        debian: Debian's package of it; None if there is none, or an older one.
    """
    if sys.prefix != sys.base_prefix:
        return shlex.join([f"{sys.prefix}/bin/pip", "install", library])
    if debian is not None and _DEBIANS in sys.path:
        return f"apt-get install {debian}"
    import sysconfig

    is_managed = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()  # PEP 668: Debian 12 and newer
    flags = ["--break-system-packages"] if is_managed else []
    return shlex.join([sys.executable, "-m", "pip", "install", *flags, library])


def safe_path(path: Sequence[str], cwd: str | None) -> list[str]:
    """A module search path without the working directory and what depends on it; this package's folder comes first.

    Args:
        path: As sys.path is.
        cwd: The working directory; None if it is gone.
    """
    fine = (entry for entry in path if entry.startswith("/") and (cwd is None or not _is_same(entry, cwd)))
    return list(dict.fromkeys([_PACKAGE_PARENT, *fine]))


def _is_same(first: str, second: str) -> bool:
    try:
        return Path(first).samefile(second)
    except OSError:
        return False


def _read_cwd() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:
        return None
