"""with_server.py COMMAND…: runs a command beside a fresh server.

The server is TRUEUP_BIN with an empty SQLite database in a temporary directory, on a free port of 127.0.0.1. The command
finds it by PEERS_URL, PEERS_SECRETS, PEERS_API_TOKEN and PEERS_ADMIN_TOKEN, and what it works with by PEERS_DATABASE_URL and
PEERS_CONFIG. Afterwards the server must end with exit code
0 on SIGTERM, and its log must hold none of its secrets.
"""

import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time

from peer import Checks, request

CONFIG = """\
[[plans]]
tier = "free"
monthly_limit = 5

[[plans]]
tier = "pro"
monthly_limit = 100
prices = ["pro-monthly"]
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, directory, webhook_secrets, settings=(), config=CONFIG):
        """settings: further variables of its environment."""
        self.settings, self.port = dict(settings), None
        self.directory = pathlib.Path(directory)
        self.log = self.directory / "log"
        self.private = {
            "STRIPE_WEBHOOK_SECRET": webhook_secrets,
            "TRUEUP_API_TOKEN": "api-" + secrets.token_hex(24),
            "TRUEUP_ADMIN_TOKEN": "admin-" + secrets.token_hex(24),
        }
        (self.directory / "trueup.toml").write_text(config, encoding="utf-8")
        self.process = None

    def start(self):
        # Another process may take the port between the asking and the server's bind, so there is a second and third try.
        for _ in range(3):
            # Started anew it listens where it did.
            port = self.port or free_port()
            self.url = f"http://127.0.0.1:{port}"
            # Nothing of the developer's own settings.
            own = ("TRUEUP_", "STRIPE_", "DATABASE_URL", "SENTRY_", "SMTP_")
            environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
            environment |= self.private | self.settings | {
                "DATABASE_URL": f"sqlite://{self.directory}/trueup.db",
                "TRUEUP_LISTEN": f"127.0.0.1:{port}",
                "TRUEUP_CONFIG": str(self.directory / "trueup.toml"),
                "TRUEUP_LOG": "info",
                "STRIPE_LIVEMODE": "false",
            }
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(
                    [os.environ["TRUEUP_BIN"], "serve"],
                    cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )
            if self.ready():
                self.port = port
                return
            self.stop()
            if "in use" not in self.log_text():
                break
        raise RuntimeError("the server did not get ready")

    def ready(self, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if request(self.url, "GET", "/readyz", timeout=5).status == 200:
                    return self.process.poll() is None
            except OSError:
                pass
            time.sleep(0.05)  # how often to look
        return False

    def stop(self):
        """Asks the server to end and returns its exit code; None if it had to be killed."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def kill(self):
        """Ends it without a word, as a crash would."""
        self.process.kill()
        self.process.wait()

    def log_text(self):
        return self.log.read_text(encoding="utf-8", errors="replace")


def main():
    command = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # As in production while a secret is rolled, and as operators paste it: with a newline.
    both = ["whsec_" + secrets.token_hex(16), "whsec_" + secrets.token_hex(16)]
    checks = Checks("server")
    with tempfile.TemporaryDirectory(prefix="trueup-peers.", ignore_cleanup_errors=True) as directory:
        server = Server(directory, f"{both[0]}\n,{both[1]}")
        status = 1
        try:
            server.start()
            environment = os.environ | {
                "PEERS_URL": server.url,
                "PEERS_SECRETS": ",".join(both),
                "PEERS_API_TOKEN": server.private["TRUEUP_API_TOKEN"],
                "PEERS_ADMIN_TOKEN": server.private["TRUEUP_ADMIN_TOKEN"],
                "PEERS_DATABASE_URL": f"sqlite://{server.directory}/trueup.db",
                "PEERS_CONFIG": str(server.directory / "trueup.toml"),
            }
            status = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
            checks.check(server.process.poll() is None, "still runs after all that", "it has ended")
        except RuntimeError as error:
            checks.check(False, "starts", error)
        finally:
            code = server.stop()
        checks.check(code == 0, "ends with exit code 0 on SIGTERM", code)
        private = [*both, server.private["TRUEUP_API_TOKEN"], server.private["TRUEUP_ADMIN_TOKEN"]]
        checks.check(not any(text in server.log_text() for text in private), "its log holds no secret")
        if checks.finish() or status:
            status = status or 1
            print("the end of the server's log:", *server.log_text().splitlines()[-40:], sep="\n  | ", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
