"""As much of HTTP/1.1 as the proofs need, over asyncio: one request at a time on a connection that stays open."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 30.0


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body or b"null")


async def read_message(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes, bytes] | None:
    """A request or an answer: its first line, headers, body, and all of it as it came. None at the end of the stream."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ConnectionResetError("cut off within the head") from error
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers:
        raise ValueError("a Transfer-Encoding, which is not understood here")
    try:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("cut off within the body") from error
    return first, headers, body, head + body


class Client:
    """One connection; opened when it is needed, and anew when it was lost."""

    def __init__(self, port: int, token: str = "") -> None:
        self.port = port
        self.token = token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> None:
        """Connects, where it is not."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)

    async def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, patience: float = PATIENCE) -> Answer:
        """Sends a request and reads its answer. ConnectionError or TimeoutError where none came: nobody knows what became of it."""
        given = headers or {}
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}"]
        if body is not None and "Content-Type" not in given:
            lines.append("Content-Type: application/json")
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        lines += [f"{name}: {value}" for name, value in given.items()]
        message = ("\r\n".join(lines) + "\r\n\r\n").encode() + content
        try:
            async with asyncio.timeout(patience):
                await self.open()
                assert self._streams
                reader, writer = self._streams
                writer.write(message)
                await writer.drain()
                answer = await read_message(reader)
        except (OSError, TimeoutError):
            self.close()
            raise
        if answer is None:
            self.close()
            raise ConnectionResetError("the server hung up")
        first, told, content, _ = answer
        if told.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(first.split(" ")[1]), told, content)

    def close(self) -> None:
        """Hangs up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
