"""A webhook's receiver, as a program: `receiver.py ADDRESS PORT FOLDER`.

FOLDER/mode says how it answers: ok, 500, redirect, close (at once, without an answer), slow (a byte a second for ever).
What it has taken with `ok` goes to FOLDER/taken, all attempts to FOLDER/tried: JSON lines with headers and body.
"""

import json
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[3])


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode("utf-8")
        mode = (FOLDER / "mode").read_text("ascii").strip()
        self._note("tried", body)
        if mode == "close":
            self.close_connection = True
        elif mode == "slow":
            with suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while True:
                    self.wfile.write(b"X")
                    self.wfile.flush()
                    time.sleep(1)
        else:
            status = {"ok": 204, "500": 500, "redirect": 302}[mode]
            if status == 204:
                self._note("taken", body)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"http://{sys.argv[1]}:{sys.argv[2]}/elsewhere")
            self.end_headers()

    def do_GET(self) -> None:
        self.headers["Content-Length"] = "0"
        self.do_POST()

    def _note(self, name: str, body: str) -> None:
        row = {
            "method": self.command,
            "time": time.time(),
            "path": self.path,
            "headers": dict(self.headers),
            "body": body,
        }
        with (FOLDER / name).open("ab", buffering=0) as file:
            file.write(json.dumps(row).encode() + b"\n")  # at once: two may come at the same time

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
    print("ready", flush=True)
    server.serve_forever()
