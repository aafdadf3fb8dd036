"""Every case of cases.json: the verdict of Stripe's own library for Python beside that of the running server."""

import hashlib
import hmac
import json
import pathlib
import re
import sys
import time

import stripe

from peer import Checks, Trueup, request

LIBRARY = "stripe-python"
HERE = pathlib.Path(__file__).parent


def sign(secret, t, body):
    """The library's own signature; it signs text only, so what is none is signed by hand."""
    try:
        return stripe.WebhookSignature._compute_signature(f"{t}.{body.decode()}", secret)
    except UnicodeDecodeError:
        return hmac.new(secret.encode(), f"{t}.".encode() + body, hashlib.sha256).hexdigest()


def library_verdict(body, header, secrets):
    """What construct_event does with the current or the old secret; which step refuses is asked of verify_header."""
    verdict = "bad-signature"
    for secret in secrets:
        try:
            stripe.Webhook.construct_event(body, header, secret)
            return "accepted"
        except Exception:
            pass
        try:
            stripe.WebhookSignature.verify_header(body, header, secret, stripe.Webhook.DEFAULT_TOLERANCE)
            verdict = "bad-event"
        except Exception:
            pass
    return verdict


def server_verdict(reply, event_id):
    """The verdict, or a description of an answer that is none."""
    kind = reply.headers.get("Content-Type", "")
    try:
        answer = reply.json()
        if reply.status == 200:
            if answer["received"] is True and answer["event_id"] == event_id and answer["outcome"] in ("recorded", "skipped"):
                return "accepted"
        elif reply.status == 400 and kind.startswith("application/problem+json"):
            reason = re.search(r"[a-z0-9-]+$", answer["type"])[0]
            if reason in ("signature-missing", "signature-malformed", "signature-no-v1", "signature-mismatch",
                          "signature-expired", "signature-future"):
                return "bad-signature"
            if reason == "not-an-event":
                return "bad-event"
    except (ValueError, KeyError, TypeError):
        pass
    return f"unexpected: {reply} ({kind})"


class Builder:
    def __init__(self, table, secrets):
        self.bodies, (self.current, self.old) = table["bodies"], secrets

    def body(self, text, case, event_id, now):
        if text.startswith("@"):
            text = self.bodies[text[1:]]
        return text.replace("ID", event_id).replace("TIME", str(now)).encode(case.get("encoding", "utf-8"))

    def build(self, case, event_id):
        """(the body that is sent, the header or None)"""
        now = int(time.time())
        t = case.get("at", now - case.get("age", 0))
        body = self.body(case.get("body", "@event"), case, event_id, now)
        sent = self.body(case["sent"], case, event_id, now) if "sent" in case else body
        if "header" not in case:
            return sent, None
        signed_t = case.get("signed_t", "{t}").replace("{t}", str(t))
        sig = sign(self.current, signed_t, body)
        values = {
            "t": str(t), "t_earlier": str(t - 60), "t_underscore": f"{str(t)[0]}_{str(t)[1:]}",
            "sig": sig, "SIG": sig.upper(), "sig_cut": sig[:-2], "zeros": "0" * 64,
            "sig_old": sign(self.old, signed_t, body), "sig_stranger": sign("whsec_somebody_else", signed_t, body),
            "sig_newline": sign(self.current + "\n", signed_t, body), "sig_empty": sign("", signed_t, body),
        }
        if "{made}" in case["header"]:
            values["made"] = stripe.WebhookSignature.generate_signature_header(body.decode(), self.current, t)
        return sent, re.sub(r"\{(\w+)\}", lambda match: values[match[1]], case["header"])


def send(server, body, header):
    headers = {"Content-Type": "application/json; charset=utf-8"}
    if header is not None:
        headers["Stripe-Signature"] = header
    return request(server.url, "POST", "/api/v1/stripe/webhook", headers, body)


def main():
    checks, server = Checks(LIBRARY), Trueup()
    table = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))
    listed = json.loads((HERE / "differences.json").read_text(encoding="utf-8"))[LIBRARY]
    names = [case["case"] for case in table["cases"]]
    checks.check(len(set(names)) == len(names) and set(listed) <= set(names), "the listed differences are of known cases",
                 sorted(set(listed) - set(names)))
    builder, accepted = Builder(table, server.secrets), set()
    for number, case in enumerate(table["cases"]):
        event_id = f"evt_python_{number}"
        body, header = builder.build(case, event_id)
        theirs = library_verdict(body, header, server.secrets)
        ours = server_verdict(send(server, body, header), event_id)
        if ours == "accepted":
            accepted.add(event_id)
        expected = listed.get(case["case"])
        if expected:
            ok = theirs != ours and (theirs, ours) == (expected["theirs"], expected["ours"])
            text = f"{theirs} there, {ours} here, because {expected['why']}"
        else:
            ok, text = theirs == ours, f"{theirs} by both" if theirs == ours else f"{theirs} there, {ours} here"
        wanted = f"listed are {expected['theirs']} there, {expected['ours']} here" if expected else "no difference is listed"
        checks.check(ok, f"{case['case']}: {text}", wanted)

    # Stripe signs every attempt anew; the event stays the same.
    body, _ = builder.build({"header": ""}, "evt_python_twice")
    for age, outcome in ((60, "recorded"), (0, "duplicate")):
        header = stripe.WebhookSignature.generate_signature_header(body.decode(), server.secrets[0], int(time.time()) - age)
        reply = send(server, body, header)
        checks.check(reply.status == 200 and reply.json()["outcome"] == outcome, f"an event sent twice: {outcome}", reply)
    inbox = set(server.inbox())
    accepted.add("evt_python_twice")
    checks.check(inbox == accepted, "the inbox holds what was accepted and nothing else", sorted(inbox ^ accepted))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
