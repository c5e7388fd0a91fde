"""Messages of `wfhost`, verified by the library of Standard Webhooks.

Usage: check.py WFHOST PROBE.wasm. Wants `pip install standardwebhooks`.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

WFHOST, PROBE = sys.argv[1], sys.argv[2]
NEW, OLD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
got = []


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        got.append((self.rfile.read(int(self.headers["content-length"])), dict(self.headers)))
        self.send_response(204)
        self.end_headers()


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
root = pathlib.Path(tempfile.mkdtemp())
(root / "config/wfhost").mkdir(parents=True)
(root / "config/wfhost/config.toml").write_text(
    f'[sinks.ops]\nurl = "http://127.0.0.1:{server.server_address[1]}/x"\nsecret_env = "NEW"\nold_secret_env = "OLD"\n'
)
env = {
    "PATH": os.environ["PATH"], "HOME": str(root), "XDG_CONFIG_HOME": str(root / "config"), "XDG_STATE_HOME": str(root / "state"),
    "WFHOST_DB": str(root / "wfhost.db"), "WFHOST_AGENT": "echo", "NEW": NEW, "OLD": OLD,
    "WFHOST_CACHE": os.environ.get("WFHOST_CACHE", str(root / "cache")),
}
ran = lambda *args: subprocess.run([WFHOST, *args], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
ran("sinks", "test", "ops")
ran("sinks", "deliver")
ran("run", PROBE, "-i", '{"do": [{"agent": "x"}]}')
ran("sinks", "deliver")
assert len(got) == 2, got
for body, headers in got:
    for secret in (NEW, OLD):
        message = Webhook(secret).verify(body, {name.lower(): value for name, value in headers.items()})
    try:
        Webhook(NEW).verify(body + b" ", {name.lower(): value for name, value in headers.items()})
        sys.exit("an altered message was taken")
    except WebhookVerificationError:
        pass
    print(message["type"], "ok")
