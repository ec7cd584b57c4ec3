"""Every decoder against hostile bytes: a moment each in every run of the tests, ten minutes each in the long one."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import SEEDS, TARGETS

ROOT = Path(__file__).parent.parent.parent
SHORT_S = int(os.environ.get("SMTPGUARD_FUZZ_SHORT_S", "1"))
LONG_S = int(os.environ.get("SMTPGUARD_FUZZ_LONG_S", "600"))


def fuzz(name: str, seconds: int, folder: Path, seed: int | None = None) -> None:
    """Feed one target; with a seed the same bytes each time, but for how far it gets."""
    pytest.importorskip("atheris", reason="lacks atheris, which has no wheel for this machine")
    seeds, corpus = folder / "seeds", folder / "corpus"
    for made in (seeds, corpus):
        made.mkdir()
    for text in SEEDS.get(name, lambda: iter([b""]))():
        (seeds / hashlib.sha256(text).hexdigest()[:16]).write_bytes(text)
    command = [
        *(sys.executable, "-m", "tests.fuzz.fuzz", name),
        *(f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1500", f"-artifact_prefix={folder}/"),
        *([f"-seed={seed}"] if seed else []),
        *(str(corpus), str(seeds)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    culprits = [f"{path.name}: {path.read_bytes()!r}" for path in folder.iterdir() if path.is_file()]
    assert done.returncode == 0, "\n".join([done.stderr[-3000:], *culprits])


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_taken_whole(name: str) -> None:
    for seed in SEEDS.get(name, lambda: iter([b""]))():
        for given in (seed, seed[: len(seed) // 2], seed + seed, b""):
            TARGETS[name](given)


@pytest.mark.parametrize("name", TARGETS)
def test_a_moment_of_hostile_bytes(name: str, tmp_path: Path) -> None:
    fuzz(name, SHORT_S, tmp_path, seed=1)


@pytest.mark.long
@pytest.mark.timeout(LONG_S + 300)
@pytest.mark.parametrize("name", TARGETS)
def test_ten_minutes_of_hostile_bytes(name: str, tmp_path: Path) -> None:
    fuzz(name, LONG_S, tmp_path)
