"""Which documents the packages bring, as packaging/deb.py says it."""

import runpy
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
INSTALLED = "/usr/share/doc/smtpguard"
"""Where both packages have them, in the order of the tree."""


def list_documents() -> list[str]:
    """Paths below the project, and below INSTALLED."""
    names: list[str] = runpy.run_path(str(TOP / "packaging/deb.py"))["list_documents"]()
    return names
