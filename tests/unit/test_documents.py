"""What the documents for developers name is there."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted({*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")} - {TOP / "CHANGELOG.md"})
"""The CHANGELOG tells of what was."""
PLACES = ("", "docs", "smtpguard", "smtpguard/daemon", "smtpguard/sources/bpf")
"""Where a path in a document may begin."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_files_and_links_that_a_document_names_are_there(document: Path) -> None:
    text = document.read_text("utf-8")
    named = re.findall(r"`(\w[\w.-]*/[\w./-]*)`", text)
    paths = [name for name in named if re.search(r"\.(py|md|h|c|nft|json|yaml)$|^(smtpguard|tests|docs)/", name)]
    missing = [name for name in paths if not any((TOP / place / name).exists() for place in PLACES)]
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (document.parent / link).exists()]
    assert (missing, links) == ([], [])


def test_every_room_is_told_of() -> None:
    rooms = {path.name for path in (TOP / "smtpguard").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(re.findall(r"`smtpguard/(\w+)/`", (TOP / "CONTRIBUTING.md").read_text("utf-8")))
