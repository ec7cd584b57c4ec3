"""Fuzzes one decoder with atheris: `python -m tests.fuzz.fuzz TARGET [libFuzzer's arguments] CORPUS...`."""

import sys

import atheris

with atheris.instrument_imports(include=["smtpguard.decode"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
