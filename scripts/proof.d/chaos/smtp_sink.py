"""A mail server that takes everything and counts it by `Message-ID`."""

from __future__ import annotations

import asyncio
from collections import Counter
from email.parser import BytesParser


class MailSink:
    """Listens on a port of its own."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.port = 0
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
        def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")

        try:
            say("220 sink ESMTP")
            while line := await reader.readline():
                word = line.split(b" ")[0].strip().upper()
                if word == b"DATA":
                    say("354 go on")
                    letter = await reader.readuntil(b"\r\n.\r\n")
                    self.taken[str(BytesParser().parsebytes(letter, headersonly=True)["Message-ID"])] += 1
                    say("250 taken")
                elif word == b"QUIT":
                    say("221 bye")
                    break
                elif word == b"EHLO":
                    say("250-sink")
                    say("250 8BITMIME")
                else:
                    say("250 well")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
