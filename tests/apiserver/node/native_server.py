"""A model server of a few lines, as small as a process can be that is served as one. Started by the node's agent."""

import http.server
import json
import os
import signal
import sys
import time
from pathlib import Path

MODEL = Path(os.environ["MODEL_FILE"]).read_text()
SICK = Path(os.environ["MODEL_DIR"]).parent / "sick"


class Handler(http.server.BaseHTTPRequestHandler):
    """Says what it is."""

    def do_GET(self) -> None:
        """Health, and all that is known of this process."""
        self.send_response(503 if SICK.exists() else 200)
        self.end_headers()
        told = {
            "pid": os.getpid(),
            "model": MODEL,
            "argv": sys.argv[1:],
            "env": dict(os.environ),
            "cwd": str(Path.cwd()),
        }
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def leave(*_: object) -> None:
    """Takes a moment, as whoever has still to answer."""
    print("leaving", flush=True)
    time.sleep(0.3)
    sys.exit(0)


signal.signal(signal.SIGTERM, leave)
print(f"serving as {os.getpid()}", flush=True)
print("a word on stderr", file=sys.stderr, flush=True)
server = http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
server.serve_forever()
