"""The nearest library of others in the same place: `@supabase/stripe-sync-engine` behind a minimal HTTP server of Node.js."""

import pathlib
import shutil
import subprocess

from lab import SECRET, Server, say

HERE = pathlib.Path(__file__).parent / "peer"


def install(folder):
    """Into a folder of this run, in the exact versions of the lock file."""
    for name in ("package.json", "package-lock.json", "server.mjs"):
        shutil.copy(HERE / name, folder / name)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def measure(lab, folder):
    """The same events, signed with the same secret, to the same PostgreSQL. It applies each before it answers: both rates are one."""
    lab.postgres.sql("DROP SCHEMA IF EXISTS stripe CASCADE")
    env = {"PORT": "{port}", "DATABASE_URL": lab.postgres.url, "STRIPE_WEBHOOK_SECRET": SECRET}
    with Server(lab, ["node", "server.mjs"], env, "/ready", folder) as server:
        for connections in (64, 256):
            report = lab.send(server.url, f"peer{connections}", connections, path="/webhook")
        lab.figures.add("peer-peak", server.mebibytes("VmHWM"))
    rows = int(lab.postgres.sql("SELECT count(*) FROM stripe.subscriptions"))
    say(f"    {rows} subscriptions in its table after {report['acknowledged']} events of the last run")
