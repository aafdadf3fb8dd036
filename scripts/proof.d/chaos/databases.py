"""The two databases as the proofs look at them: from outside, beside the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Sqlite:
    """A file. Nothing stays open between two looks, so that a server that starts again finds what its killed predecessor left."""

    kind = "SQLite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite://{path}"

    def rows(self, sql: str) -> list[Row]:
        """What a statement answers, while a server has the file open."""
        return self._ask(self.path, sql)

    def rows_of_the_dead(self, sql: str) -> list[Row]:
        """The same while no server runs, of a copy: whoever opens the file itself would recover and tidy it."""
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            for suffix in ("", "-wal"):
                source = Path(f"{self.path}{suffix}")
                if source.exists():
                    shutil.copy(source, Path(folder) / f"copy.db{suffix}")
            return self._ask(Path(folder) / "copy.db", sql)

    @staticmethod
    def _ask(path: Path, sql: str) -> list[Row]:
        with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql)]

    def uuid(self, column: str) -> str:
        """A column of UUIDs as 32 hexadecimal digits."""
        return f"lower(hex({column}))"

    def text(self, column: str) -> str:
        """A column of JSON or moments, as text that is equal where the values are."""
        return column

    def mistakes(self) -> list[str]:
        """What the database finds wrong with itself."""
        found = [row["integrity_check"] for row in self.rows("PRAGMA integrity_check") if row["integrity_check"] != "ok"]
        return found + [f"foreign key: {row}" for row in self.rows("PRAGMA foreign_key_check")]

    def close(self) -> None:
        """Nothing is open."""


class Postgres:
    """A database of its own on the throwaway server that the script has started."""

    kind = "PostgreSQL"

    def __init__(self, name: str, tablespace: str = "") -> None:
        admin = os.environ["TRUEUP_TEST_POSTGRES"]
        self.server = PostgresServer()
        self._psql: subprocess.Popen[str] | None = None
        self.name = name
        self.url = f"{admin.rsplit('/', 1)[0]}/{name}"
        space = f" TABLESPACE {tablespace}" if tablespace else ""
        self.admin(f"CREATE DATABASE {name}{space}")

    def admin(self, sql: str) -> None:
        """Runs a statement in the server's own database."""
        command = [self.server.program("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-c", sql, os.environ["TRUEUP_TEST_POSTGRES"]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def rows(self, sql: str) -> list[Row]:
        """What a statement answers."""
        last = BrokenPipeError("psql")
        for _ in range(2):
            try:
                return self._ask(sql)
            except (BrokenPipeError, EOFError) as error:
                # The server was restarted since.
                last = error
                self.close()
        raise last

    rows_of_the_dead = rows

    def _ask(self, sql: str) -> list[Row]:
        if self._psql is None:
            command = [self.server.program("psql"), "-XqAt", "-d", self.url]
            self._psql = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._psql.stdin and self._psql.stdout
        self._psql.stdin.write(f"SELECT COALESCE(json_agg(t), '[]')::jsonb FROM ({sql}) AS t;\n")
        self._psql.stdin.flush()
        line = self._psql.stdout.readline()
        if not line:
            raise EOFError(self._psql.stderr.read() if self._psql.stderr else "")
        return json.loads(line)

    def uuid(self, column: str) -> str:
        """A column of UUIDs as 32 hexadecimal digits."""
        return f"replace({column}::text, '-', '')"

    def text(self, column: str) -> str:
        """A column of JSON or moments, as text that is equal where the values are."""
        return f"{column}::text"

    def mistakes(self) -> list[str]:
        """What a look at every row and every index finds wrong."""
        # Each row is read whole, and each index compared with its table.
        have = self.rows("SELECT 1 AS there FROM pg_available_extensions WHERE name = 'amcheck'")
        found = []
        for row in self.rows("SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
                             "WHERE relkind = 'r' AND nspname = 'public'"):
            self.rows(f"SELECT count(t::text) AS read FROM {row['name']} AS t")
        if have:
            psql = [self.server.program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.url]
            sql = ("CREATE EXTENSION IF NOT EXISTS amcheck; SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_namespace n "
                   "ON n.oid = relnamespace JOIN pg_am a ON a.oid = relam WHERE relkind = 'i' AND amname = 'btree' AND nspname = 'public'")
            checked = subprocess.run([*psql, "-c", sql], capture_output=True, text=True)
            if checked.returncode:
                found.append(checked.stderr.strip())
        return found

    def close(self) -> None:
        """Ends the client."""
        if self._psql is not None:
            self._psql.kill()
            self._psql.communicate()
            self._psql = None


Database = Sqlite | Postgres


class PostgresServer:
    """The throwaway server itself, which `scripts/lib/postgres.sh` has started and stops."""

    def __init__(self) -> None:
        self.bin = Path(os.environ["TRUEUP_POSTGRES_BIN"])
        self.folder = Path(os.environ["TRUEUP_POSTGRES_DIR"])
        self.user = os.environ.get("TRUEUP_POSTGRES_USER", "")

    def program(self, name: str) -> str:
        """One of PostgreSQL's own programs."""
        own = self.bin / name
        return str(own) if own.exists() else (shutil.which(name) or name)

    def as_user(self, command: list[str]) -> list[str]:
        """The command as the server's user."""
        if os.geteuid() or not self.user:
            return command
        group = subprocess.run(["id", "-g", self.user], check=True, capture_output=True, text=True).stdout.strip()
        return ["setpriv", f"--reuid={self.user}", f"--regid={group}", "--clear-groups", "--", *command]

    async def restart(self, mode: str) -> None:
        """Restarts the server: `fast` ends every session, `immediate` is a crash from which it recovers."""
        command = [self.program("pg_ctl"), "restart", "-w", "-t", "60", "-s", "-m", mode, "-D", str(self.folder / "data"), "-l",
                   str(self.folder / "log")]
        process = await asyncio.create_subprocess_exec(*self.as_user(command), cwd="/", stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        if await process.wait():
            raise RuntimeError("PostgreSQL did not come back; its log tells why")
