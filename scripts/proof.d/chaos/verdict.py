"""What a proof measured, and what it found wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import servers


class Verdict:
    """Figures of one part of a proof, and its mistakes."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.figures: list[tuple[str, str]] = []
        self.wrong: list[str] = []

    def tell(self, what: str, figure: object) -> None:
        """A figure for people."""
        self.figures.append((what, str(figure)))

    def must(self, holds: bool, otherwise: str) -> None:
        """What has to hold."""
        if not holds:
            self.wrong.append(otherwise)

    def equal(self, what: str, wanted: object, found: object) -> None:
        """What has to be equal."""
        self.must(wanted == found, f"{what}: {wanted} expected, {found} found")

    def none(self, what: str, found: list[object] | list[str] | set[str]) -> None:
        """What must not be there; the first few are shown."""
        shown = ", ".join(str(one) for one in list(found)[:5])
        self.must(not found, f"{what}: {len(found)}, among them {shown}")

    def print(self) -> bool:
        """Shows it; true where nothing is wrong."""
        print(f"\n{self.title}")
        for what, figure in self.figures:
            print(f"  {what:<46} {figure}")
        for wrong in self.wrong:
            print(f"  WRONG: {wrong}")
        sys.stdout.flush()
        return not self.wrong


def complain(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A folder that is gone in the end."""
    with tempfile.TemporaryDirectory(prefix="trueup-proof.", dir=os.environ.get("TMPDIR")) as folder:
        yield Path(folder)


Part = Callable[[], Awaitable[Verdict]]


def prove(claim: str, parts: list[Part]) -> int:
    """Runs the parts one after the other; the exit code."""

    async def one(part: Part) -> bool:
        try:
            verdict = await part()
        except Exception:  # whatever it was, the other parts are still worth their while
            traceback.print_exc()
            return False
        finally:
            servers.end_all()
        return verdict.print()

    held = [asyncio.run(one(part)) for part in parts]
    print(f"\nVerdict: {claim if all(held) else 'FAILED'}")
    return 0 if all(held) else 1
