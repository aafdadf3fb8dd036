"""Real processes: `trueup serve`, killed and started again on the same address, and `trueup simulate` beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from http11 import Client

START = 90.0

# Whatever still runs when the proof ends, however it ends.
_running: set[subprocess.Popen[bytes]] = set()


def end_all() -> None:
    """Kills whatever this program has started and not stopped."""
    for process in list(_running):
        process.kill()
        process.wait()
    _running.clear()


def free_port() -> int:
    """A port that nobody listens on, below those that the kernel gives to outgoing connections: it stays free while its server is down."""
    while True:
        port = random.randint(20000, 31999)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Setting:
    """What every process of one world is given."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.binary = os.environ["TRUEUP_BIN"]
        self.api_token = f"api_{secrets.token_hex(16)}"
        self.admin_token = f"admin_{secrets.token_hex(16)}"
        self.webhook_secret = f"whsec_{secrets.token_hex(16)}"
        self.environment = {
            "DATABASE_URL": database_url,
            "STRIPE_WEBHOOK_SECRET": self.webhook_secret,
            "STRIPE_LIVEMODE": "false",
            "TRUEUP_API_TOKEN": self.api_token,
            "TRUEUP_ADMIN_TOKEN": self.admin_token,
        }
        for name in ("TMPDIR", "RUST_BACKTRACE"):
            if name in os.environ:
                self.environment[name] = os.environ[name]

    def configure(self, text: str) -> None:
        """The configuration's file, which the servers find in their folder."""
        (self.folder / "trueup.toml").write_text(text)


class Trueup:
    """One server process, over all its lives."""

    def __init__(self, setting: Setting, name: str = "server") -> None:
        self.setting = setting
        self.port = free_port()
        self.log = setting.folder / f"{name}.log"
        self.out = setting.folder / f"{name}.out"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> float:
        """Starts it, waits until it serves, and gives the seconds that took."""
        begun = time.monotonic()
        environment = {**self.setting.environment, "TRUEUP_LISTEN": f"127.0.0.1:{self.port}"}
        with self.log.open("ab") as log, self.out.open("wb") as out:
            self.process = subprocess.Popen([self.setting.binary, "serve"], cwd=self.setting.folder, env=environment, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=log, restore_signals=False)
        _running.add(self.process)
        while b" listens on " not in self.out.read_bytes():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() - begun > START:
                raise RuntimeError(f"the server did not start within {START:.0f} s:\n{self.tail()}")
            await asyncio.sleep(0.01)
        return time.monotonic() - begun

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        assert self.process
        self.process.kill()
        self._gone()

    def _gone(self) -> int:
        assert self.process
        code = self.process.wait()
        _running.discard(self.process)
        self.process = None
        return code

    async def stop(self, within: float = 15.0) -> tuple[int | None, float]:
        """SIGTERM; its exit code, none where it had to be killed, and the seconds it took."""
        assert self.process
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        while self.process.poll() is None:
            if time.monotonic() - begun > within:
                self.kill()
                return None, time.monotonic() - begun
            await asyncio.sleep(0.01)
        return self._gone(), time.monotonic() - begun

    def lines(self) -> int:
        """How many lines it has logged."""
        with self.log.open("rb") as log:
            return sum(1 for _ in log)

    def tail(self, lines: int = 25) -> str:
        """The end of what it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def troubles(self) -> str:
        """What it complained of, each once, with how often and when last."""
        seen: dict[tuple[str, str, str], tuple[int, str]] = {}
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                if told["level"] in ("WARN", "ERROR"):
                    key = told["level"], told["message"], str(told.get("error", ""))
                    seen[key] = seen.get(key, (0, ""))[0] + 1, told["timestamp"]
        return "\n".join(f"{count} x, last {at}: {' '.join(key)}" for key, (count, at) in seen.items())

    def host(self) -> Client:
        """A client with the host's token."""
        return Client(self.port, self.setting.api_token)

    def nobody(self) -> Client:
        """A client without a token."""
        return Client(self.port)


def spawn(command: list[str], **how: object) -> subprocess.Popen[bytes]:
    """Another process that ends with the proof."""
    process = subprocess.Popen(command, **how)  # type: ignore[call-overload]
    _running.add(process)
    return process


def forget(process: subprocess.Popen[bytes]) -> None:
    """It has ended by itself."""
    _running.discard(process)
