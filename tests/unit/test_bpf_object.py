"""The committed BPF objects are what their sources compile to: instructions, maps, constants and relocations."""

import hashlib
import struct
import subprocess
from pathlib import Path

import pytest

import smtpguard.sources.bpf

ROOT = Path(__file__).parents[2]
HERE = Path(smtpguard.sources.bpf.__file__).parent
OBJECTS = sorted(path.name for path in HERE.glob("*.bpf.o"))
TOOLS = ROOT / ".cache/bpf-tools/.complete"
# Type information comes from the distribution's kernel headers too; symbols and strings follow it.
_MAY_DIFFER = (".BTF", ".rel.BTF", ".strtab", ".symtab", ".llvm_addrsig")


def read_sections(path: Path) -> dict[str, bytes]:
    """Sections of an ELF64 file in this machine's byte order (elf(5)), without those that may differ."""
    data = path.read_bytes()
    start = struct.unpack_from("=Q", data, 0x28)[0]
    size, count, names_index = struct.unpack_from("=HHH", data, 0x3A)
    headers = [struct.unpack_from("=IIQQQQ", data, start + n * size) for n in range(count)]
    names = data[headers[names_index][4] :]
    sections = {names[h[0] : names.index(b"\0", h[0])].decode(): data[h[4] : h[4] + h[5]] for h in headers}
    return {name: body for name, body in sections.items() if not name.startswith(_MAY_DIFFER)}


def test_there_is_an_object_for_every_source() -> None:
    assert sorted(f"{path.stem}.o" for path in HERE.glob("*.bpf.c")) == OBJECTS
    assert "connect.bpf.o" in OBJECTS


def test_the_sources_are_those_that_were_compiled() -> None:
    recorded = (HERE / "SOURCES.sha256").read_text()
    sources = sorted(HERE.glob("*.bpf.[ch]"))
    assert recorded == "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sources), (
        "run make bpf"
    )


def test_a_rebuild_gives_the_same_objects(tmp_path: Path) -> None:
    if not TOOLS.exists():
        pytest.skip("lacks clang 14, which make setup-test fetches where there is apt-get")
    subprocess.run(["bash", "config/setup.sh", "bpf", str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    for name in OBJECTS:
        built, committed = read_sections(tmp_path / name), read_sections(HERE / name)
        assert "license" in committed
        assert built == committed, f"{name}: run make bpf"
