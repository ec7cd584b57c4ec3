"""Which PHP-FPM pools run under which user, from the pools' configuration; only from files that root alone can write.

Debian: /etc/php/VERSION/fpm/pool.d; EL: /etc/php-fpm.d; Remi, cPanel, Plesk and DirectAdmin below /etc/opt, /opt and
/usr/local. Read, never followed: `include` lines lead to these places anyway.
"""

import glob
import os
from pathlib import Path

from smtpguard.errors import ConfigError
from smtpguard.safe_files import read_trusted
from smtpguard.text import render_escaped

PATTERNS = (
    "etc/php/*/fpm/pool.d/*.conf",
    "etc/php-fpm.d/*.conf",
    "etc/opt/remi/php*/php-fpm.d/*.conf",
    "opt/cpanel/ea-php*/root/etc/php-fpm.d/*.conf",
    "opt/plesk/php/*/etc/php-fpm.d/*.conf",
    "usr/local/php*/etc/php-fpm.d/*.conf",
    "usr/local/directadmin/data/users/*/php/php-fpm*.conf",
)
MAX_FILES = 5000
MAX_BYTES = 256 * 1024


def read_pools(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """User to the names of their pools, and what could not be read.

    Args:
        root: Where the host's file system is.
    """
    pools: dict[str, list[str]] = {}
    problems: list[str] = []
    paths = [path for pattern in PATTERNS for path in sorted(glob.glob(str(root / pattern)))]  # noqa: PTH207 - no dotfiles
    for path in paths[:MAX_FILES]:
        try:
            content = read_trusted(os.path.realpath(path), max_bytes=MAX_BYTES)
        except FileNotFoundError:
            continue
        except ConfigError as error:
            problems.append(f"{error}; its pools are not known")
            continue
        for name, user in parse_pools(content):
            pools.setdefault(user, []).append(render_escaped(name.encode("utf-8", "surrogateescape")))
    if len(paths) > MAX_FILES:
        problems.append(f"{len(paths)} pool files are too many; {MAX_FILES} were read")
    return pools, problems[:20]


def parse_pools(content: bytes) -> list[tuple[str, str]]:
    """Names and users of the pools in a php-fpm.conf(5); a user that is made of variables is not known.

    Args:
        content: The whole file.
    """
    pools: list[tuple[str, str]] = []
    name: str | None = None
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            name = text[1:-1]
        key, separator, value = text.partition("=")
        if separator and name not in (None, "global") and key.strip() == "user":
            user = value.split(";")[0].strip().strip('"')
            if name is not None and user and "$" not in user:
                pools.append((name, user))
    return pools
