"""A mail server for tests that keeps what it gets, as a program: `mail_receiver.py ADDRESS PORT FILE` (aiosmtpd).

FILE has a line of JSON for each mail: envelope and text. Addresses that begin with `refused` get 550.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

ADDRESS, PORT, FILE = sys.argv[1:]


def keep(row: Mapping[str, object]) -> None:
    with Path(FILE).open("a", encoding="ascii") as file:
        file.write(json.dumps(row) + "\n")


class Keeper:
    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("refused"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        text = (envelope.content or b"") if isinstance(envelope.content, bytes) else b""
        row = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "mail": text.decode("ascii")}
        keep(row)
        return "250 ok"


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Keeper(), hostname="mailbox.example"), ADDRESS, int(PORT))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
