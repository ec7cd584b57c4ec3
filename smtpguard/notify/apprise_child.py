"""`python -P -m smtpguard.notify.apprise_child`: sends one message by Apprise; see apprise_channel.py.

On standard input is JSON: url, title, body. On standard output is what came of it, without the address.
"""

import contextlib
import importlib
import json
import logging
import sys

from smtpguard.interpreter import install_command
from smtpguard.kernel.landlock import restrict_writing

FIX = install_command("apprise", debian="apprise")


def main() -> int:
    """The exit code: 0 where it was sent."""
    order = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)  # it would log addresses
    with contextlib.suppress(OSError):
        restrict_writing()  # 40 MB of others' code, and what it talks to: it has nothing to write
    try:
        apprise = importlib.import_module("apprise")
    except ImportError:
        sys.stdout.write(f"apprise is not installed ({FIX})")
        return 1
    sender = apprise.Apprise()
    if not sender.add(order["url"]):
        sys.stdout.write("apprise does not know such an address")
        return 1
    if not sender.notify(title=order["title"], body=order["body"], body_format=apprise.NotifyFormat.TEXT):
        sys.stdout.write("apprise could not send it")
        return 1
    sys.stdout.write("apprise sent it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
