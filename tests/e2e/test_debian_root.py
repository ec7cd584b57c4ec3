"""A Debian with smtpguard, fail2ban, a mail server and PHP installed: the tests pass there too.

debootstrap makes it (Debian's package, from PATH or unpacked), apt installs into it; what is downloaded, some 100 MB,
stays in .cache/debian. It lives in mount and pid namespaces of its own, below pytest's folder, and starts no service.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import require
from tests.support.programs import run

pytestmark = [pytest.mark.kernel, pytest.mark.long]

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".cache" / "debian"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
PACKAGES = ("fail2ban", "exim4-daemon-light", "php-cli", "php-fpm", "iproute2", "util-linux", "procps", "make")
SMOKE = (
    "tests/unit",
    "tests/property",
    "tests/cli",
    "tests/kernel/test_lab.py",
    "tests/kernel/test_nft.py",
    "tests/e2e/test_main_job.py",
    "tests/e2e/test_emergency.py",
    "tests/e2e/test_fail2ban.py",
)
"""What `make test` runs, as far as it may meet what is installed."""
NOT_HERE = ("--ignore", "tests/unit/test_changes.py")
"""It judges the source by the linter, a program of the virtual environment that is not there."""

INSTALL = r"""
set -eu
root=$1 package=$2 archives=$3; shift 3
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"; chmod 755 "$root/usr/sbin/policy-rc.d"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$archives" "$root/var/cache/apt/archives"
cp "$package" "$root/tmp/smtpguard.deb"
within() {
  chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}
within apt-get -q update
within apt-get -q -y -o APT::Keep-Downloaded-Packages=true install /tmp/smtpguard.deb
echo "== bare"
within dpkg-query -W -f '${Package} ${db:Status-Status}\n' cron cron-daemon-common exim4-daemon-light postfix \
  bsd-mailx logrotate 2>/dev/null | grep ' installed$' || true
echo "== more"
within apt-get -q -y -o APT::Keep-Downloaded-Packages=true install "$@"
echo "== check"; within smtpguard check
echo "== exempt"; within smtpguard exempt -- Debian-exim
echo "== end"
"""

TRY = r"""
set -eu
root=$1 project=$2 packages=$3; shift 3
ulimit -n 1024
mount --bind "$root" "$root"  # `ip` makes / a slave, which a mere directory can't be
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mkdir -p "$root/srv/smtpguard/.cache" "$root/srv/packages"
tar -C "$project" --exclude=./.venv --exclude=./.cache --exclude=./.git --exclude=./dist -cf - . |
  tar -C "$root/srv/smtpguard" -xf -
mount --bind "$project/.cache" "$root/srv/smtpguard/.cache"
mount --bind "$packages" "$root/srv/packages"
# Not exec: as process 1 of its namespace pytest would be what some tests take for init.
chroot "$root" /usr/bin/env -i -C /srv/smtpguard PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
  PYTHONPATH=/srv/packages PYTHONDONTWRITEBYTECODE=1 \
  python3 -m pytest -p no:cacheprovider -m "not long and not bench" --require-kernel -q "$@" || exit $?
"""


def unshare(script: str, *words: str, timeout_s: float) -> str:
    argv = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    done = subprocess.run([*argv, "in-debian", *words], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def package(wheel: Path, tmp_path: Path) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("lacks dpkg-deb")
    return Path(run(sys.executable, str(PROJECT / "packaging/deb.py"), str(wheel), str(tmp_path)).strip())


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """The root of a minimal Debian of this machine's release."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian" or Path(sys.executable).resolve().parent != Path("/usr/bin"):
        pytest.skip("lacks a Debian whose own Python runs the tests: the test tools are used within")
    env = dict(os.environ)
    program = shutil.which("debootstrap")
    if program is None:
        unpacked = require("debootstrap")
        program = str(unpacked.path("usr/sbin/debootstrap"))
        env["DEBOOTSTRAP_DIR"] = str(unpacked.path("usr/share/debootstrap"))
    for folder in ("base", "archives/partial"):
        (CACHE / folder).mkdir(parents=True, exist_ok=True)
    root = tmp_path / "debian"
    argv = [
        "sh",
        program,
        "--variant=minbase",
        f"--cache-dir={CACHE}/base",
        release["VERSION_CODENAME"],
        str(root),
        MIRROR,
    ]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=1200, check=False)
    if done.returncode != 0:
        pytest.fail(f"debootstrap: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return root


@pytest.mark.timeout(3600)
def test_the_tests_pass_where_all_of_it_is_installed(debian: Path, package: Path) -> None:
    said = unshare(INSTALL, str(debian), str(package), str(CACHE / "archives"), *PACKAGES, timeout_s=1800)
    parts = {name: text.strip() for name, text in re.findall(r"== (\w+)\n((?:(?!== ).*\n)*)", said)}
    assert parts["bare"] == "", "smtpguard brought this with it"
    assert ": ok: dry run;" in parts["check"]
    assert parts["exempt"].startswith("yes: Debian-exim")
    (site,) = {path for path in map(Path, sys.path) if path.name == "site-packages"}
    tried = unshare(TRY, str(debian), str(PROJECT), str(site), *SMOKE, *NOT_HERE, timeout_s=3000)
    print(tried[-3000:])
    assert re.search(r"\d{4} passed", tried)
