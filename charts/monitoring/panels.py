"""Boards of Grafana, as data: rows of panels that ask questions. Knows nothing of Watchbill's metrics."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

WIDTH: Final = 24
"""Columns of a board, as Grafana has them."""
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_SCHEMA: Final = 41  # of Grafana 11.6; a later one converts it when it loads the board
_TAG: Final = "watchbill"

Kind = Literal["timeseries", "stat", "table"]


@dataclass(frozen=True)
class Query:
    """A question to Prometheus. `legend` names each series that comes back, as `{{label}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One question and its answer."""

    title: str
    """The question."""
    queries: Sequence[Query]
    unit: str
    """Unit of the values, as Grafana names it: s, percentunit, bytes, reqps (a rate), short (a count)."""
    about: str = ""
    """One sentence on how to read the answer."""
    kind: Kind = "timeseries"
    width: int = 8
    stacked: bool = False
    limits: tuple[float, ...] = ()
    """The values from which it is orange, and from which it is red."""
    alerts: tuple[str, ...] = ()
    """Alerts on the same figures: the panel links to their runbooks."""
    to_crew: bool = False
    """Each series is one crew's, and links to the board of that crew."""

    @property
    def height(self) -> int:
        return 4 if self.kind == "stat" else 8


@dataclass(frozen=True)
class Row:
    """Panels side by side, below a heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """A choice above the board. `values`: the query for what can be chosen."""

    name: str
    label: str
    values: str
    many: bool = False
    """Several values can be chosen; all of them are at first."""


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    about: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = field(default_factory=tuple)

    def panels(self) -> Iterator[Panel]:
        """Returns all panels, in reading order."""
        for row in self.rows:
            yield from row.panels


def render(board: Board, runbooks: str) -> dict[str, Any]:
    """Returns the dashboard as Grafana loads it. `runbooks`: URL of the folder of the runbooks."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.about,
        "tags": [_TAG],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [
            {
                "title": "Watchbill",
                "type": "dashboards",
                "tags": [_TAG],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "The other boards",
                "url": "",
            }
        ],
        "templating": {"list": list(_variables(board.variables, runbooks))},
        "panels": list(_placed(board.rows)),
    }


def _variables(own: Sequence[Variable], runbooks: str) -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}
    for variable in own:
        found = {
            "name": variable.name,
            "label": variable.label,
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": variable.values, "refId": "values"},
            "refresh": 2,  # whenever the time range changes
            "sort": 1,
            "hide": 0,
            "multi": variable.many,
            "includeAll": variable.many,
        }
        if variable.many:
            found |= {"allValue": ".*", "current": {"text": "All", "value": "$__all", "selected": True}}
        yield found
    yield {"name": "runbooks", "type": "constant", "query": runbooks, "hide": 2, "skipUrlSync": True}


def _placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        top += 1
        left, height = 0, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                top, left, height = top + height, 0, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": _steps(panel.limits)},
    }
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 40 if panel.stacked else 10,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.limits else "off"},
        }
    if panel.to_crew:
        defaults["links"] = [{"title": "The crew's board", "url": _TO_CREW, "targetBlank": False}]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "targets": [_target(panel, letter, query) for letter, query in zip(_LETTERS, panel.queries, strict=False)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "links": [
            {"title": f"Runbook: {name}", "url": f"${{runbooks}}/{name}.md", "targetBlank": True}
            for name in panel.alerts
        ],
        **({"transformations": _AS_TABLE} if panel.kind == "table" else {}),
    }


_LETTERS: Final = string.ascii_uppercase
_TO_CREW: Final = (
    "/d/watchbill-crew?var-namespace=${__field.labels.namespace}&var-crew=${__field.labels.crew}&${__url_time_range}"
)
_AS_TABLE: Final = [
    {"id": "labelsToFields", "options": {"mode": "columns"}},
    {"id": "merge", "options": {}},
    {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}},
]
_OPTIONS: Final[Mapping[Kind, Mapping[str, Any]]] = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}


def _steps(limits: tuple[float, ...]) -> list[dict[str, Any]]:
    colors = ("orange", "red")[-len(limits) :] if limits else ()
    return [
        {"color": "green", "value": None},
        *({"color": color, "value": limit} for color, limit in zip(colors, limits, strict=True)),
    ]


def _target(panel: Panel, letter: str, query: Query) -> dict[str, Any]:
    found: dict[str, Any] = {"refId": letter, "datasource": _SOURCE, "expr": query.expr}
    if query.legend:
        found["legendFormat"] = query.legend
    if panel.kind == "timeseries":
        return {**found, "range": True}
    return {**found, "instant": True, "range": False, "format": "table" if panel.kind == "table" else "time_series"}
