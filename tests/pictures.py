"""`make pictures`: the pictures of the documents, made anew from real runs. Needs root, and Debian's chromium once.

python -m tests.pictures [NAME...]
"""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from smtpguard.demo.lab import PEER4, PEER6
from tests.screen_pictures import make_screens
from tests.servers import unpack
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
SHOP, CLUB = ("shop17", 61201), ("verein", 61202)
RULES = [
    {"name": "mx-burst", "ports": [25], "count": "connections", "limit": 60, "window": "10m", "action": "block"},
    {"name": "hourly", "count": "connections", "limit": 300, "window": "1h", "action": "warn", "dry_run": True},
]


def take_picture(page: str, picture: Path, size: str) -> None:
    """A page as chromium shows it.

    Args:
        page: HTML.
        picture: A PNG.
        size: Width and height, such as 1000,800.
    """
    tree = unpack("chromium-headless-shell", "fonts-dejavu-core")
    program = tree.path("usr/lib/chromium/chromium-headless-shell")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "page.html"
        file.write_text(page)
        command = [str(program), "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"]
        subprocess.run(
            [*command, f"--screenshot={picture}", f"file://{file}"],
            env=tree.environment(), capture_output=True, timeout=300, check=True,
        )  # fmt: skip


def make_report() -> None:
    """Four minutes of a host: an ordinary shop, a club's newsletter, and a hacked site that is blocked."""
    accounts = dict([SHOP, CLUB])
    with Host(accounts, rules=RULES, ports=[25, 587], breaker={"blocks": 100, "per": "10m"}) as host:
        host.start()
        time.sleep(60 - time.time() % 60)  # a report is of whole minutes: of none of them something was not watched
        begun = [
            host.begin(SHOP, 40, 0.17, 587), host.begin(CLUB, 90, 0.4, 587, [PEER6]),
            host.begin(INNOCENT, 12, 0.05, 25), host.begin(OTHER, 25, 0.1, 25, [PEER4, PEER6]),
        ]  # fmt: skip
        time.sleep(60)
        begun.append(host.begin(SPAMMER, 240, 2, 25, [PEER4, PEER6]))
        for child in begun:
            child.wait(timeout=400)
        time.sleep(2)
        done = host.cli("report", "--since", "4m", "--format", "html")
        assert done.returncode == 0, done.stderr
    page = done.stdout.replace(f"report of {socket.gethostname()}<", "report of web1.example.org<")
    take_picture(page, FOLDER / "report.png", "1000,840")


PICTURES: dict[str, Callable[[], None]] = {"report": make_report, "screen": lambda: make_screens(FOLDER)}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
