"""What the checks in this folder share: counting, HTTP without any library's opinions, waiting for a condition."""

import http.client
import json
import os
import time
import urllib.parse


class Checks:
    """Prints one line per check; `finish` adds the counts to the tally of tests/peers/run."""

    def __init__(self, name):
        self.name, self.done, self.failed = name, 0, 0

    def check(self, ok, text, detail=""):
        self.done += 1
        if not ok:
            self.failed += 1
        print(f"{'ok  ' if ok else 'FAIL'} {self.name}: {text}{'' if ok or not detail else f': {detail}'}", flush=True)
        return ok

    def finish(self):
        with open(os.environ["PEERS_TALLY"], "a", encoding="utf-8") as tally:
            tally.write(f"{self.done} {self.failed}\n")
        return 1 if self.failed or not self.done else 0


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __str__(self):
        return f"{self.status} {self.body[:300]!r}"


def request(url, method, path, headers=None, body=None, timeout=30):
    """One request with exactly these headers; a body that is not bytes is sent as JSON."""
    headers = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=timeout)
    try:
        connection.putrequest(method, path)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None or method in ("POST", "PUT"):
            connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders(body or None)
        reply = connection.getresponse()
        return Reply(reply.status, reply.headers, reply.read())
    finally:
        connection.close()


def eventually(read, seconds=60):
    """Calls `read` until it gives (True, …) or the time is up; returns what it gave last."""
    deadline = time.monotonic() + seconds
    while True:
        answer = read()
        if answer[0] or time.monotonic() > deadline:
            return answer
        time.sleep(0.05)  # how often to look, not how long to wait


class Trueup:
    """The server that with_server.py started."""

    def __init__(self):
        self.url = os.environ["PEERS_URL"]
        self.secrets = os.environ["PEERS_SECRETS"].split(",")
        self.api = {"Authorization": f"Bearer {os.environ['PEERS_API_TOKEN']}"}
        self.admin = {"Authorization": f"Bearer {os.environ['PEERS_ADMIN_TOKEN']}"}

    def put_user(self, user_id, email):
        return request(self.url, "PUT", f"/api/v1/users/{user_id}", self.api, {"email": email})

    def user(self, user_id):
        return request(self.url, "GET", f"/api/v1/users/{user_id}", self.api)

    def inbox(self):
        """All webhooks, as {event id: webhook}."""
        items, cursor = {}, None
        while True:
            query = "limit=100" + (f"&cursor={urllib.parse.quote(cursor, safe='')}" if cursor else "")
            reply = request(self.url, "GET", f"/api/v1/admin/webhooks?{query}", self.admin)
            if reply.status != 200:
                raise RuntimeError(f"GET webhooks: {reply}")
            page = reply.json()
            items.update((item["event_id"], item) for item in page["items"])
            cursor = page["next_cursor"]
            if not cursor:
                return items
