"""Panels, variables and links, as Grafana's JSON has them. Nothing here knows what Trueup measures."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "text"
WIDTH = 24


def query(expr, legend="__auto", *, table=False, instant=False):
    """One query of a panel; `table` asks for the last value as rows."""
    target = {"datasource": DATASOURCE, "expr": " ".join(expr.split()), "legendFormat": legend, "range": not (table or instant)}
    if table or instant:
        target["instant"] = True
    if table:
        target["format"] = "table"
    return target


def quantiles(histogram, by="", what=(0.5, 0.95, 0.99), legend=""):
    """One query for each quantile of a histogram's rate."""
    group = ", ".join(filter(None, ["le", by]))
    rate = f"sum by ({group}) (rate({histogram}[$__rate_interval]))"
    return [query(f"histogram_quantile({q}, {rate})", f"{legend} p{q * 100:g}".strip()) for q in what]


def steps(*pairs, first=GREEN):
    """Thresholds: the colour of everything below the first value, then (value, colour) upwards."""
    return [{"color": first, "value": None}] + [{"color": colour, "value": value} for value, colour in pairs]


class Panel:
    """One panel: its width in 24ths, its height, and its JSON without id and place."""

    def __init__(self, kind, title, targets, width, height, *, about, unit, thresholds=None, links=(), options=None, custom=None,
                 defaults=None, overrides=(), transformations=()):
        for index, target in enumerate(targets):
            target["refId"] = chr(ord("A") + index)
        field = {"unit": unit, "custom": custom or {}, "thresholds": {"mode": "absolute", "steps": thresholds or steps()}}
        field.update(defaults or {})
        self.width, self.height = width, height
        self.json = {
            "type": kind,
            "title": title,
            "description": about,
            "datasource": DATASOURCE,
            "targets": targets,
            "fieldConfig": {"defaults": field, "overrides": list(overrides)},
            "options": options or {},
            "links": list(links),
        }
        if transformations:
            self.json["transformations"] = list(transformations)


def series(title, targets, *, about, unit="short", width=8, height=8, thresholds=None, stack=False, links=(), legend="list", bars=False,
           least=0, log=False):
    """Lines over time. Thresholds are drawn as dashed lines."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if bars else 20 if stack else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    defaults = {} if log or least is None else {"min": least}
    options = {
        "legend": {"displayMode": legend, "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"] if legend == "table" else []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, targets, width, height, about=about, unit=unit, thresholds=thresholds, links=links, options=options,
                 custom=custom, defaults=defaults)


def stat(title, expr, *, about, unit="short", width=4, height=4, thresholds=None, links=(), decimals=None, words=None, legend="__auto",
         sparkline=True, none="none"):
    """One figure. `words` says in words what a value means; `none` what is shown where there is nothing."""
    defaults = {"noValue": none}
    if decimals is not None:
        defaults["decimals"] = decimals
    if words:
        defaults["mappings"] = [{"type": "value", "options": {str(value): {"text": text, "color": colour, "index": index}
                                                              for index, (value, text, colour) in enumerate(words)}}]
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area" if sparkline else "none",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
    }
    return Panel("stat", title, [query(expr, legend)], width, height, about=about, unit=unit, thresholds=thresholds, links=links,
                 options=options, defaults=defaults)


def timeline(title, targets, *, about, width=12, height=8, words, links=()):
    """States over time, a line for each series."""
    defaults = {"mappings": [{"type": "value", "options": {str(value): {"text": text, "color": colour, "index": index}
                                                           for index, (value, text, colour) in enumerate(words)}}]}
    options = {"mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.8,
               "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "single", "sort": "none"}}
    return Panel("state-timeline", title, targets, width, height, about=about, unit="none", links=links, options=options, defaults=defaults,
                 custom={"fillOpacity": 80, "lineWidth": 0})


def table(title, columns, *, about, join, width=24, height=9, links=(), hide=()):
    """Rows by the label `join`. Columns are (heading, query, unit, thresholds, words)."""
    targets, names, overrides = [], {}, []
    for index, (heading, expr, unit, thresholds, words) in enumerate(columns):
        targets.append(query(expr, table=True))
        names[f"Value #{chr(ord('A') + index)}"] = heading
        properties = [{"id": "unit", "value": unit}]
        if thresholds:
            properties += [{"id": "thresholds", "value": {"mode": "absolute", "steps": thresholds}},
                           {"id": "custom.cellOptions", "value": {"type": "color-text"}}]
        if words:
            properties.append({"id": "mappings", "value": [{"type": "value", "options": {
                str(value): {"text": text, "color": colour, "index": place} for place, (value, text, colour) in enumerate(words)}}]})
            properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
        overrides.append({"matcher": {"id": "byName", "options": heading}, "properties": properties})
    transformations = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {name: True for name in ("Time", *hide)}, "renameByName": names,
                                       "indexByName": {join: 0}}},
    ]
    return Panel("table", title, targets, width, height, about=about, unit="short", links=links, overrides=overrides,
                 transformations=transformations, options={"showHeader": True, "cellHeight": "sm"}, custom={"align": "auto", "filterable": False})


def row(title):
    """A heading; what follows belongs to it."""
    return title


def placed(content):
    """Gives every panel its id and its place: from left to right, and on below where a line is full."""
    panels, x, y, line = [], 0, 0, 0
    for number, item in enumerate(content, start=1):
        if isinstance(item, str):
            y += line
            panels.append({"id": number, "type": "row", "title": item, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}, "panels": []})
            x, y, line = 0, y + 1, 0
            continue
        if x + item.width > WIDTH:
            x, y, line = 0, y + line, 0
        panels.append({"id": number, **item.json, "gridPos": {"x": x, "y": y, "w": item.width, "h": item.height}})
        x, line = x + item.width, max(line, item.height)
    return panels


def variable_datasource():
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0,
            "includeAll": False, "multi": False, "refresh": 1, "regex": "", "options": []}


def variable_values(name, label, metric, matchers, *, everything):
    """The values that a label has in a metric."""
    asked = f"label_values({metric}{matchers}, {name})"
    variable = {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "definition": asked,
                "query": {"query": asked, "refId": "StandardVariableQuery"}, "refresh": 2, "sort": 1, "hide": 0, "multi": everything,
                "includeAll": everything, "options": [], "regex": "", "current": {}}
    if everything:
        variable["current"] = {"text": ["All"], "value": ["$__all"], "selected": True}
        variable["allValue"] = ".*"
    return variable


def variable_text(name, label, value, about):
    return {"name": name, "label": label, "description": about, "type": "textbox", "query": value, "hide": 0,
            "current": {"text": value, "value": value, "selected": True}, "options": [{"text": value, "value": value, "selected": True}]}


def dashboard(uid, title, about, tags, content, *, variables, annotations, others):
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": tags,
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "timezone": "utc",
        "templating": {"list": variables},
        "annotations": {"list": annotations},
        "links": others,
        "panels": placed(content),
    }
