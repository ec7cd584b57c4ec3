"""`python -m smtpguard.demo.sink`: a mail server of the laboratory that takes everything and keeps nothing.

Prints `ready` when it listens. Speaks just enough of RFC 5321 for a client to deliver.
"""

import argparse
import asyncio

_MAX_LINE_BYTES = 4096
_IDLE_S = 60


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        writer.write(b"220 sink.example ESMTP\r\n")
        body = False
        while line := await asyncio.wait_for(reader.readline(), _IDLE_S):
            word = line.strip().upper()
            if body:
                body = word != b"."
                if not body:
                    writer.write(b"250 2.0.0 taken and forgotten\r\n")
            elif word == b"DATA":
                body = True
                writer.write(b"354 go on\r\n")
            elif word == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                break
            else:
                writer.write(b"250 2.0.0 ok\r\n")
            await writer.drain()
    except (TimeoutError, OSError, ValueError):
        pass  # a client that is reset, hangs or sends an endless line is not the sink's concern
    finally:
        writer.close()


async def _main(ports: list[int]) -> None:
    servers = [
        await asyncio.start_server(_serve, host, port, limit=_MAX_LINE_BYTES, backlog=4096)
        for port in ports
        for host in ("0.0.0.0", "::")  # noqa: S104 - its namespace has no way out
    ]
    print("ready", flush=True)  # noqa: T201 - a program of its own
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> None:
    """Listen until a signal ends it."""
    parser = argparse.ArgumentParser(prog="smtpguard.demo.sink", description=__doc__)
    parser.add_argument("ports", nargs="+", type=int)
    asyncio.run(_main(parser.parse_args().ports))


if __name__ == "__main__":
    main()
