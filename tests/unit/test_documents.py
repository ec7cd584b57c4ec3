"""What the documents for developers name is there."""

import os
import re
import tomllib
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.support.documents import INSTALLED, list_documents

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


def test_packages_bring_what_their_documents_name() -> None:
    """Below /usr/share/doc/smtpguard, in the order of the tree: what a link or a command line leads to is there."""
    brought = set(list_documents())
    assert {str(path.relative_to(TOP)) for path in [*DOCUMENTS, TOP / "CHANGELOG.md"]} <= brought
    folders = {str(folder) for name in brought for folder in Path(name).parents}
    texts = {name: (TOP / name).read_text("utf-8") for name in brought if name.endswith(".md")}
    texts |= {str(path): path.read_text("utf-8") for path in (TOP / "smtpguard").rglob("*.py")}
    named = [
        (name, os.path.normpath(Path(name).parent / link))
        for name, text in texts.items()
        if name.endswith(".md")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    ]
    named += [(name, place) for name, text in texts.items() for place in re.findall(rf"{INSTALLED}/([\w./-]+\w)", text)]
    missing = [one for one in named if one[1] not in brought | folders]
    assert missing == []


def test_the_source_archive_has_every_document() -> None:
    packed = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert {f"/{path.name}" for path in TOP.glob("*.md")} <= {*packed["include"], "/README.md"}, "hatch adds the readme"


def test_every_room_is_told_of() -> None:
    rooms = {path.name for path in (TOP / "smtpguard").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(re.findall(r"`smtpguard/(\w+)/`", (TOP / "CONTRIBUTING.md").read_text("utf-8")))


@pytest.fixture(scope="module")
def drawing() -> list[ET.Element]:
    """The texts of docs/architecture.svg."""
    root = ET.fromstring((TOP / "docs" / "architecture.svg").read_text("utf-8"))  # noqa: S314 - our own
    return root.findall(".//{http://www.w3.org/2000/svg}text")


def test_the_drawing_names_every_room(drawing: list[ET.Element]) -> None:
    named = {word for text in drawing if text.get("class") == "room" for word in (text.text or "").split()}
    rooms = {f"{path.parent.name}/" for path in (TOP / "smtpguard").glob("*/__init__.py")} - {"daemon/"}
    rooms |= {f"daemon/{path.parent.name}/" for path in (TOP / "smtpguard" / "daemon").glob("*/__init__.py")}
    assert rooms - named == set(), "add it to docs/architecture.svg"
    places = (TOP / "smtpguard", TOP / "smtpguard" / "daemon")
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


@pytest.mark.parametrize(
    ("way", "title"), [("connect", "The way of a connect"), ("unblock", "The way of an `unblock`")]
)
def test_the_drawing_has_each_step_in_its_room(drawing: list[ET.Element], way: str, title: str) -> None:
    text = (TOP / "docs" / "architecture.md").read_text("utf-8").split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    files = {int(number): file for number, file in re.findall(r"^(\d+)\. `([\w/]+\.py)`", text, re.MULTILINE)}
    drawn: Counter[int] = Counter()
    for label in drawing:
        if label.get("class") == f"step {way}":
            for span in (label.text or "").split():
                first, _, last = span.partition("-")
                for number in range(int(first), int(last or first) + 1):
                    drawn[number] += 1
                    assert files[number].startswith(label.get("data-room", "none")), (number, files[number])
    assert drawn == Counter(files.keys()), "each step once"
