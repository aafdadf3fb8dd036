"""The world of scripts/proof.d/prometheus, and what Prometheus must know of it. Only the standard library."""

import contextlib
import hashlib
import hmac
import http.client
import http.server
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(sys.argv[1])
SECRET, API_TOKEN, ADMIN_TOKEN, KEY = "whsec_proof", "api-token-of-the-proof", "admin-token-of-the-proof", "sk_test_simulated"
WEBHOOK = "/api/v1/stripe/webhook"
# Everything of a dashboard that is a variable.
VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$namespace": ".*", "$job": "trueup", "$instance": ".*"}

# What fires in this world, and why.
EXPECTED_ALERTS = {"TrueupEventsOfOtherMode": "a live event is delivered"}
# Alerts that may or may not, with the reason.
POSSIBLE_ALERTS = {
    "TrueupDriftFound": "whoever subscribes between a page and its comparison, or is not delivered yet, is drift for a moment",
    "TrueupWebhooksMissed": "an event that is on its way while the list is fetched counts as recovered",
    "TrueupEventsFailing": "an event of a moment that cannot be applied is tried again",
    "TrueupEventLagHigh": "the simulated past is sent when it is over",
    "TrueupWebhookBudgetBurn": "two servers, a database, Prometheus and the simulator share this machine",
}
# Queries that may be empty, or have no figure, by the panel's title or the rule's name.
MAY_BE_EMPTY = {
    "Alerts": "it may be that nothing fires yet",
    "Leases": "a lease is held for milliseconds at a time",
    "Answers 5xx": "nothing fails",
    "Findings about the endpoint": "the endpoint is well",
    "Time of a run": "NaN for the job that is switched off",
    "Time of a call": "NaN for what is not called",
    "trueup:job_last_failure:timestamp_seconds": "no job fails",
    "Waiting for the budget": "NaN while nothing waits in a lane",
    "since its last success": "the job that is switched off never succeeded",
}


