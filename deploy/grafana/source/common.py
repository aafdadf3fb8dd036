"""What the three dashboards share: what is selected, where links lead."""

from panels import (BLUE, GREEN, RED, dashboard, query, timeline, variable_datasource, variable_text, variable_values)

# What is measured by each process, and counted.
ONE = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
# What the rules have made of all replicas together.
ALL = 'namespace=~"$namespace", job=~"$job"'
WEBHOOK = "/api/v1/stripe/webhook"

YES_NO = [(1, "yes", GREEN), (0, "no", RED)]


def shared(metric, labels="", by=""):
    """A gauge that every replica reads from the one database: the same everywhere, so the highest, and never the sum."""
    selected = ", ".join(filter(None, [labels, ONE]))
    return f"max by ({by}) ({metric}{{{selected}}})" if by else f"max({metric}{{{selected}}})"


def rate(metric, labels="", by=""):
    selected = ", ".join(filter(None, [labels, ONE]))
    return f"sum by ({by}) (rate({metric}{{{selected}}}[$__rate_interval]))" if by else f"sum(rate({metric}{{{selected}}}[$__rate_interval]))"


def grown(metric, labels="", by="", over="$__range"):
    selected = ", ".join(filter(None, [labels, ONE]))
    inner = f"(increase({metric}{{{selected}}}[{over}]))"
    return f"sum by ({by}) {inner}" if by else f"sum{inner}"


def one(metric, labels=""):
    """The selection of a metric, for queries that say the rest themselves."""
    return f"{metric}{{{', '.join(filter(None, [labels, ONE]))}}}"


def runbook(alert):
    return {"title": f"Runbook: {alert}", "url": f"${{runbook}}#{alert.lower()}", "targetBlank": True}


def api(title, tag, operation):
    """A call of the HTTP interface, on the server's own page: it asks for the token there."""
    return {"title": title, "url": f"${{trueup}}/docs#/{tag}/{operation}", "targetBlank": True}


def alerts(pattern="Trueup.+", width=24, height=5):
    """What fires of these alerts. TrueupDown of a service that discovery lost has no job, so it shows in no dashboard of one."""
    return timeline(
        "Alerts",
        [query(f'max by (alertname, severity) (ALERTS{{alertstate="firing", alertname=~"{pattern}", {ALL}}})', "{{alertname}} ({{severity}})")],
        about="What fires, and since when. Nothing here is good.",
        width=width, height=height, words=[(1, "firing", RED)],
        links=[{"title": "Runbook", "url": "${runbook}", "targetBlank": True}])


def make(uid, title, about, content):
    return dashboard(
        uid, title, about, ["trueup"], content,
        variables=[
            variable_datasource(),
            # Only where there are namespaces, which is in Kubernetes; `.*` matches their absence too.
            variable_values("namespace", "Namespace", "trueup_build_info", "", everything=True),
            variable_values("job", "Job", "trueup_build_info", '{namespace=~"$namespace"}', everything=False),
            variable_values("instance", "Instance", "trueup_build_info", "{" + ALL + "}", everything=True),
            variable_text("runbook", "Runbook", "docs/runbook.md", "Where docs/runbook.md can be read; panels link to its entries."),
            variable_text("trueup", "Trueup", "http://127.0.0.1:8000", "Where an operator's browser reaches Trueup; panels link to its /docs."),
        ],
        annotations=[{
            "name": "Starts",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "enable": True,
            "iconColor": BLUE,
            "expr": f"process_start_time_seconds{{{ONE}}} * 1000",
            "useValueForTime": True,
            "titleFormat": "{{instance}} started",
            "step": "60s",
        }],
        others=[{"type": "dashboards", "tags": ["trueup"], "title": "Trueup", "asDropdown": False, "includeVars": True, "keepTime": True,
                 "icon": "external link", "targetBlank": False, "url": "", "tooltip": ""}])
