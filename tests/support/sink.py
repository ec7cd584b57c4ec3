"""A mail server for tests (aiosmtpd) on all SMTP ports of its namespace; takes everything. Prints `ready`."""

import asyncio

from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP


async def main() -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: SMTP(Sink(), hostname="sink.example"), host, port, backlog=4096)
        for port in (25, 465, 587, 2525, 80)
        for host in ("0.0.0.0", "::")
    ]
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