def fail(text):
    sys.exit(f"proof prometheus: {text}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url, data=None, headers=None, method=None):
    """The status and the body."""
    request = urllib.request.Request(url, data=data, headers=headers or {}, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return 0, b""


def until(what, condition, within=90):
    """Waits for a condition, which gives something true."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            fail(f"not within {within} s: {what}")
        time.sleep(0.2)


class Processes:
    """What was started here, and its output."""

    def __init__(self, folder):
        self.folder, self.running = folder, {}

    def start(self, name, command, **options):
        log = open(self.folder / f"{name}.log", "ab")
        self.running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options)
        log.close()

    def check(self):
        for name, process in self.running.items():
            if process.poll() is not None:
                fail(f"{name} ended with {process.returncode}:\n{self.tail(name)}")

    def tail(self, name):
        return "\n".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-15:])

    def end(self):
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


class Stripe(http.server.BaseHTTPRequestHandler):
    """Stands before the simulated Stripe, which has neither endpoints nor an account, and answers for these."""

    behind, ours = "", {}

    def do_GET(self):
        path = self.path.split("?")[0]
        if path in self.ours:
            status, body = 200, json.dumps(self.ours[path]).encode()
        else:
            keep = ("Authorization", "Stripe-Version")
            status, body = fetch(self.behind + self.path, headers={name: self.headers[name] for name in keep if self.headers[name]})
            status = status or 502
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def deliver(url, event, secret=SECRET, at=None):
    body, at = json.dumps(event).encode(), int(time.time()) if at is None else at
    signature = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return fetch(url + WEBHOOK, body, {"Stripe-Signature": f"t={at},v1={signature}", "Content-Type": "application/json"}, "POST")[0]


def event(kind, thing, livemode=False):
    return {"id": f"evt_{uuid.uuid4().hex[:20]}", "object": "event", "type": kind, "created": int(time.time()), "livemode": livemode,
            "api_version": "2026-10-28.endive", "data": {"object": thing}}


def call(url, method, path, body=None, token=API_TOKEN):
    data = None if body is None else json.dumps(body).encode()
    return fetch(url + path, data, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}, method)


def world(folder, processes):
    """Starts everything but Prometheus; the servers' addresses."""
    trueup, database = os.environ["TRUEUP_BIN"], os.environ["TRUEUP_TEST_POSTGRES"]
    simulated, ports = free_port(), [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    Stripe.behind = f"http://127.0.0.1:{simulated}"
    Stripe.ours = {
        "/v1/account": {"id": "acct_proof", "object": "account"},
        "/v1/webhook_endpoints": {"object": "list", "has_more": False, "url": "/v1/webhook_endpoints", "data": [
            {"id": "we_proof", "object": "webhook_endpoint", "url": "https://billing.example.com" + WEBHOOK, "status": "enabled", "livemode": False,
             "api_version": "2026-10-28.endive", "enabled_events": ["*"], "created": int(time.time()), "application": None}]},
    }
    front = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stripe)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    settings = folder / "trueup.toml"
    every = {"retry_pending_webhooks": 4, "expire_entitlements": 4, "reset_monthly_usage": 4, "recover_missed_events": 5, "check_webhook_endpoint": 6,
             "reconcile_subscriptions": 15, "prune_webhooks": 10}
    settings.write_text("".join(f'[jobs.{job}]\nschedule = "*/{seconds} * * * * *"\njitter = "0s"\n' for job, seconds in every.items())
                        + "[jobs.send_emails]\nenabled = false\n")
    environment = {
        "PATH": os.environ["PATH"], "DATABASE_URL": database, "TRUEUP_CONFIG": str(settings), "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_SECRET_KEY": KEY, "STRIPE_API_BASE": f"http://127.0.0.1:{front.server_port}", "STRIPE_LIVEMODE": "false",
        "TRUEUP_API_TOKEN": API_TOKEN, "TRUEUP_ADMIN_TOKEN": ADMIN_TOKEN, "TRUEUP_PUBLIC_URL": "https://billing.example.com",
        "TRUEUP_LOG": "warn", "TRUEUP_LOG_FORMAT": "text",
    }
    for name, url in zip("ab", urls):
        processes.start(f"server-{name}", [trueup, "serve"], cwd=folder, env={**environment, "TRUEUP_LISTEN": url.removeprefix("http://")})
        until(f"server {name} is ready", lambda url=url: processes.check() or fetch(url + "/readyz")[0] == 200)
    processes.start("simulator", [trueup, "simulate", "--against", urls[0], "--api-listen", f"127.0.0.1:{simulated}", "--customers", "30", "--days", "30",
                                  "--duplicate", "10%", "--reorder", "10%", "--seed", "4", "--no-repair", "--keep-running"], cwd=folder, env=environment)
    return urls


def trouble(urls, users):
    """What the simulated customers do not do themselves: uses, forgeries, strangers."""
    # Somebody new each time, so that some uses are counted and others are over the limit.
    for number, user in enumerate([*users, str(uuid.uuid4())]):
        call(urls[number % 2], "PUT", f"/api/v1/users/{user}", {"email": f"{user}@example.com"})
        for _ in range(4):
            call(urls[number % 2], "POST", f"/api/v1/users/{user}/usage", {"amount": 2})
        call(urls[number % 2], "POST", f"/api/v1/users/{user}/refresh")
    deliver(urls[0], event("customer.created", {"id": "cus_forged", "object": "customer"}), secret="whsec_wrong")
    deliver(urls[1], event("customer.created", {"id": "cus_old", "object": "customer"}), at=int(time.time()) - 900)
    deliver(urls[1], event("customer.created", {"id": "cus_live", "object": "customer"}, livemode=True))
    deliver(urls[0], event("tax.settings.updated", {"object": "tax.settings"}))
    fetch(urls[0] + WEBHOOK, b"{}", {"Content-Type": "application/json"}, "POST")


def start_prometheus(folder, processes, urls):
    """Prometheus with our own configuration, but for its pace and for where the servers are."""
    shutil.copytree(ROOT / "deploy/prometheus", folder / "prometheus")
    file = folder / "prometheus/prometheus.yml"
    text = file.read_text()
    changed = text.replace(": 15s", ": 1s").replace("['trueup:8000']", json.dumps([url.removeprefix("http://") for url in urls]))
    assert changed.count(": 1s") == 2 and "127.0.0.1" in changed, "prometheus.yml is not what it was"
    file.write_text(changed)
    port = free_port()
    processes.start("prometheus", [os.environ["PROMETHEUS_BIN"], f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
                                   f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"], cwd=folder)
    return f"http://127.0.0.1:{port}"


class Prometheus:
    def __init__(self, url):
        self.url = url

    def ask(self, path, **parameters):
        body = urllib.parse.urlencode(parameters, doseq=True).encode() if parameters else None
        status, answer = fetch(f"{self.url}/api/v1/{path}", body)
        # It answers 503, in plain words, while it starts.
        if not status or status == 503:
            return None
        answer = json.loads(answer)
        if answer["status"] != "success":
            fail(f"{path} {parameters}: {answer.get('error')}")
        return answer["data"]

    def now(self, query):
        """Every series of the moment: its labels and its figure."""
        found = self.ask("query", query=query)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def over(self, query, start, end):
        """Every series over the time: its labels and its figures."""
        found = self.ask("query_range", query=query, start=start, end=end, step=5)["result"]
        return [(one["metric"], [float(value) for _, value in one["values"]]) for one in found]


def substituted(text):
    for variable, value in VARIABLES.items():
        text = text.replace(variable, value)
    assert "$" not in text, f"a variable is left: {text}"
    return text


def columns(panel):
    """What each query of a table is called."""
    for one in panel.get("transformations", []):
        if one["id"] == "organize":
            return {key.removeprefix("Value #"): name for key, name in one["options"]["renameByName"].items()}
    return {}


def told(series):
    """In few words what a query returned."""
    figures = [figure for _, figure in series if not math.isnan(figure)]
    if not series:
        return "nothing"
    if not figures:
        return f"{len(series)} series, no figure"
    return f"{len(series)} series, {min(figures):g}" + (f" to {max(figures):g}" if len(figures) > 1 else "")


class Verdict:
    def __init__(self):
        self.mistakes, self.empty = [], set()

    def say(self, place, query, series, *, needed, over=None):
        good = any(not math.isnan(figure) for _, figure in series) or bool(over)
        mark = "ok" if good else "empty" if not needed else "EMPTY"
        print(f"  {mark:5} {place}: {told(series)}")
        if not good:
            self.empty.add(place)
            if needed:
                self.mistakes.append(f"{place}: nothing for {query}")


def check_panels(prometheus, verdict, start, end):
    titles = set()
    for file in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        print(f"\n{dashboard['title']}")
        for variable in dashboard["templating"]["list"]:
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable.get("definition", ""))
            if asked:
                values = prometheus.ask(f"label/{asked[2]}/values?" + urllib.parse.urlencode({"match[]": substituted(asked[1])}))
                print(f"  ok    variable {asked[2]}: {', '.join(values) or 'nothing'}")
                if not values and asked[2] != "namespace":
                    verdict.mistakes.append(f"variable {asked[2]} has no values")
        targets = [(annotation["name"], "annotation", annotation["expr"], False) for annotation in dashboard["annotations"]["list"]]
        for panel in dashboard["panels"]:
            names = columns(panel)
            for target in panel.get("targets", []):
                titles.add(panel["title"])
                part = names.get(target["refId"]) or (target["refId"] if len(panel["targets"]) > 1 else "")
                titles.add(part)
                targets.append((panel["title"], part, target["expr"], target.get("instant", False)))
        for title, part, expr, instant in targets:
            query = substituted(expr)
            over = None
            if not instant:
                over = [figure for _, figures in prometheus.over(query, start, end) for figure in figures if not math.isnan(figure)]
            series = prometheus.now(query)
            needed = title not in MAY_BE_EMPTY and part not in MAY_BE_EMPTY
            verdict.say(f"{title}{f' ({part})' if part else ''}", query, series, needed=needed, over=over)
    return titles


def selections(expr):
    """The series that a query looks at, each as a query of its own."""
    plain = re.sub(r"\b(?:by|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expr)
    return sorted(set(re.findall(r'\b(?:trueup[a-z0-9_:]+|process_[a-z_]+|up)\b(?:\{[^}]*\})?', plain)))


def check_rules(prometheus, verdict):
    names, data = set(), prometheus.ask("rules")
    print("\nRules")
    for group in data["groups"]:
        for rule in group["rules"]:
            name = rule["name"]
            names.add(name)
            if rule["health"] != "ok" or rule.get("lastError"):
                verdict.mistakes.append(f"rule {name}: {rule['health']} {rule.get('lastError', '')}")
            needed = name not in MAY_BE_EMPTY
            if rule["type"] == "recording":
                verdict.say(name, name, prometheus.now(name), needed=needed)
                continue
            series = prometheus.now(rule["query"])
            print(f"  ok    {name}: {rule['state']}, {told(series)}")
            for selection in selections(rule["query"]):
                found = prometheus.now(selection)
                place = selection.split("{")[0]
                if not found and place not in MAY_BE_EMPTY:
                    verdict.mistakes.append(f"{name}: it looks at {selection}, which is not there")
                    print(f"  EMPTY {name}: {selection}")
    return names


def check_labels(prometheus, verdict):
    renamed = [label for label in prometheus.ask("labels") if label.startswith("exported_")]
    if renamed:
        verdict.mistakes.append(f"labels that are Prometheus's own: {renamed}")
    print(f"\nLabels\n  ok    {', '.join(prometheus.ask('labels'))}")


def firing(prometheus):
    return {labels["alertname"] for labels, _ in prometheus.now('ALERTS{alertstate="firing"}')}


def check_copies(prometheus, verdict):
    """Of what comes from the one database both servers tell the same, once nothing moves it."""
    for family in ("trueup_inbox_events", "trueup_users", "trueup_subscriptions", "trueup_job_paused", "trueup_subscriptions_unmapped_price"):
        apart = f"count(count by (instance) ({family})) == 2 and max(max without (instance) ({family}) - min without (instance) ({family})) <= 3"
        if not prometheus.now(apart):
            verdict.mistakes.append(f"{family}: the servers tell different things: {prometheus.now(family)}")


def main():
    folder = Path(tempfile.mkdtemp(prefix="trueup-proof."))
    processes = Processes(folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    verdict = Verdict()
    try:
        urls = world(folder, processes)
        prometheus = Prometheus(start_prometheus(folder, processes, urls))
        until("Prometheus answers", lambda: processes.check() or prometheus.ask("rules"))
        begun = time.time()
        users = [str(uuid.uuid4()) for _ in range(6)]
        trouble(urls, users)
        until("both servers are scraped", lambda: len(prometheus.now('up{job="trueup"} == 1')) == 2)
        until("the simulated past is over", lambda: processes.check() or "lives on" in (folder / "simulator.log").read_text(errors="replace"), 150)
        runs = 'sum by (job_name) (trueup_job_runs_total{outcome="succeeded"}) > 0'
        until("every job has succeeded", lambda: processes.check() or len(prometheus.now(runs)) >= 7)
        while time.time() - begun < SECONDS:
            processes.check()
            trouble(urls, users)
            time.sleep(5)
        trouble(urls, users)
        end = time.time()
        series = prometheus.now('count({job="trueup"})')[0][1]
        print(f"{len(prometheus.ask('label/__name__/values'))} names, {series:g} series of two servers")
        known = check_panels(prometheus, verdict, begun + 5, end)
        known |= check_rules(prometheus, verdict)
        check_labels(prometheus, verdict)
        check_copies(prometheus, verdict)
        for name in MAY_BE_EMPTY.keys() - known:
            verdict.mistakes.append(f"MAY_BE_EMPTY: there is no {name}")
        print("\nMay be empty, and is\n" + "\n".join(f"  {place}: {next(MAY_BE_EMPTY[name] for name in MAY_BE_EMPTY if name in place)}"
                                                     for place in sorted(verdict.empty) if any(name in place for name in MAY_BE_EMPTY)))
        now = firing(prometheus)
        print(f"\nAlerts that fire\n  {', '.join(sorted(now)) or 'none'}")
        for name in now - EXPECTED_ALERTS.keys() - POSSIBLE_ALERTS.keys():
            verdict.mistakes.append(f"{name} fires, and nothing here is reason for it")
        for name in EXPECTED_ALERTS.keys() - now:
            verdict.mistakes.append(f"{name} does not fire, though {EXPECTED_ALERTS[name]}")
    finally:
        processes.end()
        if verdict.mistakes or sys.exc_info()[0]:
            for name in processes.running:
                print(f"--- {name}\n{processes.tail(name)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
    if verdict.mistakes:
        fail("\n  ".join(["it does not hold", *verdict.mistakes]))
    print("\nEvery query of every panel and rule was answered, with figures where there must be some.")


main()
