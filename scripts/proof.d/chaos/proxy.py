"""Stands between the simulated Stripe, the host and one or several servers, as a load balancer would, and writes down what was answered."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any

from http11 import read_message

WEBHOOK = "/api/v1/stripe/webhook"
GONE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Seen:
    """What went through."""

    # The event of each id that was answered 2xx.
    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)
    # 2xx, more than one for what was delivered twice.
    acknowledgements: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    # Requests of any kind under way when their server died.
    cut_off: int = 0
    # Webhooks that found no server.
    nobody: int = 0
    users: list[str] = field(default_factory=list)
    # True once the simulation compares: everything was delivered.
    delivered: bool = False


class Proxy:
    """Listens on a port of its own and hands each connection's requests to the servers in turn."""

    def __init__(self, upstreams: list[int]) -> None:
        self.upstreams = upstreams
        self.seen = Seen()
        self.in_flight = 0
        self.port = 0
        self._turn = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begins to listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 22)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Listens no more."""
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await read_message(reader)) is not None:
                first, _, body, message = request
                method, path, _ = first.split(" ", 2)
                if path.startswith("/api/v1/admin/webhooks/stats"):
                    self.seen.delivered = True
                self.in_flight += 1
                try:
                    # Another server for each request, as a round robin gives.
                    if upstream is None or len(self.upstreams) > 1:
                        if upstream:
                            upstream[1].close()
                        self._turn += 1
                        upstream = None
                        upstream = await asyncio.open_connection("127.0.0.1", self.upstreams[self._turn % len(self.upstreams)], limit=1 << 22)
                    upstream[1].write(message)
                    await upstream[1].drain()
                    answer = await read_message(upstream[0])
                    if answer is None:
                        raise ConnectionResetError("hung up")
                    status, content, told = int(answer[0].split(" ")[1]), answer[2], answer[3]
                except OSError as error:
                    if upstream:
                        upstream[1].close()
                        upstream = None
                    status, content, told = 502, b"", GONE
                    if isinstance(error, ConnectionRefusedError):
                        self.seen.nobody += path == WEBHOOK
                    else:
                        self.seen.cut_off += 1
                finally:
                    self.in_flight -= 1
                self._note(method, path, status, body, content)
                writer.write(told)
                await writer.drain()
        except OSError:
            pass
        finally:
            for one in (upstream[1] if upstream else None, writer):
                if one:
                    one.close()

    def _note(self, method: str, path: str, status: int, body: bytes, content: bytes) -> None:
        seen = self.seen
        if path != WEBHOOK:
            made = re.fullmatch(r"/api/v1/users/([0-9a-f-]{36})", path)
            if method == "PUT" and made and status in (200, 201):
                seen.users.append(made[1])
            return
        seen.statuses[status] = seen.statuses.get(status, 0) + 1
        if 200 <= status < 300:
            event = json.loads(body)
            seen.acknowledged[event["id"]] = event
            seen.acknowledgements += 1
