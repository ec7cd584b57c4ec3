"""Reads the configuration in a process of its own, so that what checks it (7 MB of JSON Schema) does not stay in ours.

`python -P -m smtpguard.settings.load_in_child [FILE]` is that process: it writes the checked Settings, pickled, to
stdout, or the parts of the error. Parent and child are the same program of the same user: the pickle is trusted as our
own memory.
"""

import pickle
import sys

from smtpguard.errors import ConfigError
from smtpguard.interpreter import module_argv, module_environment
from smtpguard.settings import Settings

_TIMEOUT_S = 30


def read_settings_apart(path: str | None) -> Settings:
    """The configuration, wholly checked, as `settings.load.load_settings` gives it.

    Raises:
        ConfigError: It is bad, or can't be read.
    """
    import subprocess  # with the first reload

    try:
        done = subprocess.run(
            module_argv("smtpguard.settings.load_in_child", *([path] if path is not None else [])),
            env=module_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        found = pickle.loads(done.stdout)  # noqa: S301 - written by our own child a moment ago
    except (OSError, subprocess.SubprocessError, pickle.UnpicklingError, EOFError) as error:
        raise ConfigError(f"the configuration can't be read: {error}", where=path) from error
    if isinstance(found, Settings):
        return found
    what, where, fix = found
    raise ConfigError(what, where=where, fix=fix)


def main() -> None:
    """The child."""
    from smtpguard.settings.load import load_settings

    try:
        answer: object = load_settings(sys.argv[1] if len(sys.argv) > 1 else None)
    except ConfigError as error:
        answer = (error.what, error.where, error.fix)
    sys.stdout.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
