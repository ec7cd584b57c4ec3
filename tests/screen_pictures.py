"""The screen of `watch` as SVG for README and docs, from a real guard and real connections: a part of pictures.py.

In the laboratory of the tests: namespaces and a sub-cgroup of its own, a hacked shop, innocent sites, a real PHP.
Nothing of it is left. Needs root.
"""

import asyncio
import json
import re
import shutil
import tempfile
import time
from pathlib import Path

from smtpguard.demo.lab import ANY4
from smtpguard.tui.app import WatchApp
from smtpguard.tui.desk import GuardDesk
from smtpguard.tui.feed import GuardFeed
from smtpguard.tui.screen_model import ScreenModel
from tests.php import unpack_php
from tests.support.host import Host

SHOP = ("shop17", 61117)
SITES = {"blog03": 61203, "club88": 61188, "dental": 61142, "atelier": 61109, SHOP[0]: SHOP[1]}
RULES = [
    {"name": "mx-fanout", "ports": [25], "count": "networks", "limit": 10, "window": "10m", "action": "block"},
    {"name": "submission-busy", "ports": [587], "count": "connections", "limit": 120, "window": "1m", "action": "warn"},
    {"name": "hourly", "count": "connections", "limit": 300, "window": "1h", "action": "warn"},
]
SCENES: dict[str, tuple[str, ...]] = {
    "connections": ("1",),
    "scripts": ("3",),
    "blocks": ("5",),
    "users": ("2", "s", "s"),
    "why": ("slash", *SHOP[0], "enter", "enter"),
}
"""Pictures, and the keys that lead to each."""
SEND = """<?php
foreach (range(1, %d) as $number) {
    usleep(%d);
    $socket = @stream_socket_client("tcp://" . sprintf("%s", $number %% 250) . ":%d", $code, $text, 2);
    if ($socket) fclose($socket);
}
"""


def begin_site(host: Host, php: Path, name: str, file: str, to: str, port: int, count: int, pause_us: int) -> None:
    """Start a site's script, as its user, below /home."""
    script = host.lab.directory / "home" / name / "htdocs" / file
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(SEND % (count, pause_us, to, port))
    uid = str(SITES[name])
    library = ":".join(sorted({str(path.parent) for path in php.rglob("lib*.so*")}))
    words = ["env", "-C", f"/home/{name}/htdocs", f"LD_LIBRARY_PATH={library}", "setpriv", "--reuid", uid]
    words += ["--regid", uid, "--clear-groups", str(php / "usr/bin/php8.2"), f"/home/{name}/htdocs/{file}"]
    host.lab.start(words, inside=True)


async def take(host: Host, folder: Path) -> None:
    """Show the screen, press keys, and keep what it looks like."""
    feed = GuardFeed(f"{host.lab.directory}/control.sock", None)
    feed.start()
    app = WatchApp(feed, GuardDesk(f"{host.lab.directory}/control.sock"), ScreenModel(time.time_ns()), time.time_ns)
    async with app.run_test(size=(116, 26)) as pilot:
        await asyncio.sleep(15)
        for name, keys in SCENES.items():
            if name == "why":
                await pilot.resize_terminal(164, 26)
            await pilot.press(*keys)
            await asyncio.sleep(3)
            svg = app.export_screenshot(title=f"smtpguard watch: {name}")
            picture = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # nothing remote
            (folder / f"screen-{name}.svg").write_text(re.sub(r"[ \t]+\n", "\n", picture), "utf-8")
    feed.close()


def make_screens(folder: Path) -> None:
    """All of them: the guard, five sites and the screen.

    Args:
        folder: Where they are put.
    """
    unpacked = unpack_php()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Host(SITES, rules=RULES, attribution={"rdns": False}, accounts=[f"{scratch}/panel"]) as host,
    ):
        Path(scratch).chmod(0o755)
        customers = [{"user": user, "domain": f"{user}.example"} for user in SITES]
        panel = Path(scratch, "panel")
        panel.write_text(f"#!/bin/sh\necho '{json.dumps({'accounts': customers})}'\n")
        panel.chmod(0o755)
        php = Path(shutil.copytree(unpacked.root, f"{scratch}/php", symlinks=True))
        home = host.lab.directory / "home"
        home.mkdir()
        home.chmod(0o755)
        host.lab.directory.chmod(0o711)
        host.lab.lay_directory_over("/home", home)
        host.start()
        host.wait_for_sink()
        far = ANY4.split(".")[0]
        begin_site(host, php, "blog03", "wp-cron.php", "192.0.2.2%.0s", 587, 200, 900_000)
        begin_site(host, php, "club88", "newsletter/send.php", "192.0.2.2%.0s", 465, 200, 400_000)
        begin_site(host, php, "dental", "contact.php", "192.0.2.2%.0s", 587, 200, 1_500_000)
        begin_site(host, php, "atelier", "shop/mail.php", "192.0.2.2%.0s", 2525, 200, 1_100_000)
        begin_site(host, php, SHOP[0], "wp-content/plugins/x/send.php", f"{far}.18.%d.9", 25, 400, 120_000)
        asyncio.run(take(host, folder))
